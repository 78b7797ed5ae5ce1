use super::*;
use crate::policy::{EniTraits, Family, Gates, Limits, Standing, Subnet};

fn cidr(id: u32, assigned: u32, cooling: u32) -> Cidr {
    Cidr {
        id,
        unit: Unit::Ip,
        size: 1,
        serving: true,
        assigned,
        cooling,
        cooled_in_seconds: 0,
        age_seconds: 100,
        idle_seconds: None,
    }
}

fn eni(id: &str, device: u32, traits: &[EniTrait], cidrs: Vec<Cidr>) -> Eni {
    Eni {
        id: id.to_owned(),
        card: 0,
        device_index: device,
        subnet: "subnet-a".to_owned(),
        traits: EniTraits(traits.to_vec()),
        age_seconds: 100,
        cidrs,
    }
}

fn node(enis: Vec<Eni>) -> Node {
    Node {
        now: 0,
        name: "n".to_owned(),
        instance_type: "m5.large".to_owned(),
        availability_zone: "a".to_owned(),
        labels: vec![],
        families: vec![Family::Ipv4],
        unit: Unit::Ip,
        limits: Limits { slots_per_eni: 9, ips_per_prefix: 16, max_pods: 110 },
        cards: vec![Card {
            index: 0,
            max_enis: 3,
            enis_in_flight: 0,
            ips_in_flight: 0,
            waiting: 0,
            configured: Targets::default(),
        }],
        enis,
        subnets: vec![Subnet {
            id: "subnet-a".to_owned(),
            cidr: String::new(),
            ipv6: false,
            primary: true,
            standing: Standing::Eligible,
            free_ips: None,
            seen_seconds: 0,
            ips_refused_seconds: 0,
            prefixes_refused_seconds: 0,
            tags: vec![],
        }],
        gates: Gates { grow: Gate::Open, release: Gate::Open, remove: Gate::Open, ec2_calls_left: 9 },
        draining: false,
        booted_seconds: 0,
        history: vec![],
        extra: vec![],
    }
}

fn assign(eni: &str, count: u32) -> Growth {
    Growth::Assign(Assign { eni: eni.to_owned(), unit: Unit::Ip, count })
}

fn create(card: u32, count: u32) -> Growth {
    Growth::CreateEni(CreateEni { card, unit: Unit::Ip, count })
}

fn grow(node: &Node, growth: Growth) -> Result<Growth, String> {
    let plan = Plan { grow: vec![growth], ..Plan::default() };
    let mut checked = check(node, &plan, &UnderWay::default());
    checked.grow.pop().ok_or_else(|| checked.dropped[0].reason.clone())
}

fn remove(node: &Node, ids: &[&str]) -> Checked {
    let plan = Plan { remove: ids.iter().map(|&i| i.to_owned()).collect(), ..Plan::default() };
    check(node, &plan, &UnderWay::default())
}

#[test]
fn a_count_too_large_is_cut_and_zero_is_dropped() {
    let n = node(vec![eni("eni-0", 0, &[EniTrait::Primary], vec![cidr(0, 1, 0)])]);
    assert_eq!(grow(&n, assign("eni-0", u32::MAX)), Ok(assign("eni-0", 8)), "I5");
    assert_eq!(grow(&n, assign("eni-0", 0)), Err("I12: a count of 0".to_owned()));
    assert_eq!(grow(&n, create(0, u32::MAX)), Ok(create(0, 9)));
    assert_eq!(grow(&n, create(7, 1)), Err("I12: unknown card".to_owned()));
    assert_eq!(grow(&n, assign("eni-x", 1)), Err("I12: unknown id".to_owned()));
}

#[test]
fn what_is_under_way_takes_slots() {
    let n = node(vec![eni("eni-0", 0, &[], vec![])]);
    let under_way = UnderWay { slots: [("eni-0".to_owned(), 9)].into() };
    let plan = Plan { grow: vec![assign("eni-0", 1)], remove: vec!["eni-0".to_owned()], ..Plan::default() };
    let checked = check(&n, &plan, &under_way);
    assert_eq!((checked.grow.len(), checked.remove.len(), checked.dropped.len()), (0, 0, 2));
}

#[test]
fn closed_interfaces_and_refused_subnets_get_nothing() {
    for t in [EniTrait::Closed, EniTrait::Trunk, EniTrait::Excluded] {
        assert!(grow(&node(vec![eni("eni-0", 0, &[t], vec![])]), assign("eni-0", 1)).is_err(), "I5 {t:?}");
    }
    let mut n = node(vec![eni("eni-0", 0, &[], vec![])]);
    n.subnets[0].ips_refused_seconds = 5;
    assert!(grow(&n, assign("eni-0", 1)).unwrap_err().starts_with("I7"));
}

#[test]
fn no_interface_beyond_the_limit_counting_those_in_flight() {
    let mut n = node(vec![eni("eni-0", 0, &[], vec![]), eni("eni-1", 1, &[], vec![])]);
    assert!(grow(&n, create(0, 1)).is_ok());
    n.cards[0].enis_in_flight = 1;
    assert_eq!(grow(&n, create(0, 1)), Err("I6: 3 of 3 interfaces".to_owned()));
}

#[test]
fn nothing_that_a_pod_needs_is_released_or_removed() {
    let n = node(vec![
        eni("eni-0", 0, &[EniTrait::Primary], vec![cidr(0, 0, 0)]),
        eni("eni-1", 1, &[], vec![cidr(1, 1, 0), cidr(2, 0, 1), cidr(3, 0, 0)]),
        eni("eni-2", 2, &[EniTrait::Trunk], vec![]),
        eni("eni-3", 3, &[EniTrait::Efa], vec![]),
        eni("eni-4", 4, &[], vec![cidr(4, 0, 1)]),
    ]);
    let plan = Plan { release: vec![1, 2, 3, 3, 99], ..Plan::default() };
    let checked = check(&n, &plan, &UnderWay::default());
    assert_eq!(checked.release, [3]);
    let reasons: Vec<&str> = checked.dropped.iter().map(|d| &d.reason[..3]).collect();
    assert_eq!(reasons, ["I3:", "I4:", "I12", "I12"]);
    let checked = remove(&n, &["eni-0", "eni-1", "eni-2", "eni-3", "eni-4", "eni-9"]);
    assert!(checked.remove.is_empty());
    let reasons: Vec<&str> = checked.dropped.iter().map(|d| &d.reason[..3]).collect();
    assert_eq!(reasons, ["I1:", "I2:", "I1:", "I1:", "I2:", "I12"]);
}

#[test]
fn one_removal_per_card_and_none_before_a_minute() {
    let mut n = node(vec![eni("eni-1", 1, &[], vec![]), eni("eni-2", 2, &[], vec![])]);
    assert_eq!(remove(&n, &["eni-1", "eni-2"]).remove, ["eni-1"], "I11");
    n.enis[0].age_seconds = 59;
    assert_eq!(remove(&n, &["eni-1", "eni-2"]).remove, ["eni-2"], "I2");
}

#[test]
fn an_interface_is_not_filled_and_removed_at_once() {
    let n = node(vec![eni("eni-1", 1, &[], vec![])]);
    let plan = Plan { grow: vec![assign("eni-1", 1)], remove: vec!["eni-1".to_owned()], ..Plan::default() };
    let checked = check(&n, &plan, &UnderWay::default());
    assert_eq!((checked.grow.len(), checked.remove.len()), (1, 0));
}

#[test]
fn growth_wins_over_release_on_its_card() {
    let n = node(vec![eni("eni-0", 0, &[], vec![cidr(0, 0, 0)])]);
    let plan = Plan { grow: vec![assign("eni-0", 1)], release: vec![0], ..Plan::default() };
    let checked = check(&n, &plan, &UnderWay::default());
    assert_eq!((checked.grow.len(), checked.release.len()), (1, 0), "I15");
}

#[test]
fn shut_gates_hold_for_everyone() {
    let mut n = node(vec![eni("eni-1", 1, &[], vec![cidr(0, 0, 0)])]);
    n.gates = Gates { grow: Gate::OpensIn(4), release: Gate::Closed, remove: Gate::Closed, ec2_calls_left: 0 };
    let plan = Plan {
        grow: vec![assign("eni-1", 1), create(0, 1)],
        release: vec![0],
        remove: vec!["eni-1".to_owned()],
        ..Plan::default()
    };
    let checked = check(&n, &plan, &UnderWay::default());
    assert_eq!(checked.dropped.len(), 4);
    assert_eq!(checked.dropped[0].reason, "I7: the gate opens in 4 s");
}

#[test]
fn huge_lists_are_cut_short() {
    let n = node(vec![eni("eni-0", 0, &[], vec![cidr(0, 0, 0)])]);
    let plan = Plan {
        grow: vec![assign("x", 1); 5000],
        release: vec![7; 5000],
        remove: vec!["y".to_owned(); 5000],
        drain: vec![9; 5000],
        ..Plan::default()
    };
    let checked = check(&n, &plan, &UnderWay::default());
    assert!(checked.dropped.len() <= 4 * MAX_ACTIONS + 3, "I12: {}", checked.dropped.len());
}

#[test]
fn targets_are_cut_to_the_card() {
    let mut node = node(vec![eni("eni-0", 0, &[EniTrait::Primary], (0..9).map(|id| cidr(id, 0, 0)).collect())]);
    node.enis.push(eni("eni-1", 1, &[], (9..18).map(|id| cidr(id, 0, 0)).collect()));
    let all = |n| Targets { warm_enis: n, warm_ips: n, warm_prefixes: n, minimum_ips: n };
    let want = Targets { warm_enis: 3, warm_ips: 27, warm_prefixes: 27, minimum_ips: 27 };
    assert_eq!(cut_targets(&node, &[all(u32::MAX)]), [want]);
    assert_eq!(cut_targets(&node, &[all(2)]), [all(2)]);
    // MAX_ENI was lowered below what is attached.
    node.cards[0].max_enis = 1;
    assert_eq!(cut_targets(&node, &[all(u32::MAX)])[0].warm_ips, 18);
    node.cards[0].max_enis = u32::MAX;
    node.limits.slots_per_eni = u32::MAX;
    assert_eq!(cut_targets(&node, &[all(u32::MAX)])[0].warm_ips, u32::MAX);
}
