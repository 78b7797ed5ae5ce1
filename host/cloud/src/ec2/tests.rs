use std::time::{Duration, Instant};

use reservoir_core::cloud::{
    Answer, CloudError, ConnectionTracking, CreateInterface, Device, ErrorKind, Interface, InterfaceAttachment,
    Request, SubnetFacts,
};
use reservoir_core::limits::{CardLimits, Hypervisor, InstanceLimits};
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
        connection_tracking: None,
        client_token: "token-1".to_owned(),
    }
}

#[tokio::test]
async fn describes_interfaces_by_id() {
    let xml = format!(
        "<R><networkInterfaceSet>{}</networkInterfaceSet>\
         </R>",
        interface_xml("item")
    );
    let form = ["Action=DescribeNetworkInterfaces", "NetworkInterfaceId.1=eni-1", "NetworkInterfaceId.2=eni-2"];
    let answer = exchange(describe(&["eni-1", "eni-2"]), &form, &xml).await;
    assert_eq!(answer, Ok(Answer::Interfaces(vec![interface()])));
}

#[tokio::test]
async fn no_ids_are_no_call() {
    let (server, cloud) = aws(|_| Reply::status(500, "")).await;
    assert_eq!(cloud.call(describe(&[])).await, Ok(Answer::Interfaces(vec![])));
    assert!(ec2_calls(&server).is_empty());
}

#[tokio::test]
async fn lists_detached_interfaces_page_by_page() {
    let page = |token: &str| {
        let item = "<item><networkInterfaceId>eni-1</networkInterfaceId><subnetId>subnet-1</subnetId>\
                    <macAddress>06:00:00:00:00:01</macAddress><status>available</status></item>";
        format!("<R><networkInterfaceSet>{item}</networkInterfaceSet><nextToken>{token}</nextToken></R>")
    };
    let (server, cloud) =
        aws(move |seen| Reply::ok(page(if seen.body.contains("NextToken") { "" } else { "more" }))).await;
    let answer = cloud.call(Request::DescribeDetachedInterfaces { instance: INSTANCE.to_owned() }).await;
    let Ok(Answer::Interfaces(found)) = answer else { panic!("{answer:?}") };
    assert_eq!(found.len(), 2);
    let mut form = vec![
        "Action=DescribeNetworkInterfaces".to_owned(),
        "Filter.1.Name=tag:node.k8s.amazonaws.com/instance_id".to_owned(),
        format!("Filter.1.Value.1={INSTANCE}"),
        "Filter.2.Name=status".to_owned(),
        "Filter.2.Value.1=available".to_owned(),
        "MaxResults=1000".to_owned(),
    ];
    let calls = ec2_calls(&server);
    assert_eq!(calls[0].form(), form);
    form.push("NextToken=more".to_owned());
    assert_eq!(calls[1].form(), form);
    assert_eq!(calls.len(), 2);
}

#[tokio::test]
async fn describes_the_devices_of_the_instance() {
    let item = |eni: &str, attachment: &str| {
        format!("<item><networkInterfaceId>{eni}</networkInterfaceId>{attachment}</item>")
    };
    let attachment = "<attachment><deviceIndex>3</deviceIndex><networkCardIndex>1</networkCardIndex></attachment>";
    let instance = |items: String| {
        format!(
            "<item><instancesSet><item><networkInterfaceSet>{items}</networkInterfaceSet></item></instancesSet></item>"
        )
    };
    let one = instance(item("eni-1", "<attachment/>") + &item("eni-2", attachment) + &item("eni-3", ""));
    let request = || Request::DescribeInstance { instance: INSTANCE.to_owned() };
    let id = format!("InstanceId.1={INSTANCE}");
    let form = ["Action=DescribeInstances", &id];
    let answer = exchange(request(), &form, &format!("<R><reservationSet>{one}</reservationSet></R>")).await;
    let device = |eni: &str, device_index, card| Device { eni: eni.to_owned(), device_index, card };
    assert_eq!(answer, Ok(Answer::Devices(vec![device("eni-1", 0, 0), device("eni-2", 3, 1)])));

    for wrong in [String::new(), format!("{one}{one}")] {
        let xml = format!("<R><reservationSet>{wrong}</reservationSet></R>");
        let error = exchange(request(), &form, &xml).await.unwrap_err();
        assert!(error.message.contains(INSTANCE), "{error}");
    }
}

#[tokio::test]
async fn describes_subnets() {
    let xml = "<R><subnetSet>
        <item><subnetId>subnet-1</subnetId><cidrBlock>10.0.32.0/20</cidrBlock>
          <availableIpAddressCount>4091</availableIpAddressCount>
          <ipv6CidrBlockAssociationSet><item><ipv6CidrBlock>2600:1f14::/64</ipv6CidrBlock>
            <ipv6CidrBlockState><state>associated</state></ipv6CidrBlockState></item></ipv6CidrBlockAssociationSet>
          <tagSet><item><key>kubernetes.io/role/cni</key><value>1</value></item></tagSet></item>
        <item><subnetId>subnet-2</subnetId><availableIpAddressCount>0</availableIpAddressCount>
          <ipv6CidrBlockAssociationSet><item>
            <ipv6CidrBlockState><state>disassociated</state></ipv6CidrBlockState></item></ipv6CidrBlockAssociationSet>
        </item></subnetSet></R>";
    let form = [
        "Action=DescribeSubnets",
        "Filter.1.Name=vpc-id",
        "Filter.1.Value.1=vpc-1",
        "Filter.2.Name=availability-zone",
        "Filter.2.Value.1=us-west-2a",
    ];
    let request = Request::DescribeSubnets { vpc: "vpc-1".to_owned(), availability_zone: "us-west-2a".to_owned() };
    let subnets = vec![
        SubnetFacts {
            id: "subnet-1".to_owned(),
            cidr: Some("10.0.32.0/20".parse().unwrap()),
            ipv6: true,
            free_ips: 4091,
            tags: vec![("kubernetes.io/role/cni".to_owned(), "1".to_owned())],
        },
        SubnetFacts { id: "subnet-2".to_owned(), cidr: None, ipv6: false, free_ips: 0, tags: vec![] },
    ];
    assert_eq!(exchange(request, &form, xml).await, Ok(Answer::Subnets(subnets)));
}

#[tokio::test]
async fn the_interface_limit_is_that_of_the_default_card() {
    let xml = "<R><instanceTypeSet><item><instanceType>p5.48xlarge</instanceType><bareMetal>false</bareMetal>
        <hypervisor>nitro</hypervisor><networkInfo><maximumNetworkInterfaces>64</maximumNetworkInterfaces>
        <maximumNetworkCards>2</maximumNetworkCards><defaultNetworkCardIndex>0</defaultNetworkCardIndex>
        <ipv4AddressesPerInterface>50</ipv4AddressesPerInterface><networkCards>
        <item><networkCardIndex>0</networkCardIndex><maximumNetworkInterfaces>2</maximumNetworkInterfaces></item>
        <item><networkCardIndex>1</networkCardIndex><maximumNetworkInterfaces>1</maximumNetworkInterfaces></item>
        </networkCards></networkInfo></item></instanceTypeSet></R>";
    let form = ["Action=DescribeInstanceTypes", "InstanceType.1=p5.48xlarge"];
    let request = || Request::DescribeInstanceType { instance_type: "p5.48xlarge".to_owned() };
    let limits = InstanceLimits {
        enis: 2,
        ipv4_per_eni: 50,
        default_card: 0,
        hypervisor: Hypervisor::Nitro,
        bare_metal: false,
        cards: vec![CardLimits { index: 0, max_enis: 2 }, CardLimits { index: 1, max_enis: 1 }],
    };
    assert_eq!(exchange(request(), &form, xml).await, Ok(Answer::InstanceType(limits)));

    let useless = xml.replace("<ipv4AddressesPerInterface>50", "<ipv4AddressesPerInterface>0");
    for xml in ["<R><instanceTypeSet/></R>", useless.as_str()] {
        let error = exchange(request(), &form, xml).await.unwrap_err();
        assert!(error.message.contains("p5.48xlarge"), "{error}");
    }
}

#[tokio::test]
async fn creates_an_interface() {
    let xml = format!("<R>{}</R>", interface_xml("networkInterface"));
    let mut form = vec![
        "Action=CreateNetworkInterface".to_owned(),
        "ClientToken=token-1".to_owned(),
        format!("Description=aws-K8S-{INSTANCE}"),
        "SecondaryPrivateIpAddressCount=14".to_owned(),
        "SecurityGroupId.1=sg-2".to_owned(),
        "SecurityGroupId.2=sg-1".to_owned(),
        "SubnetId=subnet-1".to_owned(),
        "TagSpecification.1.ResourceType=network-interface".to_owned(),
        "TagSpecification.1.Tag.1.Key=a".to_owned(),
        "TagSpecification.1.Tag.1.Value=1".to_owned(),
        "TagSpecification.1.Tag.2.Key=b".to_owned(),
        "TagSpecification.1.Tag.2.Value=2 & 3".to_owned(),
    ];
    let as_strs = |form: &[String]| form.iter().map(|f| f.clone().leak() as &str).collect::<Vec<_>>();
    let answer = exchange(Request::CreateNetworkInterface(create()), &as_strs(&form), &xml).await;
    assert_eq!(answer, Ok(Answer::Interfaces(vec![interface()])));

    // Prefixes instead of addresses, and the primary interface's connection tracking, set fields only.
    let tracking = ConnectionTracking { udp_stream: Some(180), ..ConnectionTracking::default() };
    let request = CreateInterface { unit: Unit::Prefix, count: 2, connection_tracking: Some(tracking), ..create() };
    form[3] = "Ipv4PrefixCount=2".to_owned();
    form.push("ConnectionTrackingSpecification.UdpStreamTimeout=180".to_owned());
    form.sort();
    exchange(Request::CreateNetworkInterface(request), &as_strs(&form), &xml).await.unwrap();
}

#[tokio::test]
async fn a_created_interface_without_id_is_an_error() {
    let (_server, cloud) =
        aws(|_| Reply::ok("<R><networkInterface><status>pending</status></networkInterface></R>")).await;
    let error = cloud.call(Request::CreateNetworkInterface(create())).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unknown);
    assert!(error.message.contains("networkInterfaceId"), "{error}");
}

#[tokio::test]
async fn attaches_and_modifies() {
    let request = Request::AttachNetworkInterface {
        eni: ENI.to_owned(),
        instance: INSTANCE.to_owned(),
        device_index: 2,
        card: 0,
    };
    let (eni, instance) = (format!("NetworkInterfaceId={ENI}"), format!("InstanceId={INSTANCE}"));
    let form = ["Action=AttachNetworkInterface", "DeviceIndex=2", &instance, "NetworkCardIndex=0", &eni];
    let answer = exchange(request, &form, "<R><attachmentId>eni-attach-9</attachmentId></R>").await;
    assert_eq!(answer, Ok(Answer::Attachment { id: "eni-attach-9".to_owned() }));

    let done = "<R><return>true</return></R>";
    let request = Request::SetDeleteOnTermination { eni: ENI.to_owned(), attachment: "eni-attach-9".to_owned() };
    let form = [
        "Action=ModifyNetworkInterfaceAttribute",
        "Attachment.AttachmentId=eni-attach-9",
        "Attachment.DeleteOnTermination=true",
        &eni,
    ];
    assert_eq!(exchange(request, &form, done).await, Ok(Answer::Done));

    let groups = vec!["sg-2".to_owned(), "sg-1".to_owned()];
    let request = Request::SetSecurityGroups { eni: ENI.to_owned(), groups };
    let form = ["Action=ModifyNetworkInterfaceAttribute", &eni, "SecurityGroupId.1=sg-1", "SecurityGroupId.2=sg-2"];
    assert_eq!(exchange(request, &form, done).await, Ok(Answer::Done));

    let request = Request::DetachNetworkInterface { attachment: "eni-attach-9".to_owned() };
    let form = ["Action=DetachNetworkInterface", "AttachmentId=eni-attach-9"];
    assert_eq!(exchange(request, &form, done).await, Ok(Answer::Done));

    let request = Request::DeleteNetworkInterface { eni: ENI.to_owned() };
    assert_eq!(exchange(request, &["Action=DeleteNetworkInterface", &eni], done).await, Ok(Answer::Done));

    let tags = vec![("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())];
    let request = Request::CreateTags { resource: ENI.to_owned(), tags };
    let resource = format!("ResourceId.1={ENI}");
    let form = ["Action=CreateTags", &resource, "Tag.1.Key=a", "Tag.1.Value=1", "Tag.2.Key=b", "Tag.2.Value=2"];
    assert_eq!(exchange(request, &form, done).await, Ok(Answer::Done));
}

#[tokio::test]
async fn assigns_and_unassigns() {
    let eni = format!("NetworkInterfaceId={ENI}");
    let assign = |unit, count| Request::AssignPrivateIpAddresses { eni: ENI.to_owned(), unit, count };
    let xml = "<R><assignedPrivateIpAddressesSet><item><privateIpAddress>10.0.0.9</privateIpAddress></item>
        </assignedPrivateIpAddressesSet></R>";
    let form = ["Action=AssignPrivateIpAddresses", &eni, "SecondaryPrivateIpAddressCount=3"];
    let answer = exchange(assign(Unit::Ip, 3), &form, xml).await;
    assert_eq!(answer, Ok(Answer::Assigned { addresses: vec!["10.0.0.9".parse().unwrap()], prefixes: vec![] }));

    let xml =
        "<R><assignedIpv4PrefixSet><item><ipv4Prefix>10.0.0.16/28</ipv4Prefix></item></assignedIpv4PrefixSet></R>";
    let form = ["Action=AssignPrivateIpAddresses", "Ipv4PrefixCount=1", &eni];
    let answer = exchange(assign(Unit::Prefix, 1), &form, xml).await;
    assert_eq!(answer, Ok(Answer::Assigned { addresses: vec![], prefixes: vec!["10.0.0.16/28".parse().unwrap()] }));

    let xml = "<R><assignedPrivateIpAddressesSet><item><privateIpAddress>10.0.0</privateIpAddress></item>
        </assignedPrivateIpAddressesSet></R>";
    let form = ["Action=AssignPrivateIpAddresses", &eni, "SecondaryPrivateIpAddressCount=1"];
    let error = exchange(assign(Unit::Ip, 1), &form, xml).await.unwrap_err();
    assert!(error.message.contains("\"10.0.0\""), "{error}");

    let unassign = |addresses: &[&str], prefixes: &[&str]| Request::UnassignPrivateIpAddresses {
        eni: ENI.to_owned(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        prefixes: prefixes.iter().map(|p| p.parse().unwrap()).collect(),
    };
    let done = "<R><return>true</return></R>";
    let form =
        ["Action=UnassignPrivateIpAddresses", &eni, "PrivateIpAddress.1=10.0.0.9", "PrivateIpAddress.2=10.0.0.8"];
    assert_eq!(exchange(unassign(&["10.0.0.9", "10.0.0.8"], &[]), &form, done).await, Ok(Answer::Done));
    let form = ["Action=UnassignPrivateIpAddresses", "Ipv4Prefix.1=10.0.0.16/28", &eni];
    assert_eq!(exchange(unassign(&[], &["10.0.0.16/28"]), &form, done).await, Ok(Answer::Done));

    let (server, cloud) = aws(|_| Reply::status(500, "")).await;
    assert_eq!(cloud.call(unassign(&[], &[])).await.unwrap_err().kind, ErrorKind::Refused);
    assert!(ec2_calls(&server).is_empty());
}

#[tokio::test]
async fn every_call_is_signed_with_the_role_and_names_its_product() {
    let (server, cloud) = aws(|_| Reply::ok("<R/>")).await;
    cloud.call(Request::DeleteNetworkInterface { eni: ENI.to_owned() }).await.unwrap();
    let call = &ec2_calls(&server)[0];
    assert!(call.header("user-agent").unwrap().ends_with(" amazon-vpc-cni-k8s/v1.23.1"), "{call:?}");
    // The region is that of the identity document.
    assert!(call.header("authorization").unwrap().contains("/us-west-2/ec2/aws4_request"), "{call:?}");
}

/// What `call` makes of an error answer, and how often it asked.
async fn refusal(request: Request, status: u16, code: &str, message: &str) -> (CloudError, usize) {
    let body = error_body(code, message);
    let (server, cloud) = aws(move |_| Reply::status(status, &body)).await;
    let error = cloud.call(request).await.unwrap_err();
    (error, ec2_calls(&server).len())
}

#[tokio::test]
async fn error_codes_become_decisions() {
    let assign = || Request::AssignPrivateIpAddresses { eni: ENI.to_owned(), unit: Unit::Ip, count: 1 };
    for (status, code, message, kind) in [
        (400, "InsufficientFreeAddressesInSubnet", "The subnet is full.", ErrorKind::NoFreeAddress),
        (400, "InsufficientCidrBlocks", "No block.", ErrorKind::NoFreePrefix),
        (400, "PrivateIpAddressLimitExceeded", "Too many.", ErrorKind::AddressLimit),
        (400, "AttachmentLimitExceeded", "Interface count 5 exceeds the limit", ErrorKind::InterfaceLimit),
        (
            400,
            "InvalidNetworkInterfaceID.NotFound",
            "The networkInterface ID 'eni-1' does not exist",
            ErrorKind::NotFound,
        ),
        (400, "InvalidParameterValue", "Network interface 'eni-1' is currently in use.", ErrorKind::InUse),
        (400, "InvalidParameterValue", "Something else.", ErrorKind::Refused),
        (403, "UnauthorizedOperation", "You are not authorized", ErrorKind::Unauthorized),
        (400, "OperationNotPermitted", "No.", ErrorKind::Refused),
    ] {
        let (error, asked) = refusal(assign(), status, code, message).await;
        assert_eq!((error.kind, error.code.as_str(), error.message.as_str()), (kind, code, message));
        assert_eq!((error.api, asked), ("AssignPrivateIpAddresses", 1), "{code} is final");
    }
}

#[tokio::test]
async fn a_throttled_call_comes_back_at_once() {
    for (status, code) in [(503, "RequestLimitExceeded"), (400, "Throttling"), (503, "EC2ThrottledException")] {
        let start = Instant::now();
        let (error, asked) = refusal(describe(&[ENI]), status, code, "Request limit exceeded.").await;
        assert_eq!((error.kind, asked), (ErrorKind::Throttled, 1), "{code}");
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn a_server_error_is_tried_three_times() {
    let (error, asked) = refusal(describe(&[ENI]), 500, "InternalError", "Oops").await;
    assert_eq!((error.kind, error.code.as_str(), asked), (ErrorKind::Unknown, "InternalError", 3));
    let (server, cloud) = aws(|_| Reply::status(502, "<html>Bad gateway</html>")).await;
    let error = cloud.call(describe(&[ENI])).await.unwrap_err();
    assert_eq!((error.kind, error.code.as_str(), ec2_calls(&server).len()), (ErrorKind::Unknown, "", 3));
    assert!(error.message.contains("502"), "{error}");
}

#[tokio::test]
async fn a_lost_answer_is_repeated_with_the_same_token() {
    let lost = std::sync::atomic::AtomicBool::new(true);
    let xml = format!("<R>{}</R>", interface_xml("networkInterface"));
    let script = move |_: &Seen| match lost.swap(false, std::sync::atomic::Ordering::Relaxed) {
        true => Reply::Cut,
        false => Reply::ok(&xml),
    };
    let (server, cloud) = aws(script).await;
    cloud.call(Request::CreateNetworkInterface(create())).await.unwrap();
    let calls = ec2_calls(&server);
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0].form(), calls[1].form());
}

#[tokio::test]
async fn a_success_that_says_nothing_is_an_unknown_outcome() {
    for body in ["", "<html>Welcome</html>", "<R><networkInterface><networkInterfaceId>eni-1"] {
        let (_server, cloud) = aws(move |_| Reply::ok(body)).await;
        let error = cloud.call(Request::CreateNetworkInterface(create())).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unknown, "{body}: {error}");
        assert!(!error.message.is_empty());
    }
}

#[tokio::test]
async fn silence_is_an_unknown_outcome() {
    let metadata = example_metadata(&[]);
    let server =
        Server::start(move |s| if s.path.starts_with("/latest/") { metadata(s) } else { Reply::Silence }).await;
    let config = CloudConfig {
        imds: ImdsConfig { endpoint: Some(server.url.clone()), ..ImdsConfig::default() },
        ec2_endpoint: Some(server.url.clone()),
        http_timeout: Duration::from_millis(100),
        ..CloudConfig::default()
    };
    let (cloud, _) = AwsCloud::connect(config).await.unwrap();
    let error = cloud.call(Request::DeleteNetworkInterface { eni: ENI.to_owned() }).await.unwrap_err();
    assert_eq!((error.kind, error.code.as_str()), (ErrorKind::Unknown, ""));
    assert_eq!(ec2_calls(&server).len(), 3);
}

#[test]
fn calls_are_counted_under_the_names_of_the_reference() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let body = error_body("InvalidNetworkInterfaceID.NotFound", "gone");
            let (_server, cloud) = aws(move |seen| match seen.body.contains("Action=CreateTags") {
                true => Reply::ok("<R/>"),
                false => Reply::status(400, &body),
            })
            .await;
            let eni = || ENI.to_owned();
            cloud.call(Request::CreateTags { resource: eni(), tags: vec![] }).await.unwrap();
            cloud.call(Request::DeleteNetworkInterface { eni: eni() }).await.unwrap_err();
            cloud.call(Request::SetSecurityGroups { eni: eni(), groups: vec![] }).await.unwrap_err();
            cloud.call(Request::VpcCidrs { mac: "06:00:00:00:00:00".to_owned() }).await.unwrap_err();
        });
    });
    let text = handle.render();
    for line in [
        r#"awscni_ec2api_req_count{fn="CreateTags"} 1"#,
        r#"awscni_ec2api_req_count{fn="DeleteNetworkInterface"} 1"#,
        r#"awscni_ec2api_error_count{fn="ModifyNetworkInterfaceAttribute"} 1"#,
        r#"awscni_aws_api_error_count{api="ModifyNetworkInterfaceAttribute",error="InvalidNetworkInterfaceID.NotFound"} 1"#,
        r#"awscni_aws_api_error_count{api="IMDSMetaDataOutOfSync",error="InvalidNetworkInterfaceID.NotFound"} 1"#,
        r#"awscni_aws_api_error_count{api="GetVPCIPv4CIDRBlocks",error="IMDSRequestError"} 1"#,
        r#"awscni_aws_api_latency_ms_count{api="CreateTags",error="false",status="200"} 1"#,
        r#"awscni_aws_api_latency_ms_count{api="DeleteNetworkInterface",error="true",status="InvalidNetworkInterfaceID.NotFound"} 1"#,
        r#"awscni_aws_api_latency_ms_count{api="GetMetadata",error="true",status=""} 1"#,
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    // An interface that is already gone is what a delete wants.
    assert!(!text.contains(r#"awscni_ec2api_error_count{fn="DeleteNetworkInterface"}"#), "{text}");
}
