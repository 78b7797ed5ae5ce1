//! What the SDK takes from the environment: credentials, endpoints, attempts. A process cannot safely change its own
//! environment, so each case runs this program again as a child that makes one EC2 call.

#[path = "../src/testing.rs"]
#[allow(dead_code, reason = "shared with the crate's own tests")]
mod testing;

use std::process::{Command, ExitCode};

use reservoir_cloud::imds::ImdsConfig;
use reservoir_cloud::{AwsCloud, Cloud, CloudConfig};
use reservoir_core::cloud::Request;
use testing::{Reply, Seen, Server, example_metadata};

/// The child's setting of `AWS_EC2_ENDPOINT`, which the daemon and not the SDK reads.
const EC2_ENDPOINT: &str = "TEST_EC2_ENDPOINT";
const IMDS_ENDPOINT: &str = "TEST_IMDS_ENDPOINT";

struct Case {
    name: &'static str,
    /// `$HERE` stands for the server, `$NOWHERE` for an address where nobody listens,
    /// `$TOKEN_FILE` for a file with a web identity.
    environment: &'static [(&'static str, &'static str)],
    check: fn(&Outcome) -> bool,
}

#[derive(Debug)]
struct Outcome {
    /// What the child said of its call.
    said: String,
    ec2: Vec<Seen>,
    others: Vec<Seen>,
}

impl Outcome {
    /// One successful call, signed by this key.
    fn signed_by(&self, key: &str) -> bool {
        let credential = format!("Credential={key}/");
        let signed = |s: &Seen| s.header("authorization").is_some_and(|a| a.contains(&credential));
        self.said == "done" && self.ec2.len() == 1 && signed(&self.ec2[0])
    }

    fn asked(&self, path: &str, header: Option<(&str, &str)>) -> bool {
        self.others.iter().any(|s| s.path == path && header.is_none_or(|(k, v)| s.header(k) == Some(v)))
    }
}

const STATIC: (&str, &str) = ("AWS_ACCESS_KEY_ID", "AKIASTATIC");
const SECRET: (&str, &str) = ("AWS_SECRET_ACCESS_KEY", "secret");
const CONTAINER: (&str, &str) = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "$HERE/pod-identity");
const CONTAINER_TOKEN: (&str, &str) = ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "pod-token");

const CASES: &[Case] = &[
    Case {
        name: "the instance's role signs where nothing else is set",
        environment: &[(EC2_ENDPOINT, "$HERE")],
        check: |o| o.signed_by("ASIAEXAMPLEEXAMPLE01"),
    },
    Case {
        name: "Pod Identity comes before the instance's role",
        environment: &[(EC2_ENDPOINT, "$HERE"), CONTAINER, CONTAINER_TOKEN],
        check: |o| {
            o.signed_by("ASIAPOD")
                && o.asked("/pod-identity", Some(("authorization", "pod-token")))
                && !o.asked("/latest/meta-data/iam/security-credentials/", None)
        },
    },
    Case {
        name: "a static key comes first",
        environment: &[(EC2_ENDPOINT, "$HERE"), STATIC, SECRET, CONTAINER, CONTAINER_TOKEN],
        check: |o| o.signed_by("AKIASTATIC") && !o.asked("/pod-identity", None),
    },
    Case {
        name: "a web identity is exchanged at STS, before Pod Identity",
        environment: &[
            (EC2_ENDPOINT, "$HERE"),
            ("AWS_ENDPOINT_URL_STS", "$HERE/sts"),
            ("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/node"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "$TOKEN_FILE"),
            CONTAINER,
            CONTAINER_TOKEN,
        ],
        check: |o| {
            let sts = o.others.iter().find(|s| s.path.starts_with("/sts"));
            let form = sts.map(Seen::form).unwrap_or_default();
            o.signed_by("ASIAIRSA") && form.contains(&"WebIdentityToken=jwt".to_owned())
        },
    },
    Case {
        name: "a web identity without its file is an error, not the instance's role",
        environment: &[
            (EC2_ENDPOINT, "$HERE"),
            ("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/node"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/nonexistent/token"),
        ],
        check: |o| o.ec2.is_empty() && o.said.contains("AWS_WEB_IDENTITY_TOKEN_FILE: "),
    },
    Case {
        name: "AWS_ENDPOINT_URL_EC2 redirects",
        environment: &[("AWS_ENDPOINT_URL_EC2", "$HERE"), ("AWS_ENDPOINT_URL", "$NOWHERE"), STATIC, SECRET],
        check: |o| o.signed_by("AKIASTATIC"),
    },
    Case {
        name: "AWS_EC2_ENDPOINT wins over the SDK's variables",
        environment: &[
            (EC2_ENDPOINT, "$HERE"),
            ("AWS_ENDPOINT_URL_EC2", "$NOWHERE"),
            ("AWS_ENDPOINT_URL", "$NOWHERE"),
            STATIC,
            SECRET,
        ],
        check: |o| o.signed_by("AKIASTATIC"),
    },
    Case {
        name: "AWS_REGION does not override the identity document",
        environment: &[(EC2_ENDPOINT, "$HERE"), ("AWS_REGION", "eu-north-1"), STATIC, SECRET],
        check: |o| {
            o.ec2.iter().all(|s| s.header("authorization").is_some_and(|a| a.contains("/us-west-2/ec2/")))
                && o.signed_by("AKIASTATIC")
        },
    },
    Case {
        name: "AWS_MAX_ATTEMPTS limits the attempts",
        environment: &[(EC2_ENDPOINT, "$HERE/fail"), ("AWS_MAX_ATTEMPTS", "2"), STATIC, SECRET],
        check: |o| o.said.contains("500") && o.ec2.len() == 2,
    },
    Case {
        name: "a useless AWS_MAX_ATTEMPTS is named",
        environment: &[(EC2_ENDPOINT, "$HERE"), ("AWS_MAX_ATTEMPTS", "0"), STATIC, SECRET],
        check: |o| o.ec2.is_empty() && o.said.contains("AWS_MAX_ATTEMPTS=\"0\""),
    },
    Case {
        name: "a proxy is not asked for what is on this host",
        environment: &[(EC2_ENDPOINT, "$HERE"), ("HTTP_PROXY", "$NOWHERE"), ("http_proxy", "$NOWHERE")],
        check: |o| o.signed_by("ASIAEXAMPLEEXAMPLE01"),
    },
];

fn script(seen: &Seen) -> Reply {
    match seen.path.as_str() {
        "/" => Reply::ok("<R/>"),
        "/pod-identity" => Reply::ok(
            r#"{"AccessKeyId":"ASIAPOD","SecretAccessKey":"s","Token":"t","Expiration":"2099-01-01T00:00:00Z"}"#,
        ),
        "/sts" | "/sts/" => Reply::ok(
            "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>
               <AccessKeyId>ASIAIRSA</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>
               <Expiration>2099-01-01T00:00:00Z</Expiration>
             </Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
        ),
        _ => Reply::status(500, ""),
    }
}

async fn run(case: &Case) -> Outcome {
    let metadata = example_metadata(&[]);
    let server = Server::start(move |s| if s.path.starts_with("/latest/") { metadata(s) } else { script(s) }).await;
    // Bound and let go again.
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.env_clear().env("HOME", "/nonexistent").env(IMDS_ENDPOINT, &server.url);
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&token, "jwt").unwrap();
    for (name, value) in case.environment {
        let value = value.replace("$HERE", &server.url).replace("$NOWHERE", &format!("http://{nowhere}"));
        child.env(name, value.replace("$TOKEN_FILE", &token.path().to_string_lossy()));
    }
    let output = tokio::task::spawn_blocking(move || child.output()).await.unwrap().unwrap();
    let (others, ec2): (Vec<_>, Vec<_>) = server
        .seen()
        .into_iter()
        .partition(|s| ["/latest/", "/pod-identity", "/sts"].iter().any(|p| s.path.starts_with(p)));
    Outcome { said: String::from_utf8(output.stdout).unwrap(), ec2, others }
}

/// One call, in the environment that the parent made.
async fn child(imds: String) {
    let config = CloudConfig {
        imds: ImdsConfig { endpoint: Some(imds), ..ImdsConfig::default() },
        ec2_endpoint: std::env::var(EC2_ENDPOINT).ok(),
        ..CloudConfig::default()
    };
    let (cloud, _) = match AwsCloud::connect(config).await {
        Ok(connected) => connected,
        Err(error) => return print!("{error}"),
    };
    match cloud.call(Request::DeleteNetworkInterface { eni: "eni-1".to_owned() }).await {
        Ok(_) => print!("done"),
        Err(error) => print!("{error}"),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    if let Ok(imds) = std::env::var(IMDS_ENDPOINT) {
        child(imds).await;
        return ExitCode::SUCCESS;
    }
    let mut failed = 0;
    for case in CASES {
        let outcome = run(case).await;
        let passed = (case.check)(&outcome);
        println!("test {} ... {}", case.name, if passed { "ok" } else { "FAILED" });
        if !passed {
            failed += 1;
            println!("{outcome:#?}");
        }
    }
    println!(
        "\ntest result: {}. {} passed; {failed} failed",
        if failed == 0 { "ok" } else { "FAILED" },
        CASES.len() - failed
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
