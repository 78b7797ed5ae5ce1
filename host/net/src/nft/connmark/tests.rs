use super::super::table::apply;
use super::*;

fn connmark(exempt: &[&str]) -> Connmark {
    Connmark { mark: 0x80, veth_prefix: "eni".to_owned(), exempt: exempt.iter().map(|c| c.parse().unwrap()).collect() }
}

/// The table after a run on a node that has none.
fn fresh(connmark: &Connmark) -> Table {
    let mut table = None;
    apply(&mut table, &connmark.plan(None).unwrap());
    table.unwrap()
}

fn run(connmark: &Connmark, table: Table) -> (Vec<Edit>, Table) {
    let edits = connmark.plan(Some(&table)).unwrap();
    let mut table = Some(table);
    apply(&mut table, &edits);
    assert_eq!(connmark.plan(table.as_ref()).unwrap(), [], "another run finds nothing to do");
    (edits, table.unwrap())
}

fn content(table: &Table) -> Vec<Vec<Expr>> {
    table.chains.iter().flat_map(|c| &c.rules).map(|r| r.exprs.clone()).collect()
}

#[test]
fn a_fresh_table_is_as_specified_and_a_second_run_finds_nothing_to_do() {
    let connmark = connmark(&["10.0.0.0/16", "100.64.0.0/16"]);
    let table = fresh(&connmark);
    assert_eq!(connmark.plan(Some(&table)).unwrap(), []);
    let base = table.chain(BASE_CHAIN).unwrap();
    assert!(is_up_to_date(base));
    let kinds = [Kind::Local, Kind::Jump, Kind::Restore].map(|kind| connmark.rule(kind));
    assert_eq!(base.rules.iter().map(|r| r.exprs.clone()).collect::<Vec<_>>(), kinds);
    // Each CIDR is put before the ones already there (spec 04 §17.3).
    let marking = &table.chain(MARK_CHAIN).unwrap().rules;
    let cidrs: Vec<_> = marking.iter().filter_map(|r| extract_cidr(&r.exprs)).map(|c| c.to_string()).collect();
    assert_eq!(cidrs, ["100.64.0.0/16", "10.0.0.0/16"]);
    assert_eq!(marking.last().unwrap().exprs, connmark.rule(Kind::SetMark));
}

#[test]
fn a_changed_list_changes_only_what_differs() {
    let table = fresh(&connmark(&["10.0.0.0/16", "10.1.0.0/16"]));
    let (edits, table) = run(&connmark(&["10.0.0.0/16", "10.2.0.0/16", "10.2.0.0/16"]), table);
    assert!(matches!(edits.as_slice(), [Edit::DeleteRule { .. }, Edit::Insert { .. }]), "{edits:?}");
    assert_eq!(table.chain(MARK_CHAIN).unwrap().rules.len(), 3);
}

#[test]
fn everything_else_in_the_table_goes() {
    let connmark = connmark(&["10.0.0.0/8"]);
    let wanted = fresh(&connmark);
    let drop = vec![Expr::Counter, Expr::Verdict(Verdict::Drop)];
    for chain in [BASE_CHAIN, MARK_CHAIN] {
        for edit in [
            Edit::Append { chain: chain.to_owned(), exprs: drop.clone() },
            Edit::Insert { chain: chain.to_owned(), exprs: drop.clone() },
        ] {
            let mut table = Some(wanted.clone());
            apply(&mut table, &[edit]);
            let (edits, table) = run(&connmark, table.unwrap());
            assert!(matches!(edits.as_slice(), [Edit::DeleteRule { .. }]), "{edits:?}");
            assert_eq!(table, wanted);
        }
    }
}

#[test]
fn an_exemption_behind_the_mark_is_put_before_it() {
    let connmark = connmark(&["10.0.0.0/8"]);
    let mut table = fresh(&connmark);
    let rules = &mut table.chains.iter_mut().find(|c| c.name == MARK_CHAIN).unwrap().rules;
    rules.reverse();
    let (_, table) = run(&connmark, table);
    assert_eq!(content(&table), content(&fresh(&connmark)));
}

#[test]
fn another_mark_or_prefix_leaves_nothing_of_the_old() {
    let old = fresh(&connmark(&["10.0.0.0/8"]));
    for other in [
        Connmark { mark: 0x100, ..connmark(&["10.0.0.0/8"]) },
        Connmark { veth_prefix: "pod".to_owned(), ..connmark(&["10.0.0.0/8"]) },
    ] {
        let (_, table) = run(&other, old.clone());
        assert_eq!(content(&table), content(&fresh(&other)));
    }
}

#[test]
fn rules_out_of_order_and_a_chain_of_another_kind_are_made_again() {
    let connmark = connmark(&["10.0.0.0/8"]);
    let wanted = fresh(&connmark);
    let mut swapped = wanted.clone();
    swapped.chains.iter_mut().find(|c| c.name == BASE_CHAIN).unwrap().rules.swap(0, 1);
    assert_eq!(content(&run(&connmark, swapped).1), content(&wanted));
    // The mark chain is as good as new, but hooked in: both chains are made again.
    for (chain, base) in [
        (BASE_CHAIN, Some(Base { priority: -100, ..wanted_base() })),
        (BASE_CHAIN, Some(Base { kind: "filter".to_owned(), ..wanted_base() })),
        (BASE_CHAIN, None),
        (MARK_CHAIN, Some(wanted_base())),
    ] {
        let mut odd = wanted.clone();
        odd.chains.iter_mut().find(|c| c.name == chain).unwrap().base = base;
        let table = run(&connmark, odd).1;
        assert_eq!(table.chains.len(), 2);
        assert!(is_up_to_date(table.chain(BASE_CHAIN).unwrap()));
        assert!(table.chain(MARK_CHAIN).unwrap().base.is_none());
    }
}

#[test]
fn what_cannot_be_right_is_refused() {
    let text = |connmark: Connmark| connmark.plan(None).unwrap_err().to_string();
    assert_eq!(text(connmark(&[])), "exemptCIDRs cannot be empty");
    assert!(text(Connmark { mark: 0, ..connmark(&["10.0.0.0/8"]) }).contains("mark"));
    assert!(text(Connmark { veth_prefix: String::new(), ..connmark(&["10.0.0.0/8"]) }).contains("prefix"));
}

#[test]
fn destinations_are_read_out_of_rules() {
    let connmark = connmark(&["10.0.0.0/8"]);
    for text in ["10.0.0.0/8", "10.1.2.3/32", "0.0.0.0/0", "172.16.0.0/12"] {
        let cidr: Ipv4Net = text.parse().unwrap();
        let mut exprs = connmark.rule(Kind::Exempt(cidr));
        assert_eq!(extract_cidr(&exprs), Some(cidr));
        exprs.remove(1);
        assert_eq!(extract_cidr(&exprs), None, "without the payload");
    }
    let mut holes = connmark.rule(Kind::Exempt("10.0.0.0/8".parse().unwrap()));
    holes[2] = bitwise(&[0xff, 0, 0xff, 0], &[0; 4]);
    assert_eq!(extract_cidr(&holes), None);
}
