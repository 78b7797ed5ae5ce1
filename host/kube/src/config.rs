//! Where the API server is, and who we are to it (spec 02 §11.1). Plain data: reading the environment is the daemon's
//! business.

use std::path::{Path, PathBuf};

use http::header::{HeaderValue, USER_AGENT};
use hyper_util::client::proxy::matcher::Matcher;
use kube::Client;
use kube::config::{AuthInfo, Cluster, Config, Context, KubeConfigOptions, Kubeconfig, NamedAuthInfo, NamedCluster};
use kube::config::{KubeconfigError, NamedContext};
use reservoir_core::kube::EniConfigKeys;

/// Where a pod finds its own credentials.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How to reach the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KubeConfig {
    /// `KUBECONFIG`: files, separated by colons. Empty is unset.
    pub kubeconfig: String,
    /// `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`.
    pub service: Option<(String, String)>,
    /// Token and CA of the service account.
    pub service_account: PathBuf,
    /// `HOME`, where `.kube/config` may be.
    pub home: Option<PathBuf>,
    /// `CLUSTER_ENDPOINT`: the server's URL instead of what the above say. Empty is unset (W28).
    pub endpoint: Option<String>,
    pub proxies: Proxies,
    /// `argv[0]` and `VPC_CNI_VERSION`, for the user agent.
    pub program: String,
    pub version: String,
    /// `MY_NODE_NAME`; empty is unset.
    pub node_name: String,
    /// `MY_POD_NAME`; empty is unset.
    pub pod_name: String,
    pub eni_config_keys: EniConfigKeys,
}

/// `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`; each may be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    pub https: String,
    pub http: String,
    pub none: String,
}

impl Default for KubeConfig {
    fn default() -> Self {
        Self {
            kubeconfig: String::new(),
            service: None,
            service_account: SERVICE_ACCOUNT.into(),
            home: None,
            endpoint: None,
            proxies: Proxies::default(),
            program: "reservoir".to_owned(),
            version: String::new(),
            node_name: String::new(),
            pod_name: String::new(),
            eni_config_keys: EniConfigKeys::default(),
        }
    }
}

/// Why there is no client. Nothing will change without another configuration, or another file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Nobody told where the API server is: a daemon outside a cluster.
    #[error(
        "there is no API server to ask: none of KUBECONFIG, KUBERNETES_SERVICE_HOST with KUBERNETES_SERVICE_PORT, \
         CLUSTER_ENDPOINT and $HOME/.kube/config tells where it is"
    )]
    Nowhere,
    /// CLUSTER_ENDPOINT alone.
    #[error(
        "CLUSTER_ENDPOINT names the API server, but there are no credentials for it: neither a service account's token in \
         {0} nor a kubeconfig (KUBECONFIG, $HOME/.kube/config)"
    )]
    NoCredentials(PathBuf),
    #[error("{variable}={value:?} is not the URL of an API server: {reason}; give one such as https://10.100.0.1:443")]
    Url { variable: &'static str, value: String, reason: String },
    #[error("{from}: {source}")]
    Kubeconfig { from: String, source: Box<KubeconfigError> },
    #[error("the client for {url} cannot be made: {reason}")]
    Client { url: String, reason: String },
}

/// Where the rest is taken from, the server's URL aside.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    Files(Vec<PathBuf>),
    /// With the URL that the environment tells, if it does.
    ServiceAccount(Option<String>),
}

impl KubeConfig {
    fn source(&self) -> Result<Source, ConfigError> {
        if !self.kubeconfig.is_empty() {
            return Ok(Source::Files(std::env::split_paths(&self.kubeconfig).collect()));
        }
        if let Some((host, port)) = &self.service {
            let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
            return Ok(Source::ServiceAccount(Some(format!("https://{host}:{port}"))));
        }
        if self.endpoint().is_some() && self.service_account.join("token").exists() {
            return Ok(Source::ServiceAccount(None));
        }
        let home = self.home.as_ref().map(|home| home.join(".kube/config")).filter(|path| path.exists());
        home.map(|path| Source::Files(vec![path])).ok_or_else(|| match self.endpoint() {
            Some(_) => ConfigError::NoCredentials(self.service_account.clone()),
            None => ConfigError::Nowhere,
        })
    }

    fn endpoint(&self) -> Option<String> {
        let endpoint = self.endpoint.as_deref().filter(|e| !e.is_empty())?;
        Some(if endpoint.contains("://") { endpoint.to_owned() } else { format!("https://{endpoint}") })
    }

    /// Whether `CLUSTER_ENDPOINT` is a URL, if it is set. What the other places say is known when their files are read.
    ///
    /// # Errors
    /// It is none: why.
    pub fn check_endpoint(&self) -> Result<(), String> {
        let Some(url) = self.endpoint() else { return Ok(()) };
        let wrong = match url.parse::<http::Uri>() {
            Ok(url) if url.host().is_some_and(|host| !host.is_empty()) => return Ok(()),
            Ok(_) => "it has no host".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(format!("not the URL of an API server: {wrong}; give one such as https://10.100.0.1:443"))
    }

    /// The client; nothing is sent yet.
    pub(crate) async fn client(&self) -> Result<Client, ConfigError> {
        let (from, mut kubeconfig, ca) = match self.source()? {
            Source::Files(paths) => (self.origin(&paths), read_files(&paths)?, None),
            Source::ServiceAccount(url) => {
                let ca = self.service_account.join("ca.crt");
                let kubeconfig = of_service_account(&self.service_account, url);
                (self.service_account.display().to_string(), kubeconfig, ca.exists().then_some(ca))
            }
        };
        let mut proxied_by_file = false;
        for cluster in kubeconfig.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
            if let Some(endpoint) = self.endpoint() {
                cluster.server = Some(endpoint);
            }
            proxied_by_file |= cluster.proxy_url.as_ref().is_some_and(|url| !url.is_empty());
        }
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        let mut config = config.map_err(|source| self.refused(&from, source))?;
        if config.cluster_url.host().is_none() {
            return Err(self.no_url(config.cluster_url.to_string(), "it has no host"));
        }
        // A service account's certificates are read again now and then: they are rotated.
        config.root_cert_file = ca;
        if !proxied_by_file {
            config.proxy_url = self.proxies.of(&config.cluster_url);
        }
        // A 503 is told, not tried again for seconds: whoever asks knows better when to come again.
        config.default_retry = false;
        if let Ok(agent) = HeaderValue::from_str(&format!("{}-{}", self.program, self.version)) {
            config.headers.push((USER_AGENT, agent));
        }
        let url = config.cluster_url.to_string();
        Client::try_from(config).map_err(|e| ConfigError::Client { url, reason: e.to_string() })
    }

    fn origin(&self, paths: &[PathBuf]) -> String {
        let paths: Vec<_> = paths.iter().map(|p| p.display().to_string()).collect();
        if self.kubeconfig.is_empty() { paths.join(":") } else { format!("KUBECONFIG={}", paths.join(":")) }
    }

    fn refused(&self, from: &str, source: KubeconfigError) -> ConfigError {
        match source {
            KubeconfigError::ParseClusterUrl(reason) if self.endpoint().is_some() => {
                self.no_url(self.endpoint.clone().unwrap_or_default(), &reason.to_string())
            }
            source => ConfigError::Kubeconfig { from: from.to_owned(), source: Box::new(source) },
        }
    }

    fn no_url(&self, value: String, reason: &str) -> ConfigError {
        let variable = match self.endpoint() {
            Some(_) => "CLUSTER_ENDPOINT",
            None if self.kubeconfig.is_empty() => "KUBERNETES_SERVICE_HOST",
            None => "server",
        };
        ConfigError::Url { variable, value, reason: reason.to_owned() }
    }
}

/// The first file that says something wins, as with every other client.
fn read_files(paths: &[PathBuf]) -> Result<Kubeconfig, ConfigError> {
    let mut merged = Kubeconfig::default();
    for path in paths {
        let read = Kubeconfig::read_from(path).and_then(|next| merged.clone().merge(next));
        merged = read
            .map_err(|source| ConfigError::Kubeconfig { from: path.display().to_string(), source: Box::new(source) })?;
    }
    Ok(merged)
}

/// What a kubeconfig of a pod's own credentials would say.
fn of_service_account(dir: &Path, url: Option<String>) -> Kubeconfig {
    const NAME: &str = "in-cluster";
    let ca = dir.join("ca.crt");
    let cluster = Cluster {
        server: url,
        certificate_authority: ca.exists().then(|| ca.display().to_string()),
        ..Cluster::default()
    };
    let user = AuthInfo { token_file: Some(dir.join("token").display().to_string()), ..AuthInfo::default() };
    let context = Context { cluster: NAME.to_owned(), user: Some(NAME.to_owned()), ..Context::default() };
    Kubeconfig {
        clusters: vec![NamedCluster { name: NAME.to_owned(), cluster: Some(cluster), ..NamedCluster::default() }],
        auth_infos: vec![NamedAuthInfo { name: NAME.to_owned(), auth_info: Some(user), ..NamedAuthInfo::default() }],
        contexts: vec![NamedContext { name: NAME.to_owned(), context: Some(context), ..NamedContext::default() }],
        current_context: Some(NAME.to_owned()),
        ..Kubeconfig::default()
    }
}

impl Proxies {
    /// The proxy for a server, if there is one and the server is not excepted. This host is reached without.
    fn of(&self, server: &http::Uri) -> Option<http::Uri> {
        let host = server.host()?.trim_matches(['[', ']']);
        let here = host.eq_ignore_ascii_case("localhost")
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        let matcher =
            Matcher::builder().https(self.https.as_str()).http(self.http.as_str()).no(self.none.as_str()).build();
        if here || matcher.intercept(server).is_none() {
            return None;
        }
        // As written: it may name a user.
        let proxy = if server.scheme_str() == Some("https") { &self.https } else { &self.http };
        let proxy = if proxy.contains("://") { proxy.clone() } else { format!("http://{proxy}") };
        proxy.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> KubeConfig {
        KubeConfig { service: Some(("10.100.0.1".into(), "443".into())), ..KubeConfig::default() }
    }

    #[test]
    fn the_file_of_the_variable_comes_first_then_the_service_account_then_home() {
        // Spec 02 §11.1.
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".kube")).unwrap();
        std::fs::write(home.path().join(".kube/config"), "").unwrap();
        let config = KubeConfig { home: Some(home.path().to_owned()), ..service() };
        let with_file = KubeConfig { kubeconfig: "/a:/b".into(), ..config.clone() };
        assert_eq!(with_file.source().unwrap(), Source::Files(vec!["/a".into(), "/b".into()]));
        assert_eq!(config.source().unwrap(), Source::ServiceAccount(Some("https://10.100.0.1:443".into())));
        let outside = KubeConfig { service: None, ..config };
        assert_eq!(outside.source().unwrap(), Source::Files(vec![home.path().join(".kube/config")]));
        let nothing = KubeConfig { home: None, ..outside };
        assert!(matches!(nothing.source(), Err(ConfigError::Nowhere)));
        let no_token = KubeConfig { endpoint: Some("https://e".into()), ..nothing.clone() };
        assert!(matches!(no_token.source(), Err(ConfigError::NoCredentials(_))));
        let v6 = KubeConfig { service: Some(("fd00::1".into(), "443".into())), ..nothing };
        assert_eq!(v6.source().unwrap(), Source::ServiceAccount(Some("https://[fd00::1]:443".into())));
    }

    #[test]
    fn an_empty_endpoint_is_an_unset_one() {
        // W28.
        let endpoint = |e: &str| KubeConfig { endpoint: Some(e.to_owned()), ..service() }.endpoint();
        assert_eq!(endpoint(""), None);
        assert_eq!(endpoint("https://x.eks.amazonaws.com").as_deref(), Some("https://x.eks.amazonaws.com"));
        assert_eq!(endpoint("x.eks.amazonaws.com").as_deref(), Some("https://x.eks.amazonaws.com"));
    }

    #[test]
    fn proxies_are_for_servers_that_are_not_excepted_and_not_here() {
        let proxies = Proxies {
            https: "http://user:secret@proxy:3128".into(),
            http: "proxy:80".into(),
            none: "10.0.0.0/8,.internal".into(),
        };
        let of = |url: &str| proxies.of(&url.parse().unwrap()).map(|u| u.to_string());
        assert_eq!(of("https://x.eks.amazonaws.com").as_deref(), Some("http://user:secret@proxy:3128/"));
        assert_eq!(of("http://x.example").as_deref(), Some("http://proxy:80/"));
        assert_eq!(of("https://10.100.0.1:443"), None);
        assert_eq!(of("https://api.internal"), None);
        assert_eq!(of("http://127.0.0.1:8001"), None);
        assert_eq!(of("https://[::1]:6443"), None);
        assert_eq!(Proxies::default().of(&"https://x.example".parse().unwrap()), None);
    }
}
