//! Nothing that EC2 was asked for stays behind, whatever ends the daemon or swallows the answer, where left-overs are not
//! searched for: DISABLE_LEAKED_ENI_CLEANUP, IPv6.

use super::*;

fn without_clean_up() -> Settings {
    Settings { clean_up: false, ..settings() }
}

/// A node that wants an interface more.
fn growing() -> World {
    let mut ec2 = Ec2 { free: 100, ..Ec2::default() };
    ec2.enis.insert("eni-0".to_owned(), (Some(0), BTreeSet::new()));
    World::with(without_clean_up(), ec2, SLOTS + 1, Journal::default())
}

/// The same at the moment at which EC2 is asked for the first time.
fn at_first(api: &str) -> World {
    let mut w = growing();
    until_asked(&mut w, api);
    w
}

fn until_asked(w: &mut World, api: &str) {
    let begun = w.at;
    while w.count(api) == 0 {
        w.run_ms(10);
        assert!(w.at < begun + Duration::from_secs(60), "{:?}", w.calls);
    }
}

/// SIGKILL, and the daemon is there again; it wants nothing more than it has.
fn kill(w: &mut World) {
    w.warm = 0;
    w.queue.clear();
    w.calls.clear();
    w.m = Manager::new(without_clean_up());
    let file = serde_json::to_vec(&w.journal).unwrap();
    let (now, attached) = (w.now(), w.ec2.attached());
    w.m.boot(now, &attached, serde_json::from_slice(&file).unwrap());
    w.commands();
}

fn unattached(w: &World) -> usize {
    w.ec2.enis.values().filter(|(device, _)| device.is_none()).count()
}

#[test]
fn what_ec2_made_and_nobody_heard_of_is_deleted_after_a_kill() {
    let mut w = at_first("CreateNetworkInterface");
    assert_eq!((unattached(&w), w.journal.making.len()), (1, 1), "the intent is written before the call");
    kill(&mut w);
    w.run(10);
    assert_eq!((unattached(&w), w.count("DeleteNetworkInterface")), (0, 1), "{:?}", w.logs);
    w.check();
    w.run(400);
    assert_eq!(w.journal.making, [], "and then it is forgotten");
}

#[test]
fn what_was_made_and_not_attached_is_deleted_after_a_kill() {
    let mut w = growing();
    w.ec2.faults = vec![("AttachNetworkInterface", ErrorKind::Throttled); 3].into();
    until_asked(&mut w, "AttachNetworkInterface");
    assert!(w.journal.making[0].eni.is_some());
    kill(&mut w);
    w.run(10);
    assert_eq!((unattached(&w), w.count("DeleteNetworkInterface")), (0, 1), "{:?}", w.logs);
    w.check();
}

#[test]
fn what_was_attached_is_used_after_a_kill() {
    let mut w = at_first("AttachNetworkInterface");
    w.run_ms(900);
    assert_eq!(w.journal.making.len(), 1, "its answer was not heard yet");
    kill(&mut w);
    w.run(400);
    assert_eq!((w.count("DeleteNetworkInterface"), w.m.cards().enis().count()), (0, 2), "{:?}", w.logs);
    assert_eq!(w.journal.making, []);
    w.check();
}

#[test]
fn what_ec2_shows_only_later_is_deleted_then() {
    let mut w = at_first("CreateNetworkInterface");
    let id = w.ec2.enis.iter().find(|(_, (device, _))| device.is_none()).unwrap().0.clone();
    let hidden = w.ec2.enis.remove(&id).unwrap();
    kill(&mut w);
    w.run(30);
    w.ec2.enis.insert(id, hidden);
    assert_eq!(w.journal.making.len(), 1, "not found is no proof yet");
    w.run(40);
    assert_eq!(unattached(&w), 0, "EC2 is behind by a minute at most, as a rule: {:?}", w.logs);
    w.run(400);
    assert_eq!(w.journal.making, []);
}

#[test]
fn a_removal_is_not_over_because_ec2_does_not_show_the_interface_yet() {
    let mut w = at_first("CreateNetworkInterface");
    let id = w.ec2.enis.iter().find(|(_, (device, _))| device.is_none()).unwrap().0.clone();
    w.journal = Journal { removing: vec![id.clone()], ..Journal::default() };
    let hidden = w.ec2.enis.remove(&id).unwrap();
    kill(&mut w);
    w.run(30);
    w.ec2.enis.insert(id, hidden);
    w.run(400);
    assert_eq!((unattached(&w), w.count("DeleteNetworkInterface")), (0, 1), "{:?}", w.logs);
}

#[test]
fn a_making_that_was_never_answered_is_looked_for_and_undone() {
    let mut w = growing();
    until_asked(&mut w, "CreateNetworkInterface");
    // It was made; neither that nor the repetitions are answered.
    w.queue.retain(|_, event| !matches!(event, Event::Cloud { result: Ok(crate::cloud::Answer::Interfaces(_)), .. }));
    let (job, _) = w.m.jobs.iter().find(|(_, j)| matches!(j, jobs::Job::Create(_))).unwrap();
    let (job, api, kind) = (*job, "CreateNetworkInterface", ErrorKind::Unknown);
    let error = CloudError { api, kind, code: String::new(), message: String::new() };
    w.ec2.faults = vec![(api, kind); 3].into();
    w.warm = 0;
    w.later(10_000, Event::Cloud { job, result: Err(error) });
    w.run(60);
    assert_eq!((unattached(&w), w.count(api)), (1, 4), "{:?}", w.logs);
    w.run(400);
    assert_eq!((unattached(&w), w.journal.making.len()), (0, 0), "{:?}", w.logs);
    w.check();
}

#[test]
fn an_interface_that_ec2_does_not_know_yet_is_not_gone() {
    // It cannot be attached, and at first EC2 knows nothing of it.
    let mut w = growing();
    w.ec2.faults = [
        ("AttachNetworkInterface", ErrorKind::Refused),
        ("DescribeInstances", ErrorKind::Refused),
        ("DescribeNetworkInterfaces", ErrorKind::NotFound),
        ("DescribeNetworkInterfaces", ErrorKind::NotFound),
        ("DeleteNetworkInterface", ErrorKind::NotFound),
    ]
    .into();
    until_asked(&mut w, "AttachNetworkInterface");
    w.warm = 0;
    w.run(30);
    assert_eq!((unattached(&w), w.count("DeleteNetworkInterface")), (0, 2), "{:?} {:?}", w.calls, w.logs);
    assert!(w.ec2.faults.is_empty());
}

#[test]
fn what_could_not_be_deleted_for_long_is_deleted_later() {
    let mut w = growing();
    w.ec2.faults = [("AttachNetworkInterface", ErrorKind::InterfaceLimit)].into();
    w.ec2.faults.extend([("DeleteNetworkInterface", ErrorKind::Refused); 12]);
    until_asked(&mut w, "AttachNetworkInterface");
    w.warm = 0;
    w.run(1000);
    assert_eq!((unattached(&w), w.count("DeleteNetworkInterface")), (1, 12), "{:?}", w.logs);
    w.run(4000);
    assert_eq!((unattached(&w), w.count("DeleteNetworkInterface")), (0, 13), "{:?}", w.logs);
    assert_eq!(w.journal.removing, [""; 0]);
}

#[test]
fn what_no_intent_names_is_not_ours_to_delete() {
    let mut w = at_first("CreateNetworkInterface");
    let made = w.ec2.enis.iter().find(|(_, (device, _))| device.is_none()).unwrap().0.clone();
    w.ec2.enis.insert("eni-other".to_owned(), (None, BTreeSet::new()));
    // Its own time says that it is another one.
    w.ec2.created.insert("eni-other".to_owned(), Some("2000-06-03T02:40:09Z".to_owned()));
    kill(&mut w);
    w.run(4000);
    assert!(!w.ec2.enis.contains_key(&made) && w.ec2.enis.contains_key("eni-other"), "{:?}", w.logs);
}

#[test]
fn without_provisioning_the_intent_waits_for_who_may_act() {
    let mut w = at_first("CreateNetworkInterface");
    w.warm = 0;
    w.queue.clear();
    w.m = Manager::new(Settings { provisioning: false, ..without_clean_up() });
    let (now, attached) = (w.now(), w.ec2.attached());
    w.m.boot(now, &attached, w.journal.clone());
    w.commands();
    w.run(4000);
    assert_eq!((w.count("DeleteNetworkInterface"), w.journal.making.len()), (0, 1));
    kill(&mut w);
    w.run(10);
    assert_eq!(unattached(&w), 0, "{:?}", w.logs);
}

#[test]
fn a_journal_of_before_is_read_and_one_of_now_is_read_by_the_version_before() {
    let old = r#"{"managed":["eni-1"],"returning":[["eni-1","10.0.0.1/32"]],"removing":["eni-2"]}"#;
    let journal: Journal = serde_json::from_str(old).unwrap();
    assert_eq!((journal.managed.len(), journal.removing.len(), journal.making.len()), (1, 1, 0));
    // What that version knows of it, as it was.
    #[derive(serde::Deserialize, Default)]
    #[serde(default)]
    struct Before {
        managed: Vec<String>,
        returning: Vec<(String, String)>,
        removing: Vec<String>,
    }
    let now = serde_json::to_string(&at_first("CreateNetworkInterface").journal).unwrap();
    assert!(now.contains("createdAt") || now.contains("created_at"), "{now}");
    let before: Before = serde_json::from_str(&now).unwrap();
    assert_eq!((before.managed.len(), before.returning.len(), before.removing.len()), (0, 0, 0));
}
