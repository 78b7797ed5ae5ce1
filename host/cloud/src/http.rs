//! What the SDK talks through: HTTP/1.1 and 2 over rustls, which loads certificates when a TLS connection is first
//! asked for. A node that reaches EC2 through a plain `http://` endpoint never pays for them.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, Connector, ConnectorBuilder};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::config::ConfigError;

/// One client for all that the SDK does: EC2, and STS or a credentials endpoint where those are used.
#[derive(Debug)]
pub(crate) struct LazyTlsClient {
    plain: SharedHttpClient,
    /// Without a proxy: the credentials endpoints on link-local addresses and on this host.
    direct: SharedHttpClient,
    tls: Arc<LazyTls>,
}

#[derive(Debug)]
struct LazyTls {
    client: OnceLock<SharedHttpClient>,
    /// PEM certificates in place of the system's.
    bundle: Option<Vec<u8>>,
}

impl LazyTlsClient {
    /// Trusts the certificates in `ca_bundle`, or else the system's.
    pub(crate) fn new(ca_bundle: Option<&Path>) -> Result<Self, ConfigError> {
        let bundle = ca_bundle.map(read_bundle).transpose()?;
        Ok(Self {
            plain: client(|builder| builder.proxy_config(ProxyConfig::from_env()).build_http()),
            direct: client(|builder| builder.proxy_config(ProxyConfig::disabled()).build_http()),
            tls: Arc::new(LazyTls { client: OnceLock::new(), bundle }),
        })
    }
}

impl LazyTls {
    fn client(&self) -> &SharedHttpClient {
        self.client.get_or_init(|| {
            let trusted = match &self.bundle {
                Some(bundle) => TrustStore::empty().with_pem_certificate(bundle.as_slice()),
                None => TrustStore::default(),
            };
            client(move |builder| {
                let builder = builder.proxy_config(ProxyConfig::from_env());
                let mut builder = builder.tls_provider(Provider::Rustls(CryptoMode::Ring));
                // Nothing is fallible in it for rustls; the default would be to trust the system's certificates.
                if let Ok(context) = TlsContext::builder().with_trust_store(trusted.clone()).build() {
                    builder.set_tls_context(context);
                }
                builder.build()
            })
        })
    }
}

/// Checks what the TLS library would not survive: it takes each certificate for well-formed.
pub(crate) fn read_bundle(path: &Path) -> Result<Vec<u8>, ConfigError> {
    let refuse = |reason: String| ConfigError::CaBundle { path: path.to_owned(), reason };
    let bytes = std::fs::read(path).map_err(|e| refuse(e.to_string()))?;
    let mut trusted = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.map_err(|e| refuse(e.to_string()))?;
        trusted.add(certificate).map_err(|e| refuse(e.to_string()))?;
    }
    if trusted.is_empty() {
        return Err(refuse("it has no CERTIFICATE section".to_owned()));
    }
    Ok(bytes)
}

/// A client whose connections are made by `build`; it keeps one connector per set of time-outs.
fn client(build: impl Fn(ConnectorBuilder) -> Connector + Send + Sync + 'static) -> SharedHttpClient {
    Builder::new().build_with_connector_fn(move |settings, components| {
        let mut builder = Connector::builder();
        builder.set_connector_settings(settings.cloned());
        builder.set_sleep_impl(components.and_then(RuntimeComponents::sleep_impl));
        build(builder)
    })
}

impl HttpClient for LazyTlsClient {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(ByScheme {
            plain: self.plain.http_connector(settings, components),
            direct: self.direct.http_connector(settings, components),
            tls: Arc::clone(&self.tls),
            settings: settings.clone(),
            components: components.clone(),
        })
    }
}

#[derive(Debug)]
struct ByScheme {
    plain: SharedHttpConnector,
    direct: SharedHttpConnector,
    tls: Arc<LazyTls>,
    settings: HttpConnectorSettings,
    components: RuntimeComponents,
}

impl HttpConnector for ByScheme {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let uri = request.uri();
        if uri.starts_with("https:") {
            self.tls.client().http_connector(&self.settings, &self.components).call(request)
        } else if is_local(uri) {
            self.direct.call(request)
        } else {
            self.plain.call(request)
        }
    }
}

/// Whether a proxy could never serve this URL: loopback and link-local addresses, EKS Pod Identity's and ECS's
/// endpoints among them.
fn is_local(uri: &str) -> bool {
    let Ok(uri) = uri.parse::<hyper::Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    match host.parse() {
        Ok(std::net::IpAddr::V4(a)) => a.is_loopback() || a.is_link_local(),
        // fd00:ec2::/32 holds the IPv6 endpoints of IMDS and of Pod Identity.
        Ok(std::net::IpAddr::V6(a)) => {
            a.is_loopback() || a.is_unicast_link_local() || a.segments()[..2] == [0xfd00, 0x0ec2]
        }
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests;
