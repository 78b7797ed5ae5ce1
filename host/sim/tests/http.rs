//! The HTTP face, by a client of a few lines.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use reservoir_sim::http::{Server, Simulation};
use reservoir_sim::model::config::{DelaysConfig, InstanceConfig};
use reservoir_sim::{Config, Sim};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const NODE: &str = "i-0c3f1a9d27b6e4851";

struct Account {
    ec2: SocketAddr,
    imds: SocketAddr,
}

struct Reply {
    status: u16,
    head: String,
    body: String,
}

async fn start(config: Config) -> Account {
    let simulation = Simulation::new(Sim::new(&config).unwrap(), None);
    let server = Server::new(simulation);
    let ec2 = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let imds = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let account = Account { ec2: ec2.local_addr().unwrap(), imds: imds.local_addr().unwrap() };
    tokio::spawn(server.clone().serve_ec2(ec2));
    tokio::spawn(server.serve_metadata(imds, NODE.to_owned()));
    account
}

/// One request on a connection of its own; None: closed without an answer.
async fn http(to: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Option<Reply> {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: sim\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Reply { status, head: head.to_ascii_lowercase(), body: body.to_owned() })
}

impl Account {
    async fn ec2(&self, parameters: &str) -> Reply {
        let form = format!("Version=2016-11-15&Action={parameters}");
        http(self.ec2, "POST", "/", "", &form).await.expect("an answer")
    }

    async fn admin(&self, method: &str, path: &str, body: &str) -> serde_json::Value {
        let reply = http(self.ec2, method, path, "", body).await.expect("an answer");
        serde_json::from_str(&reply.body).unwrap()
    }

    async fn token(&self) -> String {
        let reply =
            http(self.imds, "PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 300\r\n", "").await;
        let reply = reply.expect("an answer");
        assert!(reply.head.contains("x-aws-ec2-metadata-token-ttl-seconds: 300"), "{}", reply.head);
        reply.body
    }

    async fn imds(&self, path: &str, token: &str) -> Reply {
        let header = format!("X-aws-ec2-metadata-token: {token}\r\n");
        http(self.imds, "GET", path, &header, "").await.expect("an answer")
    }
}

fn between<'a>(text: &'a str, tag: &str) -> &'a str {
    let rest = text.split_once(&format!("<{tag}>")).unwrap_or_else(|| panic!("no {tag} in {text}")).1;
    rest.split_once(&format!("</{tag}>")).unwrap().0
}

#[tokio::test]
async fn an_interface_from_create_to_delete() {
    let a = start(Config::default()).await;
    let made = a
        .ec2(
            "CreateNetworkInterface&SubnetId=subnet-0a7c5e3b1d9f82464&Description=aws-K8S-i&SecurityGroupId.1=sg-0d4e1f6a7b8c9d0e1\
             &SecondaryPrivateIpAddressCount=2&ClientToken=t&TagSpecification.1.ResourceType=network-interface\
             &TagSpecification.1.Tag.1.Key=node.k8s.amazonaws.com%2Finstance_id&TagSpecification.1.Tag.1.Value=i-1\
             &ConnectionTrackingSpecification.TcpEstablishedTimeout=600",
        )
        .await;
    assert_eq!(made.status, 200, "{}", made.body);
    assert!(made.head.contains("text/xml"));
    let eni = between(&made.body, "networkInterfaceId").to_owned();
    assert_eq!(between(&made.body, "tcpEstablishedTimeout"), "600");
    assert_eq!(
        between(&made.body, "tagSet"),
        "<item><key>node.k8s.amazonaws.com/instance_id</key><value>i-1</value></item>"
    );
    assert_eq!(between(&made.body, "privateIpAddressesSet").matches("<primary>false</primary>").count(), 2);
    let attach =
        format!("AttachNetworkInterface&NetworkInterfaceId={eni}&InstanceId={NODE}&DeviceIndex=1&NetworkCardIndex=0");
    let attached = a.ec2(&attach).await;
    let attachment = between(&attached.body, "attachmentId").to_owned();
    let modify = format!(
        "ModifyNetworkInterfaceAttribute&NetworkInterfaceId={eni}&Attachment.AttachmentId={attachment}\
         &Attachment.DeleteOnTermination=true"
    );
    assert_eq!(between(&a.ec2(&modify).await.body, "return"), "true");
    let described = a.ec2(&format!("DescribeNetworkInterfaces&NetworkInterfaceId.1={eni}")).await.body;
    assert_eq!(between(&described, "deleteOnTermination"), "true");
    assert_eq!(between(&described, "deviceIndex"), "1");
    assert_eq!(between(&described, "status"), "in-use");
    let instances = a.ec2(&format!("DescribeInstances&InstanceId.1={NODE}")).await.body;
    assert_eq!(between(&instances, "reservationSet").matches("<networkInterfaceId>").count(), 2);
    let assigned =
        a.ec2(&format!("AssignPrivateIpAddresses&NetworkInterfaceId={eni}&SecondaryPrivateIpAddressCount=1")).await;
    let address = between(between(&assigned.body, "assignedPrivateIpAddressesSet"), "privateIpAddress").to_owned();
    let unassign = format!("UnassignPrivateIpAddresses&NetworkInterfaceId={eni}&PrivateIpAddress.1={address}");
    assert_eq!(a.ec2(&unassign).await.status, 200);
    let in_use = a.ec2(&format!("DeleteNetworkInterface&NetworkInterfaceId={eni}")).await;
    assert_eq!((in_use.status, between(&in_use.body, "Code")), (400, "InvalidParameterValue"));
    assert_eq!(a.ec2(&format!("DetachNetworkInterface&AttachmentId={attachment}")).await.status, 200);
    assert_eq!(a.ec2(&format!("DeleteNetworkInterface&NetworkInterfaceId={eni}")).await.status, 200);
    assert_eq!(a.admin("GET", "/sim/audit", "").await, serde_json::json!([]));
    let log = a.admin("GET", "/sim/log", "").await;
    assert_eq!(log[0]["action"], "CreateNetworkInterface");
    assert_eq!(log[0]["instance"], NODE, "the only instance is the caller");
    assert_eq!(log.as_array().unwrap().len(), 10);
}

#[tokio::test]
async fn filters_pages_and_types() {
    let a = start(Config::default()).await;
    for n in 0..7 {
        let create = format!("CreateNetworkInterface&SubnetId=subnet-0a7c5e3b1d9f82464&ClientToken={n}");
        assert_eq!(a.ec2(&create).await.status, 200);
    }
    let list = "DescribeNetworkInterfaces&MaxResults=5&Filter.1.Name=status&Filter.1.Value.1=available";
    let first = a.ec2(list).await.body;
    let rest = a.ec2(&format!("{list}&NextToken={}", between(&first, "nextToken"))).await.body;
    let count = |body: &str| body.matches("<networkInterfaceId>").count();
    assert_eq!((count(&first), count(&rest), rest.contains("nextToken")), (5, 2, false));
    let none = a.ec2(&format!("{list}&Filter.2.Name=tag%3AName&Filter.2.Value.1=x")).await;
    assert_eq!(count(&none.body), 0);
    for (wrong, code) in [
        ("DescribeNetworkInterfaces&Filter.1.Name=colour&Filter.1.Value.1=red", "InvalidParameterValue"),
        ("DescribeNetworkInterfaces&MaxResults=4", "InvalidParameterValue"),
        ("DescribeNetworkInterfaces&MaxResults=5&NextToken=zz", "InvalidNextToken"),
        ("DescribeNetworkInterfaces&MaxResults=5&NetworkInterfaceId.1=eni-1", "InvalidParameterCombination"),
        ("DescribeSubnets&Colour=red", "UnknownParameter"),
        ("DescribeDreams", "InvalidAction"),
        ("DescribeSubnets&DryRun=true", "DryRunOperation"),
        ("AssignPrivateIpAddresses&NetworkInterfaceId=eni-1&Ipv4PrefixCount=x", "InvalidParameterValue"),
        ("AttachNetworkInterface", "MissingParameter"),
    ] {
        let reply = a.ec2(wrong).await;
        assert_eq!(between(&reply.body, "Code"), code, "{wrong}");
    }
    let subnets = "DescribeSubnets&Filter.1.Name=vpc-id&Filter.1.Value.1=vpc-0b6c1d2e3f4a59687";
    assert_eq!(between(&a.ec2(subnets).await.body, "availableIpAddressCount"), "4083");
    let types = a.ec2("DescribeInstanceTypes&InstanceType.1=c5.4xlarge").await.body;
    assert_eq!((between(&types, "maximumNetworkInterfaces"), between(&types, "hypervisor")), ("8", "nitro"));
    let tag =
        format!("CreateTags&ResourceId.1={NODE}&Tag.1.Key=CLUSTER_ID&Tag.1.Value=demo&Tag.2.Key=Name&Tag.2.Value=n");
    assert_eq!(a.ec2(&tag).await.status, 200);
    let asked = format!("DescribeTags&Filter.1.Name=resource-id&Filter.1.Value.1={NODE}");
    let cluster = a.ec2(&format!("{asked}&Filter.2.Name=key&Filter.2.Value.1=CLUSTER_ID")).await.body;
    assert_eq!((between(&cluster, "value"), between(&cluster, "resourceType")), ("demo", "instance"));
    assert_eq!(a.ec2(&asked).await.body.matches("<resourceId>").count(), 2);
    let version = http(a.ec2, "POST", "/", "", "Action=DescribeSubnets&Version=2012-01-01").await.unwrap();
    assert_eq!(between(&version.body, "Code"), "NoSuchVersion");
}

#[tokio::test]
async fn metadata_wants_a_token() {
    let a = start(Config::default()).await;
    let bare = http(a.imds, "GET", "/latest/meta-data/mac", "", "").await.unwrap();
    assert_eq!(bare.status, 401);
    assert_eq!(a.imds("/latest/meta-data/mac", "made-up").await.status, 401);
    let put = |headers: &'static str| http(a.imds, "PUT", "/latest/api/token", headers, "");
    assert_eq!(put("").await.unwrap().status, 400);
    assert_eq!(put("X-aws-ec2-metadata-token-ttl-seconds: 0\r\n").await.unwrap().status, 400);
    let forwarded = "X-aws-ec2-metadata-token-ttl-seconds: 60\r\nX-Forwarded-For: 10.0.0.1\r\n";
    assert_eq!(put(forwarded).await.unwrap().status, 403);
    let token = a.token().await;
    let mac = a.imds("/latest/meta-data/mac", &token).await.body;
    let fields = a.imds(&format!("/latest/meta-data/network/interfaces/macs/{mac}"), &token).await.body;
    assert!(fields.contains("subnet-ipv4-cidr-block") && !fields.ends_with('\n'));
    assert_eq!(a.imds("/latest/meta-data/ipv6", &token).await.status, 404);
    let document = a.imds("/latest/dynamic/instance-identity/document", &token).await.body;
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    assert_eq!((document["region"].as_str(), document["instanceId"].as_str()), (Some("us-west-2"), Some(NODE)));
    let role = a.imds("/latest/meta-data/iam/security-credentials/", &token).await.body;
    let credentials = a.imds(&format!("/latest/meta-data/iam/security-credentials/{role}"), &token).await.body;
    assert!(credentials.contains("AccessKeyId"));
    let by_path = format!("/node/{NODE}/latest/meta-data/mac");
    assert_eq!(http(a.ec2, "GET", &by_path, "", "").await.unwrap().status, 401);
    let header = format!("X-aws-ec2-metadata-token: {token}\r\n");
    assert_eq!(http(a.ec2, "GET", &by_path, &header, "").await.unwrap().body, mac);
}

#[tokio::test]
async fn ipv6_over_http() {
    let config = r#"{"vpc":{"ipv6_cidrs":["2600:1f14:abc:d00::/56"]},
        "subnets":[{"id":"subnet-0a","cidr":"10.0.32.0/20","ipv6_cidr":"2600:1f14:abc:d00::/64"}],
        "instances":[{"id":"i-0c3f1a9d27b6e4851","type":"c5.large","subnet":"subnet-0a","ipv6_address":"2600:1f14:abc:d00::a5c1"}]}"#;
    let a = start(Config::from_json(config).unwrap()).await;
    let token = a.token().await;
    assert_eq!(a.imds("/latest/meta-data/ipv6", &token).await.body, "2600:1f14:abc:d00::a5c1");
    let mac = a.imds("/latest/meta-data/mac", &token).await.body;
    let at = format!("/latest/meta-data/network/interfaces/macs/{mac}");
    let fields = a.imds(&at, &token).await.body;
    assert!(!fields.lines().any(|l| l == "ipv6-prefix"), "absent, not empty");
    let eni = a.imds(&format!("{at}/interface-id"), &token).await.body;
    let assigned = a.ec2(&format!("AssignIpv6Addresses&NetworkInterfaceId={eni}&Ipv6PrefixCount=1")).await.body;
    let block = between(between(&assigned, "assignedIpv6PrefixSet"), "item").to_owned();
    assert!(block.ends_with("/80"), "{block}");
    for (key, body) in [
        ("ipv6s", "2600:1f14:abc:d00::a5c1"),
        ("ipv6-prefix", &block),
        ("subnet-ipv6-cidr-blocks", "2600:1f14:abc:d00::/64"),
        ("vpc-ipv6-cidr-blocks", "2600:1f14:abc:d00::/56"),
    ] {
        assert_eq!(a.imds(&format!("{at}/{key}"), &token).await.body, body, "{key}");
    }
    let described = a.ec2(&format!("DescribeNetworkInterfaces&NetworkInterfaceId.1={eni}")).await.body;
    assert_eq!(between(between(&described, "ipv6AddressesSet"), "ipv6Address"), "2600:1f14:abc:d00::a5c1");
    assert_eq!(between(between(&described, "ipv6PrefixSet"), "ipv6Prefix"), block);
    assert_eq!(between(&a.ec2("DescribeSubnets").await.body, "ipv6CidrBlock"), "2600:1f14:abc:d00::/64");
    let made = a.ec2("CreateNetworkInterface&SubnetId=subnet-0a&Ipv6AddressCount=1&InterfaceType=efa").await.body;
    assert_eq!(between(&made, "ipv6AddressesSet").matches("<item>").count(), 1);
    assert_eq!(between(&made, "interfaceType"), "efa");
    let encoded = block.replace(':', "%3A").replace('/', "%2F");
    let gone = a.ec2(&format!("UnassignIpv6Addresses&NetworkInterfaceId={eni}&Ipv6Prefix.1={encoded}")).await;
    assert_eq!((gone.status, between(between(&gone.body, "unassignedIpv6PrefixSet"), "item")), (200, block.as_str()));
    let fields = a.imds(&at, &token).await.body;
    assert!(!fields.lines().any(|l| l == "ipv6-prefix"));
    let wrong = a.ec2("CreateNetworkInterface&SubnetId=subnet-0a&InterfaceType=wireless").await;
    assert_eq!((wrong.status, between(&wrong.body, "Code")), (400, "InvalidParameterValue"));
}

#[tokio::test]
async fn faults_over_http_and_a_call_that_never_answers() {
    let delays: DelaysConfig = serde_json::from_str(r#"{"no_answer":0.2}"#).unwrap();
    let a = start(Config { delays, ..Config::default() }).await;
    let faults = r#"[{"api":"DescribeSubnets","effect":{"error":{"code":"RequestLimitExceeded"}}},
                     {"api":"DescribeSubnets","at":2,"effect":"no_answer"},
                     {"api":"IMDS","effect":{"error":{"code":"503"}}}]"#;
    assert_eq!(a.admin("POST", "/sim/faults", faults).await["ok"], true);
    let throttled = a.ec2("DescribeSubnets").await;
    assert_eq!((throttled.status, between(&throttled.body, "Code")), (503, "RequestLimitExceeded"));
    let start = Instant::now();
    assert!(http(a.ec2, "POST", "/", "", "Version=2016-11-15&Action=DescribeSubnets").await.is_none());
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert_eq!(a.ec2("DescribeSubnets").await.status, 200);
    assert_eq!(http(a.imds, "PUT", "/latest/api/token", "", "").await.unwrap().status, 503);
    assert_eq!(a.admin("GET", "/sim/faults", "").await, serde_json::json!([]), "all spent");
    assert!(a.admin("POST", "/sim/faults", "{}").await["error"].is_string());
    assert!(a.admin("POST", "/sim/do", r#"{"dance":1}"#).await["error"].as_str().unwrap().contains("dance"));
    assert!(a.admin("GET", "/sim/dreams", "").await["error"].as_str().unwrap().contains("audit"));
}

#[tokio::test]
async fn an_operator_over_http() {
    let a = start(Config::default()).await;
    let mut deeds = Vec::new();
    let efa = format!(r#"{{"attach_interface":{{"instance":"{NODE}","type":"efa-only"}}}}"#);
    let eni = a.admin("POST", "/sim/do", &efa).await["eni"].as_str().unwrap().to_owned();
    deeds.push(format!(r#"{{"tag":{{"resource":"{eni}","tags":{{"node.k8s.amazonaws.com/no_manage":"true"}}}}}}"#));
    deeds.push(format!(r#"{{"skew":{{"eni":"{eni}","how":"imds_stuck"}}}}"#));
    deeds.push(format!(r#"{{"unskew":"{eni}"}}"#));
    deeds.push(format!(r#"{{"untag":{{"resource":"{eni}","keys":["x"]}}}}"#));
    deeds.push(format!(r#"{{"expect":{{"instance":"{NODE}","expect":{{"read_only":true}}}}}}"#));
    deeds.push(format!(r#"{{"imds":{{"instance":"{NODE}","mode":"v1"}}}}"#));
    for deed in [
        r#"{"launch":{"id":"i-9","type":"c5.large","subnet":"subnet-0a7c5e3b1d9f82464"}}"#,
        r#"{"occupy":{"subnet":"subnet-0a7c5e3b1d9f82464","count":9}}"#,
        r#"{"fragment":{"subnet":"subnet-0a7c5e3b1d9f82464","leave":2}}"#,
        r#"{"vacate":"subnet-0a7c5e3b1d9f82464"}"#,
        r#"{"add_subnet":{"id":"subnet-9","cidr":"10.0.48.0/24","tags":{"kubernetes.io/role/cni":"1"}}}"#,
        r#"{"set_vpc_ipv6_cidrs":["2600:1f14:abc:d00::/56"]}"#,
        r#"{"set_quota":3}"#,
        r#"{"throttle":"published"}"#,
        r#"{"flaky":0.0}"#,
        r#"{"delays":{"profile":"instant","no_answer":[0.1,0.2]}}"#,
        r#"{"iam":{"denied":["CreateTags"]}}"#,
    ] {
        deeds.push(deed.to_owned());
    }
    for deed in &deeds {
        let answer = a.admin("POST", "/sim/do", deed).await;
        assert_eq!(answer["ok"], true, "{deed}: {answer}");
    }
    for (wrong, words) in [
        (r#"{"throttle":{"custom":{"CreateTags":{"capacity":0,"refill":1}}}}"#, "CreateTags"),
        (r#"{"delays":"fast"}"#, "fast"),
        (r#"{"operate":"Action=DescribeDreams"}"#, "InvalidAction"),
        (r#"{"unskew":1}"#, "string"),
        (r#"{"tag":{"resource":"eni-1","tags":{"a":"b"}}}"#, "InvalidNetworkInterfaceID"),
    ] {
        let answer = a.admin("POST", "/sim/do", wrong).await;
        assert!(answer["error"].as_str().is_some_and(|e| e.contains(words)), "{wrong}: {answer}");
    }
    let operate = r#"{"operate":"Action=CreateTags&ResourceId.1=subnet-9&Tag.1.Key=k&Tag.1.Value=v"}"#;
    assert!(a.admin("POST", "/sim/do", operate).await["answer"].as_str().unwrap().contains("CreateTagsResponse"));
    let quota = a.ec2("CreateNetworkInterface&SubnetId=subnet-9").await;
    assert_eq!((quota.status, between(&quota.body, "Code")), (400, "NetworkInterfaceLimitExceeded"));
    let denied = a.ec2(&format!("CreateTags&ResourceId.1={eni}&Tag.1.Key=k&Tag.1.Value=v")).await;
    assert_eq!((denied.status, between(&denied.body, "Code")), (403, "UnauthorizedOperation"));
    let found = a.admin("GET", "/sim/audit", "").await;
    assert_eq!(found.as_array().unwrap().len(), 0, "two nodes: nobody signed, so nobody is to blame: {found}");
    let pods = format!(r#"{{"instance":"{NODE}","pods":["192.0.2.1"]}}"#);
    assert_eq!(a.admin("POST", "/sim/audit", &pods).await[0]["pod_without_address"]["address"], "192.0.2.1");
    assert_eq!(a.admin("GET", "/sim/log?instance=i-nobody", "").await, serde_json::json!([]));
    let own = http(a.imds, "GET", "/latest/meta-data/instance-id", "", "").await.unwrap();
    assert_eq!((own.status, own.body.as_str()), (200, NODE), "no token needed in v1");
    let header = "X-aws-ec2-metadata-token: made-up\r\n";
    assert_eq!(http(a.imds, "GET", "/latest/meta-data/mac", header, "").await.unwrap().status, 401);
    a.admin("POST", "/sim/do", &format!(r#"{{"imds":{{"instance":"{NODE}","mode":"disabled"}}}}"#)).await;
    assert_eq!(http(a.imds, "GET", "/latest/meta-data/mac", "", "").await.unwrap().status, 403);
}

#[tokio::test]
async fn faults_as_text_and_answers_cut_short() {
    let a = start(Config::default()).await;
    let script = "at call 1 of DescribeSubnets: cut\nat call 1 of IMDS:mac: cut\nat call 2 of IMDS:mac: 404\n";
    assert_eq!(a.admin("POST", "/sim/faults", script).await["ok"], true);
    assert!(a.admin("POST", "/sim/faults", "whenever: wrong").await["error"].as_str().unwrap().contains("which calls"));
    let half = http(a.ec2, "POST", "/", "", "Version=2016-11-15&Action=DescribeSubnets").await.unwrap();
    assert!(half.status == 200 && !half.body.contains("</DescribeSubnetsResponse>"), "{}", half.body);
    let announced: usize = half.head.split("content-length: ").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
    assert!(announced > half.body.len());
    let token = a.token().await;
    let mac = a.imds("/latest/meta-data/mac", &token).await.body;
    assert!(mac.len() < 17, "{mac}");
    assert_eq!(a.imds("/latest/meta-data/mac", &token).await.status, 404);
    assert_eq!(a.imds("/latest/meta-data/mac", &token).await.body.len(), 17);
    a.imds("/latest/meta-data/instance-id", &token).await;
}

#[tokio::test]
async fn the_signer_is_the_caller_and_deeds_are_done() {
    let mut config = Config::default();
    config.instances.push(InstanceConfig::new("i-0b", "c5.large", "subnet-0a7c5e3b1d9f82464"));
    let a = start(config).await;
    let signed = "Authorization: AWS4-HMAC-SHA256 Credential=ASIA0B/20260101/us-west-2/ec2/aws4_request\r\n";
    let form = "Version=2016-11-15&Action=DescribeSubnets";
    http(a.ec2, "POST", "/", signed, form).await.unwrap();
    http(a.ec2, "POST", "/", "", form).await.unwrap();
    let log = a.admin("GET", "/sim/log", "").await;
    assert_eq!((&log[0]["instance"], &log[1]["instance"]), (&"i-0b".into(), &"unknown".into()));
    assert_eq!(a.admin("GET", "/sim/log?after=1", "").await.as_array().unwrap().len(), 1);
    assert!(a.admin("POST", "/sim/do", r#"{"attach_trunk":"i-0b"}"#).await["eni"].is_string());
    a.admin("POST", "/sim/do", r#"{"set_vpc_cidrs":["10.0.0.0/16","100.64.0.0/16"]}"#).await;
    let token = a.token().await;
    let mac = a.imds("/latest/meta-data/mac", &token).await.body;
    let cidrs = a.imds(&format!("/latest/meta-data/network/interfaces/macs/{mac}/vpc-ipv4-cidr-blocks"), &token).await;
    assert_eq!(cidrs.body, "10.0.0.0/16\n100.64.0.0/16");
    a.admin("POST", "/sim/do", &format!(r#"{{"terminate":"{NODE}"}}"#)).await;
    assert_eq!(a.imds("/latest/meta-data/mac", &token).await.status, 404);
    let state = a.admin("GET", "/sim/state", "").await;
    assert_eq!(state["enis"].as_array().unwrap().len(), 2, "the other node's two");
}
