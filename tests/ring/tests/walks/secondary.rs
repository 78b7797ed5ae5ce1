//! Single addresses: every row, and every setting that says what is translated.

use ring::traffic::Talk;

use crate::world::{INTERNET, Outside, PEER, PEER_NET, Source, World, ip};

const TRANSLATED: Outside = Outside { internet: Source::Node, peer: Some(Source::Node) };
const EXCLUDED: Outside = Outside { internet: Source::Node, peer: Some(Source::Pod) };
const ELSEWHERE: Outside = Outside { internet: Source::Lost, peer: Some(Source::Pod) };

#[test]
fn every_row_with_every_kind_of_translation() {
    if !crate::can_run("every_row_with_every_kind_of_translation") {
        return;
    }
    let mut world = World::small(&[]);
    world.fill(2);
    assert_eq!((world.primary().len(), world.secondary().len()), (3, 2));
    world.walk(TRANSLATED);
    the_mark_is_remembered(&world);

    // The same pods; the settings change under them.
    world.restart(&[("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", PEER_NET)]);
    world.walk(EXCLUDED);
    world.restart(&[("AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS", ""), ("AWS_VPC_K8S_CNI_EXTERNALSNAT", "true")]);
    world.walk(ELSEWHERE);
    world.restart(&[("AWS_VPC_CNI_NODE_PORT_SUPPORT", "false")]);
    world.walk(ELSEWHERE);
    world.restart(&[("AWS_VPC_K8S_CNI_EXTERNALSNAT", ""), ("AWS_VPC_CNI_NODE_PORT_SUPPORT", "")]);
    // Another block of the VPC, which the daemon learns of at its start.
    world.set_vpc_cidrs(&["10.0.0.0/16", PEER_NET]);
    world.restart(&[]);
    world.walk(EXCLUDED);
    world.set_vpc_cidrs(&["10.0.0.0/16"]);
    world.restart(&[]);
    world.walk(TRANSLATED);
    world.close();
}

/// Row 3: the first packet of a pod's connection to the outside marks it, for this the next ones are routed.
fn the_mark_is_remembered(world: &World) {
    let pod = world.secondary().remove(0);
    let talk = Talk::new(&pod.netns, &world.internet(), INTERNET);
    let (tcp, udp) = (talk.clone().through((INTERNET, 7001).into(), 7001), talk.through((INTERNET, 7002).into(), 7002));
    tcp.tcp().unwrap();
    udp.udp().unwrap();
    for (protocol, port) in [("tcp", 7001), ("udp", 7002)] {
        let flows = world.flows(protocol, port);
        assert_eq!(flows.len(), 1, "{flows:#?}");
        let words: Vec<&str> = flows[0].split_whitespace().collect();
        let (from, back) = (format!("src={}", pod.ip), format!("dst={}", world.own()));
        for word in [from.as_str(), back.as_str(), "mark=128"] {
            assert!(words.contains(&word), "{word}: {}", flows[0]);
        }
    }
    // Within the VPC there is none.
    Talk::new(&pod.netns, &world.host(), world.vpc_host).through((world.vpc_host, 7003).into(), 7003).tcp().unwrap();
    let flows = world.flows("tcp", 7003);
    assert!(flows.len() == 1 && flows[0].contains(" mark=0 "), "{flows:#?}");
}

/// `none` keeps a pod's source port, the others choose one at random.
#[test]
fn ports_are_chosen_as_randomizesnat_says() {
    if !crate::can_run("ports_are_chosen_as_randomizesnat_says") {
        return;
    }
    let mut world = World::small(&[("AWS_VPC_K8S_CNI_RANDOMIZESNAT", "none")]);
    world.fill(1);
    let (primary, secondary) = (world.primary().remove(0), world.secondary().remove(0));
    for (setting, flag, keeps) in
        [("none", "", true), ("hashrandom", " --random", false), ("prng", " --random-fully", false)]
    {
        world.restart(&[("AWS_VPC_K8S_CNI_RANDOMIZESNAT", setting)]);
        let saved = ring::shell::in_netns(&world.home(), "iptables-save", &["-t", "nat"]).unwrap();
        let rule = saved.lines().find(|l| l.contains("-j SNAT")).unwrap();
        assert!(rule.ends_with(&format!("--to-source {}{flag}", world.own())), "{setting}: {rule}");
        for pod in [&primary, &secondary] {
            let talk = Talk::new(&pod.netns, &world.host(), PEER);
            let seen: Vec<_> = (0..4).flat_map(|_| [talk.tcp().unwrap(), talk.udp().unwrap()]).collect();
            assert!(seen.iter().all(|s| s.client.ip() == ip(pod) && s.peer.ip() == world.own()), "{seen:?}");
            // One of them may hit the same port by chance; eight of them do not.
            let kept = seen.iter().filter(|s| s.client.port() == s.peer.port()).count();
            assert!(if keeps { kept == seen.len() } else { kept <= 1 }, "{setting}, {}: {seen:?}", pod.name);
        }
    }
    world.close();
}
