//! One interface from its making to its end, by the client of this crate: the same against every double of EC2.

use reservoir_cloud::{AwsCloud, Cloud};
use reservoir_core::cloud::{Answer, CloudError, CreateInterface, ErrorKind, Interface, Request, SubnetFacts};
use reservoir_core::ip::{IpNet, Ipv4Net};
use reservoir_core::limits::InstanceLimits;
use reservoir_core::policy::Unit;

const INSTANCE_TAG: &str = "node.k8s.amazonaws.com/instance_id";

/// What the operator of an account made before our node came.
#[derive(Debug)]
pub struct Account {
    pub vpc: String,
    pub subnet: String,
    pub group: String,
    pub instance: String,
    pub primary: String,
    /// Block of the subnet.
    pub cidr: Ipv4Net,
    /// The subnet's IPv6 block.
    pub ipv6_cidr: IpNet,
    /// What this double leaves out of what EC2 does (docs/moto.md).
    pub lacks: &'static [Lack],
}

/// What a double may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// Prefixes of either family are accepted and ignored.
    Prefixes,
    /// A client token is ignored.
    ClientToken,
    /// The IPv6 block of a subnet is not told.
    SubnetIpv6,
}

/// The client, and how many calls it made.
pub struct Node {
    pub cloud: AwsCloud,
    pub calls: usize,
}

impl Node {
    async fn call(&mut self, request: Request) -> Result<Answer, CloudError> {
        self.calls += 1;
        self.cloud.call(request).await
    }

    async fn done(&mut self, request: Request) {
        assert_eq!(self.call(request).await, Ok(Answer::Done));
    }

    async fn refused(&mut self, request: Request) -> (ErrorKind, String) {
        let error = self.call(request).await.unwrap_err();
        (error.kind, error.code)
    }

    async fn interfaces(&mut self, request: Request) -> Vec<Interface> {
        match self.call(request).await {
            Ok(Answer::Interfaces(found)) => found,
            other => panic!("{other:?}"),
        }
    }

    async fn interface(&mut self, eni: &str) -> Interface {
        self.interfaces(Request::DescribeNetworkInterfaces { ids: vec![eni.to_owned()] }).await.remove(0)
    }
}

/// All of it.
pub async fn run(node: &mut Node, account: &Account) {
    what_is_there(node, account).await;
    let eni = grow(node, account).await;
    addresses(node, &eni).await;
    prefixes(node, account, &eni).await;
    shrink(node, &eni).await;
    if !account.lacks.contains(&Lack::SubnetIpv6) {
        of_ipv6(node, account).await;
    }
}

/// What the account shows of itself.
async fn what_is_there(node: &mut Node, account: &Account) {
    let devices = node.call(Request::DescribeInstance { instance: account.instance.clone() }).await;
    let Ok(Answer::Devices(devices)) = devices else { panic!("{devices:?}") };
    assert_eq!(devices.len(), 1);
    assert_eq!((devices[0].eni.as_str(), devices[0].device_index), (account.primary.as_str(), 0));

    let zone = "us-west-2a".to_owned();
    let subnets = node.call(Request::DescribeSubnets { vpc: account.vpc.clone(), availability_zone: zone }).await;
    let Ok(Answer::Subnets(subnets)) = subnets else { panic!("{subnets:?}") };
    let [SubnetFacts { id, cidr, ipv6_cidr, free_ips, tags }] = subnets.as_slice() else { panic!("{subnets:?}") };
    let told = !account.lacks.contains(&Lack::SubnetIpv6);
    assert_eq!((id, *ipv6_cidr), (&account.subnet, told.then_some(account.ipv6_cidr)));
    assert_eq!(cidr.unwrap(), account.cidr);
    assert_eq!(tags, &[("kubernetes.io/role/cni".to_owned(), "1".to_owned())]);
    assert!(*free_ips > 0 && *free_ips < account.cidr.size(), "{free_ips}");

    let request = |name: &str| Request::DescribeInstanceType { instance_type: name.to_owned() };
    let bundled = InstanceLimits::of("m5.large").unwrap();
    assert_eq!(node.call(request("m5.large")).await, Ok(Answer::InstanceType(bundled)));
    let refusal = node.refused(request("m5.colossal")).await;
    assert_eq!(refusal, (ErrorKind::Refused, "InvalidInstanceType".to_owned()));
}

/// Create, attach, modify: what the pool manager does for one more interface.
async fn grow(node: &mut Node, account: &Account) -> String {
    let tags = vec![
        (INSTANCE_TAG.to_owned(), account.instance.clone()),
        ("node.k8s.amazonaws.com/createdAt".to_owned(), "2026-08-20T22:15:01Z".to_owned()),
    ];
    let create = CreateInterface {
        subnet: account.subnet.clone(),
        description: format!("aws-K8S-{}", account.instance),
        security_groups: vec![account.group.clone()],
        tags: tags.clone(),
        unit: Unit::Ip,
        count: 3,
        ipv6_addresses: 0,
        connection_tracking: None,
        client_token: "3a6c7b1e-0000-4000-8000-000000000001".to_owned(),
    };
    let made = node.interfaces(Request::CreateNetworkInterface(create)).await.remove(0);
    assert_eq!((made.subnet.as_str(), made.status.as_str()), (account.subnet.as_str(), "available"));
    assert_eq!(made.description, format!("aws-K8S-{}", account.instance));
    assert_eq!(made.security_groups, std::slice::from_ref(&account.group));
    assert_eq!((made.secondary.len(), made.mac.len()), (3, 17));
    assert!(made.primary.is_some() && made.attachment.is_none());
    let mut sorted = tags;
    sorted.sort();
    assert_eq!(made.tags, sorted);

    let detached = Request::DescribeDetachedInterfaces { instance: account.instance.clone() };
    let found = node.interfaces(detached.clone()).await;
    assert_eq!(found.iter().map(|i| &i.eni).collect::<Vec<_>>(), [&made.eni]);

    as_others_see_it(node, account, &made.eni).await;

    let (eni, instance) = (made.eni.clone(), account.instance.clone());
    let attach = Request::AttachNetworkInterface { eni, instance, device_index: 1, card: 0 };
    let attached = node.call(attach).await;
    let Ok(Answer::Attachment { id }) = attached else { panic!("{attached:?}") };
    node.done(Request::SetDeleteOnTermination { eni: made.eni.clone(), attachment: id.clone() }).await;
    node.done(Request::SetSecurityGroups { eni: made.eni.clone(), groups: vec![account.group.clone()] }).await;
    let attachment = node.interface(&made.eni).await.attachment.unwrap();
    assert_eq!((attachment.id, attachment.device_index), (id, 1));
    assert!(node.interfaces(detached).await.is_empty());
    made.eni
}

/// What the search for left-overs of instances that are gone finds, and which instances it takes to be there (spec 03
/// §7.10).
async fn as_others_see_it(node: &mut Node, account: &Account, eni: &str) {
    let abandoned =
        |cluster: &str| Request::DescribeAbandonedInterfaces { vpc: account.vpc.clone(), cluster: cluster.to_owned() };
    let found = node.interfaces(abandoned("")).await;
    assert_eq!(found.iter().map(|i| i.eni.as_str()).collect::<Vec<_>>(), [eni]);
    assert!(node.interfaces(abandoned("demo")).await.is_empty(), "it has no tag of a cluster yet");
    let ids = vec![account.instance.clone(), "i-0fedcba9876543210".to_owned()];
    let living = node.call(Request::DescribeLivingInstances { ids }).await;
    assert_eq!(living, Ok(Answer::Instances(vec![account.instance.clone()])));
}

/// More addresses, fewer, tags.
async fn addresses(node: &mut Node, eni: &str) {
    let assign = Request::AssignPrivateIpAddresses { eni: eni.to_owned(), unit: Unit::Ip, count: 2 };
    let answer = node.call(assign).await;
    // All addresses of the interface, where EC2 names the new ones.
    assert!(matches!(&answer, Ok(Answer::Assigned { addresses, .. }) if addresses.len() >= 2), "{answer:?}");
    let mut before = node.interface(eni).await.secondary;
    assert_eq!(before.len(), 5);

    let gone = before.pop().unwrap();
    let unassign = Request::UnassignPrivateIpAddresses { eni: eni.to_owned(), addresses: vec![gone], prefixes: vec![] };
    node.done(unassign).await;
    let after = node.interface(eni).await;
    assert_eq!(after.secondary, before);

    let tag = ("cluster.k8s.amazonaws.com/name".to_owned(), "demo".to_owned());
    node.done(Request::CreateTags { resource: eni.to_owned(), tags: vec![tag.clone()] }).await;
    assert!(node.interface(eni).await.tags.contains(&tag));
}

/// /28s of the subnet, and back.
async fn prefixes(node: &mut Node, account: &Account, eni: &str) {
    let assign = Request::AssignPrivateIpAddresses { eni: eni.to_owned(), unit: Unit::Prefix, count: 2 };
    let answer = node.call(assign).await;
    let Ok(Answer::Assigned { prefixes, .. }) = answer else { panic!("{answer:?}") };
    let held = node.interface(eni).await.prefixes;
    if account.lacks.contains(&Lack::Prefixes) {
        assert!(
            prefixes.is_empty() && held.is_empty(),
            "docs/moto.md says that it ignores them: {prefixes:?} {held:?}"
        );
        return;
    }
    assert_eq!((prefixes.len(), &held), (2, &prefixes));
    assert!(prefixes.iter().all(|p| p.length() == 28 && account.cidr.contains(p.network())), "{prefixes:?}");
    let back = Request::UnassignPrivateIpAddresses { eni: eni.to_owned(), addresses: vec![], prefixes };
    node.done(back).await;
    assert!(node.interface(eni).await.prefixes.is_empty());
}

/// An interface with an IPv6 address of its own and one prefix (spec 03 §7.2, §7.12); the same call twice makes one.
async fn of_ipv6(node: &mut Node, account: &Account) {
    let create = CreateInterface {
        subnet: account.subnet.clone(),
        description: format!("aws-K8S-{}", account.instance),
        security_groups: vec![account.group.clone()],
        tags: vec![(INSTANCE_TAG.to_owned(), account.instance.clone())],
        unit: Unit::Prefix,
        count: 0,
        ipv6_addresses: 1,
        connection_tracking: None,
        client_token: "3a6c7b1e-0000-4000-8000-000000000002".to_owned(),
    };
    let made = node.interfaces(Request::CreateNetworkInterface(create.clone())).await.remove(0);
    let again = node.interfaces(Request::CreateNetworkInterface(create)).await.remove(0);
    assert_eq!(made.eni == again.eni, !account.lacks.contains(&Lack::ClientToken), "{} {}", made.eni, again.eni);
    assert_eq!(made.ipv6.len(), 1);
    assert!(account.ipv6_cidr.contains(made.ipv6[0].into()), "{:?}", made.ipv6);

    let answer = node.call(Request::AssignIpv6Prefix { eni: made.eni.clone() }).await;
    let Ok(Answer::Ipv6Prefixes(prefixes)) = answer else { panic!("{answer:?}") };
    let held = node.interface(&made.eni).await.ipv6_prefixes;
    if account.lacks.contains(&Lack::Prefixes) {
        assert!(
            prefixes.is_empty() && held.is_empty(),
            "docs/moto.md says that it ignores them: {prefixes:?} {held:?}"
        );
    } else {
        assert_eq!((prefixes.len(), &held), (1, &prefixes));
        assert_eq!(prefixes[0].length(), 80);
        assert!(account.ipv6_cidr.contains(prefixes[0].network()));
        node.done(Request::UnassignIpv6Prefixes { eni: made.eni.clone(), prefixes }).await;
        assert!(node.interface(&made.eni).await.ipv6_prefixes.is_empty());
    }
    node.done(Request::DeleteNetworkInterface { eni: made.eni.clone() }).await;
    if again.eni != made.eni {
        node.done(Request::DeleteNetworkInterface { eni: again.eni }).await;
    }
}

/// Detach and delete, and what is said of what is gone.
async fn shrink(node: &mut Node, eni: &str) {
    let attachment = node.interface(eni).await.attachment.unwrap().id;
    node.done(Request::DetachNetworkInterface { attachment: attachment.clone() }).await;
    assert_eq!(node.interface(eni).await.attachment, None);
    let refusal = node.refused(Request::DetachNetworkInterface { attachment }).await;
    assert_eq!(refusal, (ErrorKind::NotFound, "InvalidAttachmentID.NotFound".to_owned()));

    node.done(Request::DeleteNetworkInterface { eni: eni.to_owned() }).await;
    for request in [
        Request::DescribeNetworkInterfaces { ids: vec![eni.to_owned()] },
        Request::DeleteNetworkInterface { eni: eni.to_owned() },
    ] {
        let refusal = node.refused(request).await;
        assert_eq!(refusal, (ErrorKind::NotFound, "InvalidNetworkInterfaceID.NotFound".to_owned()));
    }
}
