//! What the SDK talks through: HTTP/1.1 and 2 over rustls, which loads certificates when a TLS connection is first
//! asked for. A node that reaches EC2 through a plain `http://` endpoint never pays for them.

use std::sync::OnceLock;

use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::{Builder, Connector, ConnectorBuilder};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;

/// One client for all that the SDK does: EC2, and STS or a credentials endpoint where those are used.
#[derive(Debug)]
pub(crate) struct LazyTlsClient {
    plain: SharedHttpClient,
    /// Without a proxy: the credentials endpoints on link-local addresses and on this host.
    direct: SharedHttpClient,
    tls: &'static OnceLock<SharedHttpClient>,
}

/// One set of trusted certificates for the whole process.
static TLS: OnceLock<SharedHttpClient> = OnceLock::new();

impl LazyTlsClient {
    pub(crate) fn new() -> Self {
        Self {
            plain: client(|builder| builder.proxy_config(ProxyConfig::from_env()).build_http()),
            direct: client(|builder| builder.proxy_config(ProxyConfig::disabled()).build_http()),
            tls: &TLS,
        }
    }
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

fn tls_client() -> SharedHttpClient {
    client(|builder| {
        builder.proxy_config(ProxyConfig::from_env()).tls_provider(Provider::Rustls(CryptoMode::Ring)).build()
    })
}

impl HttpClient for LazyTlsClient {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(ByScheme {
            plain: self.plain.http_connector(settings, components),
            direct: self.direct.http_connector(settings, components),
            tls: self.tls,
            settings: settings.clone(),
            components: components.clone(),
        })
    }
}

#[derive(Debug)]
struct ByScheme {
    plain: SharedHttpConnector,
    direct: SharedHttpConnector,
    tls: &'static OnceLock<SharedHttpClient>,
    settings: HttpConnectorSettings,
    components: RuntimeComponents,
}

impl HttpConnector for ByScheme {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let uri = request.uri();
        if uri.starts_with("https:") {
            self.tls.get_or_init(tls_client).http_connector(&self.settings, &self.components).call(request)
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
mod tests {
    use super::is_local;

    #[test]
    fn local_endpoints_are_never_proxied() {
        for local in [
            "http://127.0.0.1:5000/",
            "http://169.254.169.254/latest",
            "http://169.254.170.23/v1/credentials",
            "http://[fd00:ec2::23]/v1/credentials",
            "http://localhost:8080/",
            "http://[::1]/",
        ] {
            assert!(is_local(local), "{local}");
        }
        for remote in ["http://10.0.0.1/", "http://ec2.internal/", "http://[fd00:1::1]/", "http://localhost.example/"] {
            assert!(!is_local(remote), "{remote}");
        }
    }
}
