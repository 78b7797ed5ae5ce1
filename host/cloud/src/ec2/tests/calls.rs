//! What each request sends, and what its answer becomes.

use reservoir_core::cloud::{Device, SubnetFacts};
use reservoir_core::limits::{CardLimits, Hypervisor, InstanceLimits};

use super::*;

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
async fn asks_what_instances_have_left_and_which_of_them_live() {
    let empty = "<R><networkInterfaceSet/></R>";
    for (cluster, filter) in
        [("", vec![]), ("blue", vec!["Filter.4.Name=tag:cluster.k8s.amazonaws.com/name", "Filter.4.Value.1=blue"])]
    {
        let mut form = vec![
            "Action=DescribeNetworkInterfaces",
            "Filter.1.Name=tag-key",
            "Filter.1.Value.1=node.k8s.amazonaws.com/instance_id",
            "Filter.2.Name=status",
            "Filter.2.Value.1=available",
            "Filter.3.Name=vpc-id",
            "Filter.3.Value.1=vpc-1",
        ];
        form.extend(filter);
        form.push("MaxResults=1000");
        let request = Request::DescribeAbandonedInterfaces { vpc: "vpc-1".to_owned(), cluster: cluster.to_owned() };
        assert_eq!(exchange(request, &form, empty).await, Ok(Answer::Interfaces(vec![])), "spec 03 §7.10");
    }
    let form = [
        "Action=DescribeInstances",
        "Filter.1.Name=instance-id",
        "Filter.1.Value.1=i-1",
        "Filter.1.Value.2=i-2",
        "Filter.2.Name=instance-state-name",
        "Filter.2.Value.1=pending",
        "Filter.2.Value.2=running",
        "Filter.2.Value.3=shutting-down",
        "Filter.2.Value.4=stopping",
        "Filter.2.Value.5=stopped",
        "MaxResults=1000",
    ];
    let one = "<item><instancesSet><item><instanceId>i-2</instanceId></item></instancesSet></item>";
    let ids = vec!["i-1".to_owned(), "i-2".to_owned()];
    let xml = format!("<R><reservationSet>{one}</reservationSet></R>");
    let answer = exchange(Request::DescribeLivingInstances { ids }, &form, &xml);
    assert_eq!(answer.await, Ok(Answer::Instances(vec!["i-2".to_owned()])));
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
            ipv6_cidr: Some("2600:1f14::/64".parse().unwrap()),
            free_ips: 4091,
            tags: vec![("kubernetes.io/role/cni".to_owned(), "1".to_owned())],
        },
        SubnetFacts { id: "subnet-2".to_owned(), cidr: None, ipv6_cidr: None, free_ips: 0, tags: vec![] },
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
