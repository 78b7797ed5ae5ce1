//! The client against moto, for the calls moto has. `tests/moto/run.sh` starts the server; docs/moto.md tells where
//! moto differs from EC2, which is why some answers are looked at less closely than others.

#[path = "../src/testing.rs"]
#[allow(dead_code, reason = "shared with the crate's own tests")]
mod testing;

mod lifecycle;

use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_ec2::types::{InstanceType, ResourceType, Tag, TagSpecification};
use lifecycle::{Account, Lack, Node};
use reservoir_cloud::imds::ImdsConfig;
use reservoir_cloud::{AwsCloud, CloudConfig};
use reservoir_core::ip::IpNet;
use testing::{Server, example_metadata};

async fn prepare(url: &str) -> (Account, String) {
    let config = aws_sdk_ec2::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-west-2"))
        .credentials_provider(Credentials::new("operator", "secret", None, None, "test"))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .endpoint_url(url)
        .build();
    let ec2 = Client::from_conf(config);
    let vpc = ec2.create_vpc().cidr_block("10.20.0.0/16").amazon_provided_ipv6_cidr_block(true).send().await.unwrap();
    let vpc = vpc.vpc().unwrap();
    let block = vpc.ipv6_cidr_block_association_set()[0].ipv6_cidr_block().unwrap();
    let ipv6_cidr = IpNet::new(block.parse::<IpNet>().unwrap().network(), 64);
    let vpc = vpc.vpc_id().unwrap().to_owned();
    let role = Tag::builder().key("kubernetes.io/role/cni").value("1").build();
    let tags = TagSpecification::builder().resource_type(ResourceType::Subnet).tags(role).build();
    let subnet = ec2.create_subnet().vpc_id(&vpc).cidr_block("10.20.0.0/16").availability_zone("us-west-2a");
    let subnet = subnet.ipv6_cidr_block(ipv6_cidr.to_string());
    let subnet = subnet.tag_specifications(tags).send().await.unwrap();
    let subnet = subnet.subnet().unwrap().subnet_id().unwrap().to_owned();
    let group = ec2.create_security_group().group_name("node").description("node").vpc_id(&vpc);
    let group = group.send().await.unwrap().group_id().unwrap().to_owned();
    let run = ec2.run_instances().image_id("ami-12c6146b").instance_type(InstanceType::M5Large);
    let run = run.min_count(1).max_count(1).subnet_id(&subnet).send().await.unwrap();
    let instance = &run.instances()[0];
    let interface = &instance.network_interfaces()[0];
    let mac = interface.mac_address().unwrap().to_owned();
    let account = Account {
        vpc,
        subnet,
        group,
        instance: instance.instance_id().unwrap().to_owned(),
        primary: interface.network_interface_id().unwrap().to_owned(),
        cidr: "10.20.0.0/16".parse().unwrap(),
        ipv6_cidr,
        lacks: &[Lack::Prefixes, Lack::ClientToken, Lack::SubnetIpv6],
    };
    (account, mac)
}

/// The metadata of that instance; moto's own is of none (docs/moto.md).
async fn metadata(account: &Account, mac: &str) -> Server {
    let of = |name: &str| format!("/latest/meta-data/network/interfaces/macs/{mac}/{name}");
    let (eni, subnet, vpc) = (of("interface-id"), of("subnet-id"), of("vpc-id"));
    Server::start(example_metadata(&[
        ("/latest/meta-data/instance-id", Some(&account.instance)),
        ("/latest/meta-data/instance-type", Some("m5.large")),
        ("/latest/meta-data/mac", Some(mac)),
        (&eni, Some(&account.primary)),
        (&subnet, Some(&account.subnet)),
        (&vpc, Some(&account.vpc)),
    ]))
    .await
}

#[tokio::test]
async fn an_interface_lives_and_dies_in_moto() {
    let Ok(url) = std::env::var("RESERVOIR_MOTO_URL") else {
        println!("SKIPPED: moto: RESERVOIR_MOTO_URL is not set; run tests/moto/run.sh");
        return;
    };
    let (account, mac) = prepare(&url).await;
    let metadata = metadata(&account, &mac).await;
    let config = CloudConfig {
        imds: ImdsConfig { endpoint: Some(metadata.url.clone()), ..ImdsConfig::default() },
        ec2_endpoint: Some(url),
        ..CloudConfig::default()
    };
    let (cloud, facts) = AwsCloud::connect(config).await.unwrap();
    assert_eq!(facts.instance_id, account.instance);
    let mut node = Node { cloud, calls: 0 };

    lifecycle::run(&mut node, &account).await;
    println!("moto: {} calls answered as expected", node.calls);
}
