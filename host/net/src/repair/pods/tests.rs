use super::*;

const SUFFIX: &str = "0761ccbeace";
const ADDRESS: [u8; 4] = [10, 0, 97, 31];

fn pod() -> Pod {
    Pod { address: ADDRESS.into(), table: 2, suffix: Some(SUFFIX.to_owned()), since: 7, settled: true }
}

fn own() -> IpPrefix {
    IpPrefix::host(ADDRESS)
}

fn veth(name: &str) -> LinkInfo {
    let mac = Some(MacAddr([2, 0, 0, 0, 0, 9]));
    LinkInfo { index: 9, name: name.to_owned(), mac, mtu: 9001, up: true, peer_index: Some(2), peer_elsewhere: false }
}

fn route() -> RouteInfo {
    let device_index = Some(9);
    RouteInfo { destination: own(), table: table::MAIN, on_link: true, device_index, gateway: None, source: None }
}

fn whole() -> Found {
    Found {
        links: vec![LinkInfo { index: 1, mac: None, ..veth("lo") }, veth("eni0761ccbeace")],
        rules: vec![Rule::local(Family::V4, 0), Rule::to_pod(own()), Rule::from_pod(own(), 2)],
        routes: vec![route()],
        first_names: FirstNames::default(),
    }
}

fn texts(plan: &Plan) -> Vec<String> {
    let repairs = plan.repairs.iter().flat_map(|(_, _, steps)| steps);
    repairs.chain(plan.leftovers.iter().flat_map(|(_, steps)| steps)).map(|s| s.op.to_string()).collect()
}

fn planned(pods: &[Pod], found: &Found) -> Vec<String> {
    texts(&plan(pods, &Memory::default(), found))
}

#[test]
fn what_is_missing_is_put_back_and_nothing_else() {
    type Harm = fn(&mut Found);
    let harms: [(Harm, &str); 4] = [
        (|f| f.links[1].up = false, "link set eni0761ccbeace up"),
        (|f| f.routes.clear(), "route replace 10.0.97.31/32 dev eni0761ccbeace scope link table 254"),
        (|f| f.rules.retain(|r| r.priority != 512), "rule add 512: from all to 10.0.97.31/32 lookup 254"),
        (|f| f.rules.retain(|r| r.priority != 1536), "rule add 1536: from 10.0.97.31/32 lookup 2"),
    ];
    for set in 0..1 << harms.len() {
        let mut found = whole();
        let mut expected = Vec::new();
        for (_, (harm, repair)) in harms.iter().enumerate().filter(|(bit, _)| set & (1 << bit) != 0) {
            harm(&mut found);
            expected.push(*repair);
        }
        assert_eq!(planned(&[pod()], &found), expected, "harms {set:#b}");
    }
}

#[test]
fn a_route_over_another_interface_is_replaced() {
    let mut found = whole();
    found.routes[0].device_index = Some(3);
    assert_eq!(planned(&[pod()], &found), ["route replace 10.0.97.31/32 dev eni0761ccbeace scope link table 254"]);
}

#[test]
fn a_pod_on_the_primary_interface_has_no_rule_of_its_own() {
    let mut found = whole();
    found.rules.pop();
    assert_eq!(planned(&[Pod { table: table::MAIN, ..pod() }], &found), Vec::<String>::new());
    assert_eq!(planned(&[Pod { table: 1, ..pod() }], &found), Vec::<String>::new(), "old state says 1");
}

#[test]
fn a_rule_to_another_table_is_somebodys_decision() {
    let mut found = whole();
    found.rules[2].table = 10_101;
    assert_eq!(planned(&[pod()], &found), Vec::<String>::new());
}

#[test]
fn rules_with_more_selectors_do_not_count() {
    let mut found = whole();
    found.rules[1].foreign = true;
    assert_eq!(planned(&[pod()], &found).len(), 1);
}

#[test]
fn a_pod_without_a_veth_gets_nothing() {
    assert_eq!(planned(&[pod()], &Found::default()), Vec::<String>::new());
}

#[test]
fn a_pod_never_seen_whole_is_left_to_its_plugin_until_that_has_ended() {
    let wired = Found { rules: Vec::new(), ..whole() };
    let young = Pod { settled: false, ..pod() };
    let waiting = plan(std::slice::from_ref(&young), &Memory::default(), &wired);
    assert!(waiting.waits && waiting.is_empty());
    assert_eq!(planned(&[pod()], &wired).len(), 2, "its plugin must have ended");

    let mut memory = Memory::default();
    memory.learn(std::slice::from_ref(&young), &wired);
    assert!(plan(std::slice::from_ref(&young), &memory, &wired).waits, "not whole yet");
    memory.learn(std::slice::from_ref(&young), &whole());
    assert_eq!(plan(std::slice::from_ref(&young), &memory, &wired).repairs.len(), 1);
    let next = Pod { since: 8, ..young };
    assert!(plan(&[next], &memory, &wired).is_empty(), "another pod with its address");
}

#[test]
fn a_renamed_veth_is_found_by_what_it_was() {
    let mut memory = Memory::default();
    memory.learn(&[pod()], &whole());
    let mut found = whole();
    found.links[1].name = "renamed0".to_owned();
    let steps = plan(&[pod()], &memory, &found);
    assert_eq!(texts(&steps), ["link set renamed0 name eni0761ccbeace"]);
    // What was learned stays although nothing of that name is there.
    memory.learn(&[pod()], &found);
    assert_eq!(plan(&[pod()], &memory, &found), steps);
    // Another prefix is another name, too.
    found.links[1].name = "was0761ccbeace".to_owned();
    assert_eq!(texts(&plan(&[pod()], &memory, &found)), ["link set was0761ccbeace name eni0761ccbeace"]);
    found.links[1].name = "renamed0".to_owned();
    found.links[1].mac = Some(MacAddr([2, 0, 0, 0, 0, 10]));
    assert!(plan(&[pod()], &memory, &found).is_empty(), "another interface");
}

/// As udev does with what is new, and before anybody has seen the pod.
#[test]
fn a_veth_renamed_before_it_was_seen_gets_the_name_it_came_by() {
    let named = |first: &str, now: &str| {
        let mut found = whole();
        found.first_names.list(&[veth(first)]);
        found.links[1].name = now.to_owned();
        found
    };
    for now in ["was0761ccbeace", "enp0s9"] {
        let found = named("eni0761ccbeace", now);
        let mut memory = Memory::default();
        memory.learn(&[pod()], &found);
        let expected = [format!("link set {now} name eni0761ccbeace")];
        assert_eq!(texts(&plan(&[pod()], &memory, &found)), expected);
        // Also if the news come after the first look.
        let mut memory = Memory::default();
        memory.learn(&[pod()], &Found { first_names: FirstNames::default(), ..found.clone() });
        memory.learn(&[pod()], &found);
        assert_eq!(texts(&plan(&[pod()], &memory, &found)), expected);
    }
    // Made under a name of its maker's and then named for the pod.
    let found = named("tmp0", "eni0761ccbeace");
    let mut memory = Memory::default();
    memory.learn(&[pod()], &found);
    assert!(plan(&[pod()], &memory, &found).is_empty());
    // Two that came by the pod's name: whose it is cannot be told.
    let mut found = named("eni0761ccbeace", "enp0s9");
    found.links.push(LinkInfo { index: 10, ..veth("cali0761ccbeace") });
    found.routes.clear();
    assert_eq!(planned(&[pod()], &found), Vec::<String>::new());
}

#[test]
fn what_was_put_back_for_a_pod_that_is_gone_is_taken_away() {
    let memory = Memory { put_back: [ADDRESS.into()].into(), ..Memory::default() };
    assert!(plan(&[pod()], &memory, &whole()).is_empty(), "it is there");
    let gone = plan(&[], &memory, &whole());
    assert_eq!(
        texts(&gone),
        [
            "rule delete 512: from all to 10.0.97.31/32 lookup 254",
            "rule delete 1536: from 10.0.97.31/32 lookup 2",
            "route delete 10.0.97.31/32 scope link table 254"
        ]
    );
    assert!(plan(&[], &Memory::default(), &whole()).is_empty(), "what we did not write is not ours to remove");
}

/// Another network may name its interfaces by the same hash: Calico does.
#[test]
fn of_two_interfaces_with_one_suffix_none_is_taken_for_the_pods() {
    let other = || LinkInfo { index: 10, mac: Some(MacAddr([2, 0, 0, 0, 0, 10])), ..veth("cali0761ccbeace") };
    let mut found = whole();
    found.links.push(other());
    found.routes.clear();
    assert_eq!(planned(&[pod()], &found), Vec::<String>::new());

    let mut memory = Memory::default();
    memory.learn(&[pod()], &whole());
    assert_eq!(
        texts(&plan(&[pod()], &memory, &found)),
        ["route replace 10.0.97.31/32 dev eni0761ccbeace scope link table 254"],
        "the veth it was seen with"
    );
    found.links.retain(|l| l.index != 9);
    assert_eq!(texts(&plan(&[pod()], &memory, &found)), Vec::<String>::new(), "which is gone");
}
