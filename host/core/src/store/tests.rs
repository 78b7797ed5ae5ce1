use super::*;

fn spec(id: &str, device: u32) -> EniSpec {
    EniSpec {
        id: id.to_owned(),
        mac: format!("02:00:00:00:00:{device:02x}"),
        card: 0,
        device_index: device,
        subnet: "subnet-1".to_owned(),
        table: table_of(0, device),
        address: None,
        primary: device == 0,
        trunk: false,
        efa: false,
        excluded: false,
    }
}

fn secs(n: u64) -> Time {
    Duration::from_secs(n)
}

fn store(cidrs: &[(&str, u32, &[&str])]) -> Store {
    let unit = if cidrs.iter().flat_map(|c| c.2).any(|c| c.ends_with("/28")) { Unit::Prefix } else { Unit::Ip };
    let mut store = Store::new(0, unit, false, secs(30));
    for (id, device, nets) in cidrs {
        store.add_eni(spec(id, *device), secs(0)).unwrap();
        for net in *nets {
            store.add_cidr(id, net.parse().unwrap(), false, secs(0)).unwrap();
        }
    }
    store
}

fn add(store: &mut Store, container: &str, at: u64) -> Result<String, Error> {
    let pod = PodMeta { namespace: "ns".to_owned(), name: container.to_owned(), interfaces: 1 };
    store.assign(&Key::new("aws-cni", container, "eth0"), &pod, secs(at), 1).map(|a| a.ip.to_string())
}

fn del(store: &mut Store, container: &str, at: u64) -> Result<String, Error> {
    store.release(&Key::new("aws-cni", container, "eth0"), secs(at)).map(|r| r.ip.to_string())
}

#[test]
fn fullest_interface_first_then_lowest_address() {
    let mut s = store(&[("eni-a", 0, &["10.0.0.9/32"]), ("eni-b", 1, &["10.0.1.2/32", "10.0.1.1/32"])]);
    assert_eq!(add(&mut s, "1", 0).unwrap(), "10.0.0.9");
    assert_eq!(add(&mut s, "2", 0).unwrap(), "10.0.1.1");
    assert_eq!(add(&mut s, "3", 0).unwrap(), "10.0.1.2");
    assert_eq!(add(&mut s, "4", 0), Err(Error::NoAddress));
    assert_eq!(add(&mut s, "2", 9).unwrap(), "10.0.1.1", "the same key gets the same address");
}

#[test]
fn a_cidr_that_runs_empty_is_used_last() {
    let mut s = store(&[("eni-a", 0, &["10.0.0.1/32", "10.0.0.2/32"])]);
    s.drain(|_, net| net.to_string() == "10.0.0.1/32");
    assert_eq!(add(&mut s, "1", 0).unwrap(), "10.0.0.2");
    assert_eq!(add(&mut s, "2", 0).unwrap(), "10.0.0.1", "when there is no other");
}

#[test]
fn a_released_address_cools_inclusively() {
    let mut s = store(&[("eni-a", 0, &["10.0.0.1/32"])]);
    add(&mut s, "1", 0).unwrap();
    del(&mut s, "1", 10).unwrap();
    assert_eq!(s.stats(secs(40)).cooling, 1);
    assert_eq!(s.next_cooled(secs(11)), Some(secs(40)));
    assert_eq!(add(&mut s, "2", 40), Err(Error::NoAddress), "spec 02 §5.4");
    assert!(s.take_cidr("eni-a", "10.0.0.1/32".parse().unwrap(), secs(40)) == Err(Error::Cooling));
    assert_eq!(add(&mut s, "2", 41).unwrap(), "10.0.0.1");
}

#[test]
fn undone_changes_leave_no_trace() {
    let mut s = store(&[("eni-a", 0, &["10.0.0.1/32"])]);
    let before = s.checkpoint();
    let key = Key::new("n", "c", "i");
    let given = s.assign(&key, &PodMeta::default(), secs(0), 1).unwrap();
    let with_pod = s.checkpoint();
    let released = s.release(&key, secs(1)).unwrap();
    s.undo(released.change);
    assert_eq!(s.checkpoint(), with_pod);
    s.undo(given.change.unwrap());
    assert_eq!(s.checkpoint(), before);
    assert_eq!(add(&mut s, "other", 1).unwrap(), "10.0.0.1", "a failed ADD does not cool its address");
    assert_eq!(s.stats(secs(1)).assigned, 1);
}

#[test]
fn an_orphan_keeps_its_address_until_the_cidr_is_back() {
    let mut s = store(&[("eni-a", 0, &["10.0.0.1/32"])]);
    let text = checkpoint::entry(&Key::new("n", "c", "i"), "10.0.0.2".parse().unwrap(), 5, &PodMeta::default());
    let kept = checkpoint::sort(
        checkpoint::parse(&checkpoint::render([text.as_str()].into_iter())).unwrap(),
        false,
        |_, _| true,
    );
    s.restore(kept.kept);
    assert_eq!(s.orphans().len(), 1);
    assert!(String::from_utf8(s.checkpoint()).unwrap().contains("10.0.0.2"), "spec 02 W13: written again");
    s.add_cidr("eni-a", "10.0.0.2/32".parse().unwrap(), false, secs(1)).unwrap();
    assert!(s.orphans().is_empty());
    assert_eq!(add(&mut s, "1", 1).unwrap(), "10.0.0.1");
    assert_eq!(add(&mut s, "2", 1), Err(Error::NoAddress), "the orphan has the other");
    assert_eq!(s.release(&Key::new("n", "c", "i"), secs(2)).unwrap().ip.to_string(), "10.0.0.2");
}

#[test]
fn what_an_orphan_gave_up_cools_when_its_cidr_is_back() {
    let mut s = store(&[("eni-a", 0, &["10.0.0.1/32"])]);
    let key = Key::new("n", "c", "i");
    let text = checkpoint::entry(&key, "10.0.0.2".parse().unwrap(), 5, &PodMeta::default());
    let entries = checkpoint::parse(&checkpoint::render([text.as_str()].into_iter())).unwrap();
    s.restore(checkpoint::sort(entries, false, |_, _| true).kept);
    // A checkpoint that could not be written takes it back, cooling and all.
    let released = s.release(&key, secs(10)).unwrap();
    s.undo(released.change);
    assert_eq!(s.orphans().len(), 1);
    s.release(&key, secs(20)).unwrap();
    let net = "10.0.0.2/32".parse().unwrap();
    s.add_cidr("eni-a", net, false, secs(25)).unwrap();
    assert_eq!(add(&mut s, "1", 25).unwrap(), "10.0.0.1");
    assert_eq!(s.stats(secs(25)).cooling, 1);
    assert_eq!(add(&mut s, "2", 50), Err(Error::NoAddress), "thirty seconds, inclusive");
    assert_eq!(s.take_cidr("eni-a", net, secs(50)), Err(Error::Cooling), "I4");
    assert_eq!(add(&mut s, "2", 51).unwrap(), "10.0.0.2");
}

#[test]
fn what_is_in_use_stays() {
    let mut s = store(&[("eni-a", 0, &["10.0.0.1/32"])]);
    add(&mut s, "1", 0).unwrap();
    assert_eq!(s.take_cidr("eni-a", "10.0.0.1/32".parse().unwrap(), secs(99)), Err(Error::InUse));
    assert_eq!(s.take_eni("eni-a", secs(99)), Err(Error::InUse));
    del(&mut s, "1", 100).unwrap();
    assert_eq!(s.take_eni("eni-a", secs(110)), Err(Error::Cooling));
    assert_eq!(s.take_eni("eni-a", secs(131)).unwrap().id, "eni-a");
    assert_eq!(s.take_eni("eni-a", secs(131)), Err(Error::UnknownEni));
}

#[test]
fn prefixes_are_filled_before_the_next_is_begun() {
    let mut s = store(&[("eni-a", 0, &["10.0.0.0/28", "10.0.0.16/28"])]);
    for i in 0..16 {
        assert_eq!(add(&mut s, &i.to_string(), 0).unwrap(), format!("10.0.0.{i}"));
    }
    assert_eq!(add(&mut s, "16", 0).unwrap(), "10.0.0.16");
    del(&mut s, "3", 1).unwrap();
    assert_eq!(add(&mut s, "17", 50).unwrap(), "10.0.0.3", "fullest prefix first once it has cooled");
}

#[test]
fn left_overs_of_the_other_unit_serve_nobody_unless_asked_for() {
    let mut s = store(&[("eni-a", 0, &["10.0.0.0/28"])]);
    s.add_cidr("eni-a", "10.0.1.1/32".parse().unwrap(), false, secs(0)).unwrap();
    s.add_cidr("eni-a", "10.0.1.2/32".parse().unwrap(), true, secs(0)).unwrap();
    let mut got: Vec<String> = (0..18).filter_map(|i| add(&mut s, &i.to_string(), 0).ok()).collect();
    got.sort();
    assert_eq!(got.len(), 17);
    assert!(got.contains(&"10.0.1.2".to_owned()) && !got.contains(&"10.0.1.1".to_owned()), "spec 01 §15");
}

#[test]
fn blocks_beyond_all_counting_are_many_and_no_mistake() {
    let mut s = Store::new(0, Unit::Prefix, true, secs(30));
    s.add_eni(spec("eni-a", 0), secs(0)).unwrap();
    for net in ["2001:db8:0:1::/64", "2001:db8:0:2::/64"] {
        s.add_cidr("eni-a", net.parse().unwrap(), false, secs(0)).unwrap();
    }
    let stats = s.stats(secs(1));
    assert_eq!((stats.total, (stats + stats).total), (u64::MAX, u64::MAX));
    assert_eq!(add(&mut s, "1", 1).unwrap(), "2001:db8:0:1::");
    assert_eq!(s.stats(secs(1)).assigned, 1);
}
