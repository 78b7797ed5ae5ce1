//! What the rule does in each address mode, one plan at a time.

use reservoir_policy_sdk::{
    Assign, CidrId, Context, CreateEni, Families, Gate, Growth, Plan, Planning, Standing, Subnet, Subnets, Targets,
    Unit,
};

use crate::BuiltIn;
use crate::fixture::{Fixture, Given, eni, ips, prefix, subnet};

fn plan(given: &Given) -> Plan {
    let targets: Vec<Targets> = given.node.cards.iter().map(|card| card.configured).collect();
    crate::planning::decide(&given.node, &targets, given.settings).unwrap()
}

fn assign(eni: &str, unit: Unit, count: u32) -> Growth {
    Growth::Assign(Assign { eni: eni.to_owned(), unit, count })
}

fn create(card: u32, unit: Unit, count: u32) -> Growth {
    Growth::CreateEni(CreateEni { card, unit, count })
}

/// No free /28 in it.
fn fragmented(id: &str) -> Subnet {
    Subnet { prefixes_refused_seconds: 90, ..subnet(id) }
}

/// Does nothing: neither grows nor gives anything back.
fn settled(given: &Given) -> bool {
    let plan = plan(given);
    plan.grow.is_empty() && plan.release.is_empty() && plan.remove.is_empty()
}

const FALL_BACK: (&str, &str) = ("fall-back-to-ips", "true");

// ---- prefixes ------------------------------------------------------------------------------------------------------

#[test]
fn prefix_mode_asks_for_prefixes_and_ends() {
    let given = Fixture::prefixes(9).eni(eni("a").primary()).node();
    assert_eq!(plan(&given).grow, [assign("a", Unit::Prefix, 1), create(0, Unit::Prefix, 1)]);
    assert!(settled(&Fixture::prefixes(9).eni(eni("a").primary().with(prefix(0, 0))).node()));
}

/// W2: with a target of zero the first prefix comes when it is needed and stays.
#[test]
fn a_prefix_target_of_zero_does_not_flap() {
    let zero = Fixture::prefixes(9).warm_prefixes(0);
    assert_eq!(plan(&zero.clone().eni(eni("a").primary()).node()).grow.len(), 2);
    let one = zero.clone().eni(eni("a").primary().with(prefix(0, 0)));
    assert!(settled(&one.clone().node()));
    assert_eq!(plan(&one.setting("defects", "reference").node()).release.len(), 1);
    let two = zero.eni(eni("a").primary().with(prefix(0, 0)).with(prefix(0, 0)));
    assert_eq!(plan(&two.node()).release.len(), 1);
}

/// Switched on with pods on single IPs, switched off with pods on prefixes (spec 01 §1.7, §2.3 step 13).
#[test]
fn left_overs_of_the_other_mode_go_when_no_pod_is_on_them() {
    let on = Fixture::prefixes(9).eni(eni("a").primary().with(ips(4, 2, 0)).with(prefix(0, 0))).node();
    let planned = plan(&on);
    assert_eq!((planned.grow, planned.release), (vec![], vec![2, 3]));
    let off =
        Fixture::ips(9).warm_ips(2).eni(eni("a").primary().with(prefix(3, 0)).with(prefix(0, 0)).with(ips(2, 0, 0)));
    let planned = plan(&off.node());
    assert_eq!((planned.grow, planned.release), (vec![], vec![1]));
}

/// W5: what an excluded interface holds is no reason to give back what serves.
#[test]
fn free_prefixes_of_an_excluded_interface_are_given_back_and_count_for_nothing() {
    let fixture = Fixture::prefixes(9)
        .eni(eni("a").primary().with(prefix(3, 0)).with(prefix(0, 0)))
        .eni(eni("x").excluded().with(prefix(1, 0)).with(prefix(0, 0)));
    assert_eq!(plan(&fixture.clone().node()).release, [3]);
    assert_eq!(
        plan(&fixture.setting("defects", "reference").node()).release,
        [3],
        "its own defect gives the same here"
    );
    let lone = Fixture::prefixes(9)
        .eni(eni("a").primary().with(prefix(3, 0)).with(prefix(0, 0)))
        .eni(eni("x").excluded().with(prefix(1, 0)).with(prefix(0, 2)));
    assert_eq!(plan(&lone.node()).release, [0; 0], "cooling ones wait, and the free one of \"a\" stays");
}

/// W4: the same numbers for trimming and for removal.
#[test]
fn an_interface_goes_where_the_pool_would_not_be_low_without_it() {
    let given = Fixture::prefixes(9)
        .warm_ips(5)
        .minimum_ips(20)
        .eni(eni("a").primary().with(prefix(3, 0)).with(prefix(2, 0)))
        .eni(eni("b").with(prefix(0, 0)));
    assert_eq!(plan(&given.clone().node()).remove, ["b"]);
    assert_eq!(plan(&given.minimum_ips(40).node()).remove, [""; 0]);
}

// ---- where there is no prefix --------------------------------------------------------------------------------------

#[test]
fn without_the_setting_a_fragmented_subnet_is_asked_again() {
    let mut given = Fixture::prefixes(9).eni(eni("a").primary().with(prefix(16, 0))).node();
    given.node.subnets = vec![fragmented("subnet-p")];
    assert_eq!(plan(&given).grow, [assign("a", Unit::Prefix, 1), create(0, Unit::Prefix, 1)]);
}

#[test]
fn with_it_single_ips_come_where_the_subnet_has_no_prefix() {
    let full = Fixture::prefixes(9).setting(FALL_BACK.0, FALL_BACK.1).eni(eni("a").primary().with(prefix(10, 0)));
    let mut given = full.clone().node();
    given.node.subnets = vec![subnet("subnet-p")];
    assert_eq!(plan(&given).grow, [assign("a", Unit::Prefix, 1), create(0, Unit::Prefix, 1)], "it has not refused");
    given.node.subnets = vec![fragmented("subnet-p")];
    let planned = plan(&given);
    assert_eq!(planned.grow, [assign("a", Unit::Ip, 8), create(0, Unit::Ip, 9)], "10 miss to one prefix's worth");
    assert!(
        planned.note.reason.ends_with("low: 8 single IPs instead of prefixes more on a"),
        "{}",
        planned.note.reason
    );
}

#[test]
fn a_prefix_of_another_subnet_comes_before_single_ips() {
    let mut given = Fixture::prefixes(9)
        .setting(FALL_BACK.0, FALL_BACK.1)
        .eni(eni("a").primary().with(prefix(16, 0)))
        .eni(eni("b").subnet("subnet-q").with(prefix(16, 0)))
        .node();
    given.node.subnets = vec![fragmented("subnet-p"), subnet("subnet-q")];
    let wanted = [assign("b", Unit::Prefix, 1), create(0, Unit::Prefix, 1), assign("a", Unit::Ip, 8)];
    assert_eq!(plan(&given).grow, wanted);
    // Nothing is known of an interface's subnet: it has refused nothing.
    given.node.subnets = vec![Subnet { standing: Standing::Possible, ..fragmented("subnet-p") }];
    let wanted = [assign("b", Unit::Prefix, 1), create(0, Unit::Prefix, 1), assign("a", Unit::Ip, 8)];
    assert_eq!(plan(&given).grow, wanted);
}

#[test]
fn as_many_single_ips_as_are_short() {
    let dry = |fixture: Fixture, waiting: u32| {
        let mut given = fixture.setting(FALL_BACK.0, FALL_BACK.1).node();
        given.node.subnets = vec![fragmented("subnet-p")];
        given.node.cards[0].waiting = waiting;
        plan(&given).grow.first().cloned()
    };
    let held = |slots| Fixture::prefixes(slots).eni(eni("a").primary().with(prefix(16, 0)));
    assert_eq!(dry(held(30).warm_ips(3), 0), Some(assign("a", Unit::Ip, 3)));
    assert_eq!(dry(held(30).warm_ips(3), 4), Some(assign("a", Unit::Ip, 7)));
    assert_eq!(dry(held(30).minimum_ips(20), 0), Some(assign("a", Unit::Ip, 4)));
    assert_eq!(dry(held(30), 0), Some(assign("a", Unit::Ip, 16)));
    assert_eq!(dry(held(30).warm_prefixes(0), 0), Some(assign("a", Unit::Ip, 1)));
    assert_eq!(dry(held(30).warm_prefixes(0), 5), Some(assign("a", Unit::Ip, 6)));
}

/// They serve: they satisfy the targets, stay while they are needed and go first when they are not.
#[test]
fn single_ips_that_were_asked_for_are_no_left_overs() {
    let with = |singles, free_prefixes: usize| {
        let mut a = eni("a").primary().with(prefix(16, 0)).with(singles);
        for _ in 0..free_prefixes {
            a = a.with(prefix(0, 0));
        }
        Fixture::prefixes(40).setting(FALL_BACK.0, FALL_BACK.1).eni(a)
    };
    let mut given = with(ips(18, 2, 0).asked_for(), 0).node();
    given.node.subnets = vec![fragmented("subnet-p")];
    assert!(settled(&given), "16 free IPs are what one warm prefix would be");
    let planned = plan(&with(ips(18, 2, 0).asked_for(), 1).node());
    let singles: Vec<CidrId> = (3..19).collect();
    assert_eq!(planned.release, singles, "the prefix alone is enough");
    assert_eq!(planned.drain, (1..19).collect::<Vec<CidrId>>(), "those with pods are to run empty");
    assert_eq!(plan(&with(ips(18, 2, 16).asked_for(), 1).node()).release, [0; 0], "cooling");

    // Both targets: 20 used, 5 warm; the prefixes need not cover what single IPs hold.
    let given = with(ips(6, 4, 0).asked_for(), 2).warm_ips(5).node();
    assert_eq!(plan(&given).release, [5, 6, 7], "two free single IPs, and one of two free prefixes");
}

#[test]
fn an_interface_of_spare_single_ips_is_emptied_and_removed() {
    let fixture = Fixture::prefixes(9)
        .setting(FALL_BACK.0, FALL_BACK.1)
        .eni(eni("a").primary().with(prefix(5, 0)).with(prefix(11, 0)))
        .eni(eni("b").with(ips(3, 0, 0).asked_for()));
    let planned = plan(&fixture.node());
    assert_eq!((planned.release, planned.remove), (vec![2, 3, 4], vec!["b".to_owned()]));
}

#[test]
fn prefixes_that_another_policy_asked_for_in_ip_mode_go_when_they_are_spare() {
    let fixture =
        Fixture::ips(30).warm_ips(2).eni(eni("a").primary().with(ips(6, 6, 0)).with(prefix(0, 0).asked_for()));
    assert_eq!(plan(&fixture.node()).release, [0; 0], "without it the pool would be low");
    let fixture =
        Fixture::ips(30).warm_ips(2).eni(eni("a").primary().with(ips(9, 6, 0)).with(prefix(0, 0).asked_for()));
    assert_eq!(plan(&fixture.node()).release, [9, 6], "it goes whole; one of three free IPs too");
}

// ---- several cards -------------------------------------------------------------------------------------------------

/// Spec 01 §10.2: a card beside the first holds one interface with one IP and follows its pods with one to spare.
fn on_cards(fixture: Fixture, cards: u32) -> Given {
    let mut given = fixture.cards(cards).node();
    for card in &mut given.node.cards[1..] {
        card.configured = Targets { warm_enis: 0, warm_ips: 1, warm_prefixes: 0, minimum_ips: 1 };
    }
    given
}

#[test]
fn each_card_is_decided_for_itself() {
    let fixture = Fixture::ips(9)
        .eni(eni("a").primary().with(ips(9, 0, 0)))
        .eni(eni("n").card(1).with(ips(2, 2, 0)))
        .eni(eni("m").card(2).with(ips(4, 1, 0)));
    let planned = plan(&on_cards(fixture, 4));
    let wanted = [assign("n", Unit::Ip, 1), create(1, Unit::Ip, 1), create(3, Unit::Ip, 1)];
    assert_eq!((planned.grow.as_slice(), planned.release.len()), (wanted.as_slice(), 2));
}

/// W1: the one free prefix of a card stays.
#[test]
fn the_free_prefix_of_a_further_card_is_no_surplus() {
    let fixture = Fixture::prefixes(9)
        .eni(eni("a").primary().with(prefix(0, 0)))
        .eni(eni("n").card(1).with(prefix(0, 0)))
        .eni(eni("m").card(2).with(prefix(15, 0)).with(prefix(0, 0)));
    let given = on_cards(fixture, 3);
    let planned = plan(&given);
    assert_eq!((planned.grow, planned.release), (vec![], vec![3]), "15 used and 1 warm are one prefix");
}

#[test]
fn each_card_has_its_own_room() {
    let mut given = on_cards(Fixture::ips(3).max_enis(1).eni(eni("a").primary().with(ips(3, 3, 0))), 2);
    given.node.cards[1].max_enis = 1;
    assert_eq!(plan(&given).grow, [create(1, Unit::Ip, 1)]);
}

// ---- custom networking, exclusion, trunk ---------------------------------------------------------------------------

#[test]
fn the_primary_of_custom_networking_counts_and_does_not_grow() {
    let given = Fixture::ips(9).warm_ips(3).eni(eni("a").primary().closed().with(ips(2, 1, 0))).node();
    assert_eq!(plan(&given).grow, [create(0, Unit::Ip, 2)]);
}

#[test]
fn what_an_excluded_interface_holds_goes_first() {
    let fixture = Fixture::ips(9)
        .warm_ips(1)
        .eni(eni("a").primary().with(ips(9, 7, 0)))
        .eni(eni("x").excluded().with(ips(3, 1, 0)));
    assert_eq!(plan(&fixture.clone().node()).release, [10, 11, 7], "both of \"x\" and the one too many of \"a\"");
    assert_eq!(plan(&fixture.setting("defects", "reference").node()).release, [10]);
}

#[test]
fn a_trunk_is_neither_grown_nor_removed() {
    let given = Fixture::ips(3).eni(eni("a").primary().with(ips(3, 3, 0))).eni(eni("t").trunk()).node();
    assert_eq!(plan(&given).grow, [create(0, Unit::Ip, 3)]);
    let fixture = Fixture::ips(3).eni(eni("a").primary().with(ips(3, 0, 0))).eni(eni("t").trunk());
    assert_eq!(plan(&fixture.eni(eni("b").with(ips(3, 0, 0))).node()).remove, ["b"]);
}

// ---- cooling -------------------------------------------------------------------------------------------------------

/// W13: so many free IPs that can be given out at once.
#[test]
fn cooling_ips_need_not_count() {
    let fixture = Fixture::ips(9).warm_ips(3).eni(eni("a").primary().with(ips(6, 1, 4)));
    assert!(settled(&fixture.clone().minimum_ips(6).node()));
    let given = fixture.clone().setting("count-cooling", "false").node();
    assert_eq!(plan(&given).grow.first(), Some(&assign("a", Unit::Ip, 2)));
    let rested =
        Fixture::ips(9).warm_ips(3).setting("count-cooling", "false").eni(eni("a").primary().with(ips(8, 1, 2)));
    assert_eq!(plan(&rested.node()).release.len(), 2, "five are free at once");
}

#[test]
fn no_prefix_goes_that_would_be_asked_for_again_while_another_cools() {
    let prefixes = Fixture::prefixes(9).eni(eni("a").primary().with(prefix(0, 12)).with(prefix(0, 0)));
    for fixture in [prefixes.clone().warm_prefixes(1), prefixes.warm_ips(5)] {
        assert_eq!(plan(&fixture.clone().node()).release.len(), 1, "what cools counts as free");
        assert!(settled(&fixture.setting("count-cooling", "false").node()));
    }
}

// ---- IPv6 ----------------------------------------------------------------------------------------------------------

#[test]
fn an_ipv6_node_asks_only_for_subnets() {
    let mut given = Fixture::prefixes(9).eni(eni("a").primary()).eni(eni("b")).node();
    given.node.families = Families::IPV6;
    let targets: Vec<Targets> = given.node.cards.iter().map(|card| card.configured).collect();
    let context = Context { settings: vec![], memo: vec![] };
    let planned = <BuiltIn as Planning>::decide(given.node.clone(), context.clone(), targets);
    let planned = planned.unwrap();
    assert!(planned.grow.is_empty() && planned.release.is_empty() && planned.remove.is_empty());
    assert_eq!(planned.note.reason, "IPv6: each interface has its one prefix, there is nothing to decide");

    given.node.subnets = vec![
        Subnet { free_ips: Some(500), ..subnet("v4-only") },
        Subnet { ipv6: true, free_ips: Some(10), ..subnet("small") },
        Subnet { ipv6: true, free_ips: Some(90), ..subnet("big") },
        Subnet { free_ips: None, ..subnet("not-listed") },
    ];
    let request = CreateEni { card: 1, unit: Unit::Prefix, count: 1 };
    let ranked = <BuiltIn as Subnets>::rank(given.node.clone(), context.clone(), request);
    assert_eq!(ranked.unwrap(), ["big", "small", "not-listed"]);
    given.node.families = Families::IPV4;
    let ranked = <BuiltIn as Subnets>::rank(given.node, context, request);
    assert_eq!(ranked.unwrap(), ["v4-only", "big", "small", "not-listed"]);
}

#[test]
fn no_mode_acts_against_a_shut_gate() {
    let mut given =
        Fixture::prefixes(9).setting(FALL_BACK.0, FALL_BACK.1).eni(eni("a").primary().with(prefix(16, 0))).node();
    given.node.subnets = vec![fragmented("subnet-p")];
    given.node.gates.grow = Gate::Closed;
    assert!(settled(&given));
}
