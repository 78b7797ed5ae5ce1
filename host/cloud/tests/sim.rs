//! The client, the unmodified AWS SDK in it, against the simulated AWS over HTTP: the same life of an interface as in moto.

mod lifecycle;

use std::time::Duration;

use lifecycle::{Account, Node};
use reservoir_cloud::imds::ImdsConfig;
use reservoir_cloud::{AwsCloud, Cloud, CloudConfig};
use reservoir_core::cloud::{Answer, Request};
use reservoir_sim::http::{Server, Simulation};
use reservoir_sim::{Config, Sim};
use tokio::net::TcpListener;

#[tokio::test]
async fn an_interface_lives_and_dies_in_the_simulated_aws() {
    let mut config = Config::default();
    let role = ("kubernetes.io/role/cni".to_owned(), "1".to_owned());
    config.subnets[0].tags = [role].into_iter().collect();
    config.instances[0].instance_type = "m5.large".to_owned();
    let ipv6_cidr = "2600:1f14:abc:d00::/64".parse().unwrap();
    config.subnets[0].ipv6_cidr = Some(ipv6_cidr);
    config.vpc.ipv6_cidrs = vec!["2600:1f14:abc:d00::/56".parse().unwrap()];
    let (instance, cidr) = (config.instances[0].id.clone(), config.subnets[0].cidr);
    let simulation = Simulation::new(Sim::new(&config).unwrap(), None);
    let server = Server::new(simulation.clone());
    let ec2 = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let imds = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = |listener: &TcpListener| format!("http://{}", listener.local_addr().unwrap());
    let (ec2_url, imds_url) = (url(&ec2), url(&imds));
    tokio::spawn(server.clone().serve_ec2(ec2));
    tokio::spawn(server.serve_metadata(imds, instance.clone()));

    let config = CloudConfig {
        imds: ImdsConfig { endpoint: Some(imds_url), ..ImdsConfig::default() },
        ec2_endpoint: Some(ec2_url),
        http_timeout: Duration::from_secs(10),
        ..CloudConfig::default()
    };
    // Credentials come from the instance role, as on a node.
    let (cloud, facts) = AwsCloud::connect(config).await.unwrap();
    assert_eq!((&facts.instance_id, facts.instance_type.as_str()), (&instance, "m5.large"));
    let Ok(Answer::SecurityGroups(groups)) = cloud.call(Request::PrimarySecurityGroups { mac: facts.mac }).await else {
        panic!("security groups");
    };
    let account = Account {
        vpc: facts.vpc,
        subnet: facts.subnet,
        group: groups[0].clone(),
        instance,
        primary: facts.primary_eni,
        cidr,
        ipv6_cidr,
        lacks: &[],
    };
    let mut node = Node { cloud, calls: 0 };
    lifecycle::run(&mut node, &account).await;
    println!("aws-sim: {} calls answered as expected", node.calls);
    let wrong = simulation.with(|sim, _| sim.audit());
    assert!(wrong.is_empty(), "{wrong:?}");
}
