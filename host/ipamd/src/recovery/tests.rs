use std::net::Ipv4Addr;

use reservoir_core::ip::{IpNet, Ipv4Net};
use reservoir_core::manager::NotReady;
use reservoir_core::store::EniSpec;

use super::*;

/// A host with some links and pods; `None` fails.
struct Host {
    links: Option<Vec<&'static str>>,
    pods: Option<Vec<(IpAddr, Option<&'static str>)>>,
}

impl HostNetwork for Host {
    fn set_up_host(&self, _: &str, _: Ipv4Addr, _: &[Ipv4Net]) -> Result<(), String> {
        Ok(())
    }
    fn set_vpc_blocks(&self, _: &[Ipv4Net]) -> Result<(), String> {
        Ok(())
    }
    fn set_up_eni(&self, eni: &EniSpec, _: IpNet) -> Result<u32, NotReady> {
        Ok(eni.table)
    }
    fn table(&self, eni: &EniSpec) -> Result<u32, String> {
        Ok(eni.table)
    }
    fn leave_eni(&self, _: &EniSpec) -> Result<(), String> {
        Ok(())
    }
    fn link_index(&self, _: &str) -> Result<Option<u32>, String> {
        Ok(None)
    }
    fn tear_down_eni(&self, _: &EniSpec) -> Result<(), String> {
        Ok(())
    }
    fn links(&self) -> Result<Vec<String>, String> {
        self.links.as_ref().map(|l| l.iter().map(ToString::to_string).collect()).ok_or("no netlink".to_owned())
    }
    fn pods(&self) -> Result<Vec<(IpAddr, Option<String>)>, String> {
        let pods = self.pods.as_ref().ok_or("no netlink".to_owned())?;
        Ok(pods.iter().map(|(ip, veth)| (*ip, veth.map(str::to_owned))).collect())
    }
    fn prune(&self, _: &[IpAddr]) {}
    fn refresh(&self, _: &[Ipv4Addr]) -> Result<(), String> {
        Ok(())
    }
}

fn file(content: Option<&str>) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ipam.json");
    if let Some(content) = content {
        fs::write(&path, content).unwrap();
    }
    (dir, path)
}

#[test]
fn a_damaged_checkpoint_is_set_aside_and_rebuilt_from_the_host() {
    let (dir, path) = file(Some("{\"version\":\"vpc-cni-ipam/1\",\"alloca"));
    let ip = Ipv4Addr::new(10, 0, 0, 5);
    let veth = "enib5faff8a083";
    let host = Host {
        links: Some(vec!["lo", veth]),
        pods: Some(vec![(ip.into(), Some(veth)), (Ipv4Addr::new(10, 0, 0, 6).into(), None)]),
    };
    let found = read(&path, &host, 7).unwrap();
    assert_eq!(found.kept.len(), 1, "an address without a veth is in nobody's hands");
    assert_eq!(found.kept[0].1, IpAddr::V4(ip));
    // The DEL of that pod finds it by its names (spec 02 §6.6's test value).
    assert_eq!(found.kept[0].0.key, key("kube-system", "coredns-57ff979f67-qqbdh"));
    assert!(!path.exists());
    let aside = dir.path().join("ipam.json.corrupt-7");
    assert!(fs::read_to_string(aside).unwrap().ends_with("alloca"), "spec 02 §6.7: nothing is lost");
}

#[test]
fn a_damaged_checkpoint_stays_where_nothing_can_be_proven() {
    let (_dir, path) = file(Some("nonsense"));
    let error = read(&path, &Host { links: None, pods: None }, 7).unwrap_err();
    assert!(matches!(error, RecoveryError::Unprovable { .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "nonsense");
}

#[test]
fn rebuilt_entries_live_as_long_as_their_veth() {
    let entry = |suffix: &str, ip: &str| {
        checkpoint::entry(&Key::new(RECOVERED, suffix, "unknown"), ip.parse().unwrap(), 0, &PodMeta::default())
    };
    let texts = [entry("b5faff8a083", "10.0.0.5"), entry("0d7763386da", "10.0.0.6")];
    let content = checkpoint::render(texts.iter().map(String::as_str));
    let (_dir, path) = file(Some(std::str::from_utf8(&content).unwrap()));
    let host = Host { links: Some(vec!["lo", "enib5faff8a083"]), pods: None };
    let found = read(&path, &host, 7).unwrap();
    assert_eq!(found.kept.len(), 1);
    assert_eq!(found.kept[0].1.to_string(), "10.0.0.5");
    assert_eq!(found.prune, ["10.0.0.6".parse::<IpAddr>().unwrap()], "the rules of the other one go (spec 02 §7.2)");
    assert_eq!(found.dropped.len(), 1);
}

#[test]
fn the_rules_of_a_rebuilt_entry_stay_where_a_living_pod_has_its_address() {
    let pod =
        PodMeta { namespace: "kube-system".to_owned(), name: "coredns-57ff979f67-qqbdh".to_owned(), interfaces: 1 };
    let address: IpAddr = "10.0.0.5".parse().unwrap();
    let texts = [
        checkpoint::entry(&Key::new("n", "c", "eth0"), address, 1, &pod),
        checkpoint::entry(&Key::new(RECOVERED, "0d7763386da", "unknown"), address, 0, &PodMeta::default()),
    ];
    let content = checkpoint::render(texts.iter().map(String::as_str));
    let (_dir, path) = file(Some(std::str::from_utf8(&content).unwrap()));
    let host = Host { links: Some(vec!["lo", "enib5faff8a083"]), pods: None };
    let found = read(&path, &host, 1000).unwrap();
    assert_eq!((found.kept.len(), found.prune.len()), (1, 0), "{found:?}");
}

#[test]
fn an_unknown_version_and_unlistable_links_are_fatal() {
    let (_dir, path) = file(Some("{\"version\":\"vpc-cni-ipam/2\",\"allocations\":[]}"));
    let host = || Host { links: None, pods: None };
    let error = read(&path, &host(), 7).unwrap_err();
    assert!(error.to_string().contains("vpc-cni-ipam/2/vpc-cni-ipam/1"), "{error}");
    let (_dir, path) = file(Some("{\"version\":\"vpc-cni-ipam/1\",\"allocations\":[]}"));
    assert!(matches!(read(&path, &host(), 7), Err(RecoveryError::Links(_))));
    assert!(path.exists());
}

#[test]
fn an_address_given_moments_ago_is_kept_although_its_veth_is_not_there_yet() {
    let entry = |name: &str, ip: &str, age: i64| {
        let pod = PodMeta { namespace: "kube-system".to_owned(), name: name.to_owned(), interfaces: 1 };
        checkpoint::entry(&Key::new("n", name, "eth0"), ip.parse().unwrap(), (1000 - age) * 1_000_000_000, &pod)
    };
    let texts = [
        entry("coredns-57ff979f67-qqbdh", "10.0.0.5", 3),
        entry("coredns-57ff979f67-8ns9b", "10.0.0.6", 3),
        entry("old", "10.0.0.7", 31),
    ];
    let content = checkpoint::render(texts.iter().map(String::as_str));
    let (_dir, path) = file(Some(std::str::from_utf8(&content).unwrap()));
    let host = |links: &[&'static str]| Host { links: Some(links.to_vec()), pods: None };
    let found = read(&path, &host(&["lo", "enib5faff8a083"]), 1000).unwrap();
    let kept: Vec<_> = found.kept.iter().map(|(_, ip)| ip.to_string()).collect();
    assert_eq!(kept, ["10.0.0.5", "10.0.0.6"]);
    assert_eq!(found.prune, ["10.0.0.7".parse::<IpAddr>().unwrap()]);
    let again = |links: &[&'static str]| -> Vec<String> {
        let gone = without_veth(found.unproven.clone(), &host(links)).unwrap();
        gone.iter().map(|pod| pod.address.to_string()).collect()
    };
    assert_eq!(again(&["lo", "enib5faff8a083", "eni9571956a6cc"]), Vec::<String>::new(), "the plugin was at work");
    assert_eq!(again(&["lo", "enib5faff8a083"]), ["10.0.0.6"], "it never came");
    assert_eq!(again(&["lo", "eni9571956a6cc"]), ["10.0.0.5"], "its veth was about to go at the start");
    let without_kernel = read(&path, &host(&[]), 1000).unwrap();
    assert_eq!((without_kernel.kept.len(), without_kernel.unproven.len()), (3, 0), "no links: all live");
}

#[test]
fn a_card_without_a_file_is_a_loss_only_where_the_host_shows_more_than_the_others_tell() {
    let pod =
        PodMeta { namespace: "kube-system".to_owned(), name: "coredns-57ff979f67-qqbdh".to_owned(), interfaces: 2 };
    let told = checkpoint::entry(&Key::new("n", "c", "eth0"), "10.0.0.5".parse().unwrap(), 1, &pod);
    let content = checkpoint::render([told.as_str()].into_iter());
    let (_dir, path) = file(Some(std::str::from_utf8(&content).unwrap()));
    let second = reservoir_net::names::host_veth("eni", "kube-system", "coredns-57ff979f67-qqbdh", 1);
    let second: &'static str = Box::leak(second.into_boxed_str());
    let host = |pods: &[(&str, &'static str)]| Host {
        links: Some(vec!["lo", "enib5faff8a083", second]),
        pods: Some(pods.iter().map(|(ip, veth)| (ip.parse().unwrap(), Some(*veth))).collect()),
    };
    let shown =
        |found: &Found| found.kept.iter().map(|(a, ip)| (a.key.network.clone(), ip.to_string())).collect::<Vec<_>>();

    let all = read_cards(&path, &[0, 1], &host(&[("10.0.0.5", "enib5faff8a083")]), 1000, false).unwrap();
    assert_eq!(all.iter().map(|(card, _)| *card).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(shown(&all[0].1), [("n".to_owned(), "10.0.0.5".to_owned())]);
    assert!(all[1].1.kept.is_empty() && !all[1].1.rewrite, "the card held nothing: {:?}", all[1].1);

    let two = [("10.0.0.5", "enib5faff8a083"), ("10.0.1.7", second)];
    let all = read_cards(&path, &[0, 1, 2], &host(&two), 1000, false).unwrap();
    assert_eq!(shown(&all[1].1), [(RECOVERED.to_owned(), "10.0.1.7".to_owned())], "only what no file tells of");
    assert!(all[1].1.rewrite && all[1].1.unproven.len() == 1 && all[2].1.kept.is_empty());
    let keys = keys("kube-system", "coredns-57ff979f67-qqbdh", 2);
    assert_eq!(keys[0], key("kube-system", "coredns-57ff979f67-qqbdh"));
    assert_eq!(all[1].1.kept[0].0.key, keys[1], "a late DEL finds the second interface's address too");
}
