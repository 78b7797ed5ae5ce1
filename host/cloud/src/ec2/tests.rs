//! Against a scripted EC2.

mod calls;
mod failures;

use reservoir_core::cloud::{
    Answer, CloudError, ConnectionTracking, CreateInterface, ErrorKind, Interface, InterfaceAttachment, Request,
};
use reservoir_core::policy::Unit;

use crate::imds::ImdsConfig;
use crate::testing::{Reply, Seen, Server, example_metadata};
use crate::{AwsCloud, Cloud, CloudConfig};

const ENI: &str = "eni-0a9182736455463f2";
const INSTANCE: &str = "i-0c3f1a9d27b6e4851";

/// An AWS whose EC2 answers with `ec2`, and a client of it.
async fn aws(ec2: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> (Server, AwsCloud) {
    let metadata = example_metadata(&[]);
    let script = move |seen: &Seen| {
        if seen.path.starts_with("/latest/") {
            return metadata(seen);
        }
        // The tests write <R> for the root element, which bears the call's name.
        let root = seen.form().iter().find_map(|f| f.strip_prefix("Action=").map(|a| format!("{a}Response")));
        match ec2(seen) {
            Reply::Answer { status, headers, body } => {
                let root = root.unwrap_or_default();
                let body = body.replace("<R>", &format!("<{root}>")).replace("</R>", &format!("</{root}>"));
                Reply::Answer { status, headers, body }
            }
            other => other,
        }
    };
    let server = Server::start(script).await;
    let config = CloudConfig {
        imds: ImdsConfig { endpoint: Some(server.url.clone()), ..ImdsConfig::default() },
        ec2_endpoint: Some(server.url.clone()),
        version: "v1.23.1".to_owned(),
        ..CloudConfig::default()
    };
    let (cloud, instance) = AwsCloud::connect(config).await.unwrap();
    assert_eq!(instance.instance_id, INSTANCE);
    (server, cloud)
}

fn ec2_calls(server: &Server) -> Vec<Seen> {
    server.seen().into_iter().filter(|s| s.path == "/").collect()
}

/// The one call that `request` makes must carry exactly `form`; its answer is read from `xml`.
async fn exchange(request: Request, form: &[&str], xml: &str) -> Result<Answer, CloudError> {
    let xml = xml.to_owned();
    let (server, cloud) = aws(move |_| Reply::ok(&xml)).await;
    let answer = cloud.call(request).await;
    let calls = ec2_calls(&server);
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].method, "POST");
    assert_eq!(calls[0].form(), form);
    answer
}

fn error_body(code: &str, message: &str) -> String {
    format!(
        "<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>\
         <RequestID>1</RequestID></Response>"
    )
}

fn interface_xml(element: &str) -> String {
    format!(
        "<{element}>
          <networkInterfaceId>{ENI}</networkInterfaceId><subnetId>subnet-1</subnetId><vpcId>vpc-1</vpcId>
          <description>aws-K8S-{INSTANCE}</description><status>in-use</status>
          <macAddress>06:1c:77:e0:43:0d</macAddress><interfaceType>interface</interfaceType>
          <privateIpAddress>100.64.5.20</privateIpAddress>
          <groupSet><item><groupId>sg-2</groupId></item><item><groupId>sg-1</groupId></item></groupSet>
          <attachment><attachmentId>eni-attach-1</attachmentId><deviceIndex>1</deviceIndex>
            <networkCardIndex>0</networkCardIndex><status>attached</status>
            <deleteOnTermination>true</deleteOnTermination></attachment>
          <tagSet><item><key>z</key><value>1</value></item><item><key>a</key><value/></item></tagSet>
          <privateIpAddressesSet>
            <item><privateIpAddress>100.64.6.31</privateIpAddress><primary>false</primary></item>
            <item><privateIpAddress>100.64.5.20</privateIpAddress><primary>true</primary></item>
          </privateIpAddressesSet>
          <ipv4PrefixSet><item><ipv4Prefix>100.64.8.0/28</ipv4Prefix></item></ipv4PrefixSet>
          <connectionTrackingConfiguration><tcpEstablishedTimeout>432000</tcpEstablishedTimeout>
            <udpTimeout>30</udpTimeout></connectionTrackingConfiguration>
        </{element}>"
    )
}

fn interface() -> Interface {
    Interface {
        eni: ENI.to_owned(),
        mac: "06:1c:77:e0:43:0d".to_owned(),
        subnet: "subnet-1".to_owned(),
        interface_type: "interface".to_owned(),
        description: format!("aws-K8S-{INSTANCE}"),
        status: "in-use".to_owned(),
        tags: vec![("a".to_owned(), String::new()), ("z".to_owned(), "1".to_owned())],
        security_groups: vec!["sg-2".to_owned(), "sg-1".to_owned()],
        primary: Some("100.64.5.20".parse().unwrap()),
        secondary: vec!["100.64.6.31".parse().unwrap()],
        prefixes: vec!["100.64.8.0/28".parse().unwrap()],
        ipv6: vec![],
        ipv6_prefixes: vec![],
        attachment: Some(InterfaceAttachment {
            id: "eni-attach-1".to_owned(),
            device_index: 1,
            card: 0,
            delete_on_termination: true,
            status: "attached".to_owned(),
        }),
        connection_tracking: Some(ConnectionTracking {
            tcp_established: Some(432_000),
            udp_stream: None,
            udp: Some(30),
        }),
    }
}

fn describe(ids: &[&str]) -> Request {
    Request::DescribeNetworkInterfaces { ids: ids.iter().map(ToString::to_string).collect() }
}

fn create() -> CreateInterface {
    CreateInterface {
        subnet: "subnet-1".to_owned(),
        description: format!("aws-K8S-{INSTANCE}"),
        security_groups: vec!["sg-2".to_owned(), "sg-1".to_owned()],
        tags: vec![("b".to_owned(), "2 & 3".to_owned()), ("a".to_owned(), "1".to_owned())],
        unit: Unit::Ip,
        count: 14,
        ipv6_addresses: 0,
        connection_tracking: None,
        client_token: "token-1".to_owned(),
    }
}
