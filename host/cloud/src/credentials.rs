//! Whose signature the calls carry (spec 03 §1.6): the SDK's default chain in the reference's order, its last link the
//! instance's role through our own metadata client.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::credentials::EnvironmentVariableCredentialsProvider;
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_smithy_types::date_time::{DateTime, Format};

use crate::imds::{Imds, ImdsError, chain as describe};

const ROLES: &str = "/latest/meta-data/iam/security-credentials/";

/// Static environment, web identity (IRSA), profile files, container endpoint (EKS Pod Identity), instance role. A link
/// that is not configured passes on to the next; one that is and fails ends the chain.
pub(crate) fn chain(config: &ProviderConfig, imds: Arc<Imds>) -> CredentialsProviderChain {
    let environment = EnvironmentVariableCredentialsProvider::new();
    let identity = WebIdentityTokenCredentialsProvider::builder().configure(config).build();
    let profile = ProfileFileCredentialsProvider::builder().configure(config).build();
    let container = EcsCredentialsProvider::builder().configure(config).build();
    let role = InstanceRole { imds, last: Mutex::default() };
    CredentialsProviderChain::first_try("Environment", Named("AWS_ACCESS_KEY_ID", environment))
        .or_else("WebIdentityToken", Named("web identity of AWS_ROLE_ARN, AWS_WEB_IDENTITY_TOKEN_FILE", identity))
        .or_else("Profile", Named("profile files", profile))
        .or_else("Container", Named("container credentials of AWS_CONTAINER_CREDENTIALS_*", container))
        .or_else("InstanceRole", Named("role of the instance", role))
}

/// Says in its errors where the credentials should have come from; the SDK's own do not.
#[derive(Debug)]
struct Named<P>(&'static str, P);

impl<P: ProvideCredentials> ProvideCredentials for Named<P> {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            self.1.provide_credentials().await.map_err(|error| match error {
                CredentialsError::CredentialsNotLoaded(_) => error,
                error => CredentialsError::provider_error(format!("{}: {}", self.0, describe(&error))),
            })
        })
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        self.1.fallback_on_interrupt()
    }
}

/// The role of the instance profile. While the metadata service gives no answer, the last credentials stay in use:
/// EC2 accepts them for some time beyond their end, and a refusal tells no less than their absence.
#[derive(Debug)]
struct InstanceRole {
    imds: Arc<Imds>,
    last: Mutex<Option<Credentials>>,
}

impl InstanceRole {
    async fn fetch(&self) -> Result<Credentials, CredentialsError> {
        let roles = match self.imds.get(ROLES).await {
            Err(error) if error.is_not_found() || error == ImdsError::Disabled => {
                return Err(CredentialsError::not_loaded(error));
            }
            answer => answer.map_err(CredentialsError::provider_error)?,
        };
        let role = roles.lines().next().unwrap_or_default().trim();
        if role.is_empty() {
            return Err(CredentialsError::not_loaded("the instance has no role"));
        }
        let path = format!("{ROLES}{role}");
        let text = self.imds.get(&path).await.map_err(CredentialsError::provider_error)?;
        parse(&text).map_err(|reason| CredentialsError::provider_error(format!("{path}: {reason}")))
    }

    async fn provide(&self) -> Result<Credentials, CredentialsError> {
        let fetched = self.fetch().await;
        if let Ok(credentials) = &fetched {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(credentials.clone());
        }
        let error = match fetched {
            Err(error @ CredentialsError::ProviderError(_)) => error,
            done => return done,
        };
        self.fallback_on_interrupt().ok_or(error)
    }
}

impl ProvideCredentials for InstanceRole {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.provide())
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The role's JSON document. Nothing of it may get into an error text.
fn parse(text: &str) -> Result<Credentials, String> {
    let document: serde_json::Value = serde_json::from_str(text).map_err(|_| "not JSON".to_owned())?;
    let code = document["Code"].as_str().unwrap_or("Success");
    if code != "Success" {
        let message = document["Message"].as_str().unwrap_or_default();
        return Err(format!("the service answered code {code:?} {message}"));
    }
    let field = |name: &str| {
        document[name].as_str().filter(|v| !v.is_empty()).ok_or_else(|| format!("the answer has no {name}"))
    };
    let expiration = field("Expiration")?;
    let expiry = DateTime::from_str(expiration, Format::DateTime)
        .ok()
        .and_then(|time| SystemTime::try_from(time).ok())
        .ok_or_else(|| format!("Expiration {expiration:?} is not a time such as 2030-01-31T12:00:00Z"))?;
    Ok(Credentials::new(
        field("AccessKeyId")?,
        field("SecretAccessKey")?,
        Some(field("Token")?.to_owned()),
        Some(expiry),
        "InstanceRole",
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::imds::ImdsConfig;
    use crate::testing::{Reply, Server, example_metadata};

    const DOCUMENT: &str = "/latest/meta-data/iam/security-credentials/demo-node-role";

    fn role(server: &Server) -> InstanceRole {
        let config = ImdsConfig { endpoint: Some(server.url.clone()), ..ImdsConfig::default() };
        InstanceRole { imds: Arc::new(Imds::new(&config).unwrap()), last: Mutex::default() }
    }

    #[tokio::test]
    async fn reads_the_role_and_keeps_it_while_the_service_is_away() {
        let (away, script) = (Arc::new(AtomicBool::new(false)), example_metadata(&[]));
        let gone = Arc::clone(&away);
        let server = Server::start(move |seen| match gone.load(Ordering::Relaxed) {
            true => Reply::status(429, ""),
            false => script(seen),
        })
        .await;
        let role = role(&server);
        let credentials = role.provide_credentials().await.unwrap();
        assert_eq!(credentials.access_key_id(), "ASIAEXAMPLEEXAMPLE01");
        assert_eq!(credentials.session_token(), Some("EXAMPLE-NOT-A-REAL-SESSION-TOKEN"));
        assert!(credentials.expiry().is_some());
        away.store(true, Ordering::Relaxed);
        assert_eq!(role.provide_credentials().await.unwrap(), credentials);
    }

    #[tokio::test]
    async fn an_instance_without_role_leaves_the_chain_to_say_so() {
        let roles = "/latest/meta-data/iam/security-credentials/";
        for changes in [[(roles, None)], [(roles, Some(""))]] {
            let server = Server::start(example_metadata(&changes)).await;
            let error = role(&server).provide_credentials().await.unwrap_err();
            assert!(matches!(error, CredentialsError::CredentialsNotLoaded(_)), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_broken_document_is_named_and_not_quoted() {
        let keys = r#""AccessKeyId":"A","SecretAccessKey":"SECRET","Token":"T""#;
        for (document, reason) in [
            ("SECRET".to_owned(), "not JSON"),
            (r#"{"Code":"Failed","SecretAccessKey":"SECRET"}"#.to_owned(), "\"Failed\""),
            (format!("{{{keys}}}"), "no Expiration"),
            (format!(r#"{{{keys},"Expiration":"soon"}}"#), "\"soon\""),
            (r#"{"Expiration":"2099-01-01T00:00:00Z","SecretAccessKey":"SECRET"}"#.to_owned(), "no AccessKeyId"),
        ] {
            let server = Server::start(example_metadata(&[(DOCUMENT, Some(&document))])).await;
            let error = role(&server).provide_credentials().await.unwrap_err();
            let text = describe(&error);
            assert!(text.contains(DOCUMENT) && text.contains(reason) && !text.contains("SECRET"), "{text}");
        }
    }
}
