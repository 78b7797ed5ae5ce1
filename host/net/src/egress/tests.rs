//! The order of things, and what failures lead to, on an executor that remembers.

use super::*;
use crate::plan::Op;

#[derive(Default)]
struct Fake {
    asked: Vec<String>,
    waits: Vec<Duration>,
    /// Starts of operations, and how the next of that kind ends.
    refuse: Vec<(&'static str, Errno)>,
}

impl Executor for Fake {
    fn execute(&mut self, steps: &[Step]) -> Vec<Result<(), Errno>> {
        let mut one = |step: &Step| {
            let side = if step.side == Side::Host { "host" } else { "pod" };
            let text = step.op.to_string();
            self.asked.push(format!("{side}: {text}"));
            match self.refuse.iter().position(|(start, _)| text.starts_with(start)) {
                Some(at) => Err(self.refuse.remove(at).1),
                // Nothing is left over.
                None if matches!(step.op, Op::LinkDel { .. }) => Err(Errno::NODEV),
                None => Ok(()),
            }
        };
        steps.iter().map(&mut one).collect()
    }

    fn sleep(&mut self, duration: Duration) {
        self.waits.push(duration);
    }
}

fn setup(address: &str, gateway: &str) -> EgressSetup {
    let address: IpPrefix = address.parse().unwrap();
    EgressSetup {
        netns: PathBuf::from("/n"),
        ifname: "eth0".to_owned(),
        mtu: 9001,
        address,
        gateway: gateway.parse().unwrap(),
        routes: vec![(IpPrefix::default_of(address.family()), None)],
    }
}

fn ipv4() -> EgressSetup {
    setup("169.254.172.10/22", "169.254.172.1")
}

fn run(setup: &EgressSetup, fake: &mut Fake) -> Result<End, Error> {
    let mut number = 0;
    let host_end = || {
        number += 1;
        Ok(End { name: format!("veth{number:08}"), mac: MacAddr([2, 0, 0, 0, 0, 1]) })
    };
    wire(setup, fake, host_end, |_| Ok(()), |_, _| Ok("fe80::10".parse().unwrap()))
}

/// Spec 04 §14.3.
#[test]
fn ipv4_in_order() {
    let mut fake = Fake::default();
    run(&ipv4(), &mut fake).unwrap();
    let expected = [
        "host: sysctl net/ipv4/ip_forward=1",
        "pod: link delete v4if0",
        "pod: veth add v4if0 peer veth00000001 mac 02:00:00:00:00:01 mtu 9001",
        "host: sysctl net/ipv6/conf/veth00000001/accept_ra=0",
        "host: link set veth00000001 up",
        "pod: address add 169.254.172.10/22 dev v4if0",
        "pod: link set v4if0 up",
        "pod: route add 0.0.0.0/0 via 169.254.172.1 dev v4if0 scope universe table 254",
        "pod: route delete 169.254.172.0/22 dev v4if0 scope nowhere table 254",
        "pod: route add 169.254.172.1/32 dev v4if0 src 169.254.172.10 scope link table 254",
        "pod: route add 169.254.172.0/22 via 169.254.172.1 dev v4if0 src 169.254.172.10 scope universe table 254",
        "host: address add 169.254.172.1/32 dev veth00000001",
        "host: route add 169.254.172.10/32 dev veth00000001 scope link table 254",
    ];
    assert_eq!(fake.asked, expected);
}

/// Spec 04 §14.4.
#[test]
fn ipv6_in_order() {
    let mut fake = Fake::default();
    run(&setup("fd00::ac:2/118", "fd00::ac:1"), &mut fake).unwrap();
    let expected = [
        "pod: link delete v6if0",
        "pod: sysctl net/ipv6/conf/eth0/disable_ipv6=1",
        "pod: veth add v6if0 peer veth00000001 mac 02:00:00:00:00:01 mtu 9001",
        "host: sysctl net/ipv6/conf/veth00000001/accept_ra=0",
        "host: link set veth00000001 up",
        "pod: sysctl net/ipv6/conf/lo/disable_ipv6=0",
        "pod: sysctl net/ipv6/conf/v6if0/disable_ipv6=0",
        "pod: sysctl net/ipv6/conf/v6if0/keep_addr_on_down=1",
        "pod: address add fd00::ac:2/118 dev v6if0",
        "pod: link set v6if0 up",
        "pod: address wait dev v6if0",
        "pod: route add ::/0 via fd00::ac:1 dev v6if0 scope universe table 254",
        "pod: address wait dev v6if0",
        "pod: route replace ::/0 via fe80::10 dev v6if0 scope universe table 254",
        "host: route add fd00::ac:2/128 dev veth00000001 scope host table 254",
    ];
    assert_eq!(fake.asked, expected);
}

#[test]
fn a_name_that_is_taken_is_followed_by_another_up_to_ten() {
    let mut fake = Fake { refuse: vec![("veth add", Errno::EXIST); 9], ..Fake::default() };
    assert_eq!(run(&ipv4(), &mut fake).unwrap().name, "veth00000010");
    let mut fake = Fake { refuse: vec![("veth add", Errno::EXIST); 10], ..Fake::default() };
    assert_eq!(run(&ipv4(), &mut fake).unwrap_err().errno(), Some(Errno::EXIST));
    assert!(!fake.asked.iter().any(|op| op.starts_with("host: link delete")), "others' interfaces stay");
}

#[test]
fn a_stale_route_is_waited_for() {
    const TO_POD: &str = "route add 169.254.172.10/32";
    let mut fake = Fake { refuse: vec![(TO_POD, Errno::EXIST); 4], ..Fake::default() };
    run(&ipv4(), &mut fake).unwrap();
    assert_eq!(fake.waits, [Duration::from_millis(100); 4]);

    let mut fake = Fake { refuse: vec![(TO_POD, Errno::EXIST); 5], ..Fake::default() };
    let error = run(&ipv4(), &mut fake).unwrap_err().to_string();
    let expected = "failed to add route on host: stale route still exists after 5 attempts: file exists";
    assert!(error.starts_with(expected), "{error}");
    assert_eq!(fake.asked.last().unwrap(), "host: link delete veth00000001");

    let mut fake = Fake { refuse: vec![(TO_POD, Errno::NOSPC)], ..Fake::default() };
    let error = run(&ipv4(), &mut fake).unwrap_err().to_string();
    assert!(error.starts_with("failed to add route on host: no space left on device"), "{error}");
    assert!(fake.waits.is_empty());
}

#[test]
fn whatever_fails_once_the_pair_is_there_takes_it_back() {
    for address in [("169.254.172.10/22", "169.254.172.1"), ("fd00::ac:2/118", "fd00::ac:1")] {
        let setup = setup(address.0, address.1);
        let mut whole = Fake::default();
        run(&setup, &mut whole).unwrap();
        let pair = whole.asked.iter().position(|op| op.contains("veth add")).unwrap();
        for op in &whole.asked[pair + 1..] {
            let op: &'static str = op.clone().leak().split_once(": ").unwrap().1;
            // Refused for good: some are tried more than once.
            let mut fake = Fake { refuse: vec![(op, Errno::NOSPC); 9], ..Fake::default() };
            assert_eq!(run(&setup, &mut fake).unwrap_err().errno(), Some(Errno::NOSPC), "{op}");
            assert_eq!(fake.asked.last().unwrap(), "host: link delete veth00000001", "{op}");
        }
    }
    let no_address = |_: &mut Fake, device: &str| Err(no_link_local(device));
    let end = || Ok(End { name: "veth1".to_owned(), mac: MacAddr([2; 6]) });
    let mut fake = Fake::default();
    let error = wire(&setup("fd00::ac:2/118", "fd00::ac:1"), &mut fake, end, |_| Ok(()), no_address).unwrap_err();
    assert_eq!(error.to_string(), "link-local IPv6 address not found on host interface veth1");
    assert_eq!(fake.asked.last().unwrap(), "host: link delete veth1");
}

#[test]
fn what_cannot_be_right_is_named_before_anything_is_touched() {
    let bad = |setup: EgressSetup, words: &[&str]| {
        let mut fake = Fake::default();
        let error = run(&setup, &mut fake).unwrap_err().to_string();
        assert!(words.iter().all(|w| error.contains(w)) && fake.asked.is_empty(), "{error}");
    };
    bad(setup("169.254.172.10/22", "fd00::ac:1"), &["fd00::ac:1", "169.254.172.10/22"]);
    bad(setup("169.254.172.10/32", "169.254.172.1"), &["169.254.172.10/32", "subnet"]);
    bad(EgressSetup { mtu: 1279, ..setup("fd00::ac:2/118", "fd00::ac:1") }, &["1279", "1280", "POD_MTU"]);
    bad(EgressSetup { mtu: 65_536, ..ipv4() }, &["65536", "POD_MTU"]);
    bad(EgressSetup { ifname: "a/b".to_owned(), ..ipv4() }, &["a/b"]);
}
