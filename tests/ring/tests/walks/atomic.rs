//! Settings and blocks of the VPC change under traffic: no packet of a pod on a secondary interface ever leaves by the
//! primary one with the pod's own address, and what was connected stays connected. The witness stands behind the wire,
//! in the VPC, where it sees every packet of the node before anything is dropped.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use ring::shell::{in_netns, run};
use ring::traffic::{Talk, inside, start};
use ring::{Options, Pod};

use crate::flavours::{Flavour, each_at_a_time};
use crate::support::lab::MINUTE;
use crate::world::{INTERNET, PEER, PEER_NET, World, ip};

/// In a block that is now the VPC's and now not.
const LATER: IpAddr = IpAddr::V4(Ipv4Addr::new(100, 64, 9, 1));
const LATER_NET: &str = "100.64.0.0/16";
const VPC_NET: &str = "10.0.0.0/16";
const PATIENCE: Duration = Duration::from_secs(5);

/// Counts what comes over the wire of the primary interface.
struct Witness {
    router: String,
}

impl Witness {
    fn new(world: &World) -> Self {
        let state = world.node.sim_state().unwrap();
        let enis = state["enis"].as_array().unwrap();
        let is_primary = |e: &&serde_json::Value| e["attachment"]["device_index"] == 0 && e["attachment"]["card"] == 0;
        let eni = enis.iter().find(is_primary).and_then(|e| e["id"].as_str()).unwrap();
        let wire = format!("v-{}", &eni[eni.len() - 12..]);
        let router = world.node.vpc_netns();
        in_netns(&router, "ip", &["link", "show", &wire]).unwrap();
        let own = world.own();
        let rules = format!(
            "add table ip witness\n\
             add set ip witness unmasked {{ type ipv4_addr . ipv4_addr; flags dynamic; }}\n\
             add counter ip witness unmasked\nadd counter ip witness masked\n\
             add chain ip witness wire {{ type filter hook prerouting priority -400; }}\n\
             add rule ip witness wire iifname \"{wire}\" ip saddr {own} counter name masked\n\
             add rule ip witness wire iifname \"{wire}\" ip saddr != {own} counter name unmasked\n\
             add rule ip witness wire iifname \"{wire}\" ip saddr != {own} add @unmasked {{ ip saddr . ip daddr }}\n"
        );
        let file = world.node.dir().join("witness.nft");
        std::fs::write(&file, rules).unwrap();
        in_netns(&router, "nft", &["-f", &file.display().to_string()]).unwrap();
        Self { router }
    }

    fn count(&self, counter: &str) -> u64 {
        let text = in_netns(&self.router, "nft", &["list", "counter", "ip", "witness", counter]).unwrap();
        let packets = text.split_whitespace().skip_while(|w| *w != "packets").nth(1);
        packets.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{text}"))
    }

    /// Nothing came with another address; how much came with the node's.
    fn testify(&self, when: &str) -> u64 {
        let unmasked = self.count("unmasked");
        if unmasked > 0 {
            let who = in_netns(&self.router, "nft", &["list", "set", "ip", "witness", "unmasked"]).unwrap();
            panic!("{when}: {unmasked} packets left by the primary interface as somebody else: {who}");
        }
        self.count("masked")
    }
}

/// New flows of a pod, one after another: a datagram each, and now and then a connection.
struct Stream {
    end: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<Result<()>>,
}

impl Stream {
    fn new(pod: &Pod) -> Self {
        let (end, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (ended, count) = (end.clone(), sent.clone());
        let thread = start(&pod.netns, move || {
            while !ended.load(Ordering::Relaxed) {
                for target in [INTERNET, PEER, LATER] {
                    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
                    // What is refused or lost on the way is no matter here.
                    let _ = socket.send_to(b"who sees me?", (target, 9));
                    if count.fetch_add(1, Ordering::Relaxed).is_multiple_of(16) {
                        let _ = TcpStream::connect_timeout(&SocketAddr::new(target, 9), Duration::from_millis(1));
                    }
                }
                std::thread::sleep(Duration::from_micros(300));
            }
            Ok(())
        });
        Self { end, sent, thread }
    }

    fn finish(self) -> u64 {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().unwrap().unwrap();
        self.sent.load(Ordering::Relaxed)
    }
}

/// A connection to the internet that was there before the changes.
struct Standing {
    pod: TcpStream,
    far: TcpStream,
}

impl Standing {
    fn new(world: &World, pod: &Pod) -> Self {
        let far = inside(&world.internet(), || Ok(TcpListener::bind((INTERNET, 0))?)).unwrap();
        let at = far.local_addr().unwrap();
        let pod = inside(&pod.netns, move || Ok(TcpStream::connect_timeout(&at, PATIENCE)?)).unwrap();
        let (far, _) = far.accept().unwrap();
        for end in [&pod, &far] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        Self { pod, far }
    }

    fn talk(&mut self) -> Result<()> {
        let mut heard = [0; 4];
        self.pod.write_all(b"ping")?;
        self.far.read_exact(&mut heard).context("what the pod said")?;
        self.far.write_all(b"pong")?;
        self.pod.read_exact(&mut heard).context("what the internet said")?;
        anyhow::ensure!(&heard == b"pong");
        Ok(())
    }
}

/// A node with a pod on a secondary interface, and a host at [`LATER`].
fn stage(flavour: Flavour, dir: &Path) -> (World, Pod) {
    let (_, path) = flavour.path(dir);
    let mut world = World::new(Options {
        instance_type: "t3.small".to_owned(),
        env: vec![("PATH".to_owned(), path)],
        ..Options::of_tree()
    });
    world.fill(1);
    let pod = world.secondary().remove(0);
    let (router, host) = (world.node.vpc_netns(), world.host());
    run("ip", &["-n", &host, "address", "add", &format!("{LATER}/32"), "dev", "lo"]).unwrap();
    run("ip", &["-n", &router, "route", "add", &format!("{LATER}/32"), "dev", "host0"]).unwrap();
    (world, pod)
}

fn under_change(flavour: Flavour) {
    let dir = tempfile::tempdir().unwrap();
    let (mut world, pod) = stage(flavour, dir.path());
    let mut standing = Standing::new(&world, &pod);
    let witness = Witness::new(&world);
    let stream = Stream::new(&pod);

    const EXCLUDE: &str = "AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS";
    const EXTERNAL: &str = "AWS_VPC_K8S_CNI_EXTERNALSNAT";
    const RANDOMIZE: &str = "AWS_VPC_K8S_CNI_RANDOMIZESNAT";
    // Each change and its opposite; the blocks of the VPC beside them.
    let one: &[&str] = &[VPC_NET];
    let two: &[&str] = &[VPC_NET, LATER_NET];
    for (key, value, cidrs) in [
        ("", "", one),
        ("", "", two),
        ("", "", one),
        (EXCLUDE, PEER_NET, one),
        (EXCLUDE, "", two),
        (EXTERNAL, "true", two),
        (EXTERNAL, "", one),
        (RANDOMIZE, "none", one),
        (EXTERNAL, "true", one),
        (EXTERNAL, "", two),
        (RANDOMIZE, "", one),
    ] {
        let what = format!("{flavour:?}: {key}={value:?} {cidrs:?}");
        world.set_vpc_cidrs(cidrs);
        let change: &[_] = if key.is_empty() { &[] } else { &[(key, value)] };
        world.restart(change);
        standing.talk().unwrap_or_else(|e| panic!("{what}: what was connected is no more: {e:#}"));
        witness.testify(&what);
    }
    let sent = stream.finish();
    let total = witness.testify("at the end");
    // The witness has seen what it was there for.
    assert!(sent > 1000 && total > sent / 10, "{sent} flows, {total} packets by the primary interface");
    // A socket keeps its namespace.
    drop(standing);
    world.close();
}

#[test]
fn nothing_leaves_unmasked_while_settings_change() {
    let test = "nothing_leaves_unmasked_while_settings_change";
    if !crate::can_run(test) {
        return;
    }
    for flavour in Flavour::all(test) {
        under_change(flavour);
    }
}

/// The blocks that the rules of connections to the outside exempt, of SNAT and of connmark.
fn exempt(world: &World, flavour: Flavour) -> Result<[BTreeSet<String>; 2]> {
    let words_after = |text: &str, chain: &str, word: &str| -> BTreeSet<String> {
        let lines = text.lines().filter(|l| l.contains(chain));
        lines.filter_map(|l| Some(l.split_once(word)?.1.split(' ').next()?.to_owned())).collect()
    };
    let saved = in_netns(&world.home(), &flavour.program("iptables-save"), &["-t", "nat"])?;
    let marked = match flavour {
        Flavour::Legacy => words_after(&saved, "-A AWS-CONNMARK-CHAIN-0 ", " -d "),
        Flavour::Nft => {
            let listed = in_netns(&world.home(), "nft", &["list", "chain", "ip", "aws-cni", "snat-mark"])?;
            words_after(&listed, "return", "ip daddr ")
        }
    };
    Ok([words_after(&saved, "-A AWS-SNAT-CHAIN-0 ", " -d "), marked])
}

/// Spec 04 §12.1: the daemon reads the VPC's blocks again and again, and nobody has to restart it.
fn while_it_runs(flavour: Flavour) {
    let dir = tempfile::tempdir().unwrap();
    let (world, pod) = stage(flavour, dir.path());
    let daemon = world.node.daemon_pid();
    let mut standing = Standing::new(&world, &pod);
    let witness = Witness::new(&world);
    let stream = Stream::new(&pod);
    for (cidrs, seen_as) in [(&[VPC_NET, LATER_NET][..], ip(&pod)), (&[VPC_NET], world.own())] {
        let what = format!("{flavour:?}: {cidrs:?}");
        world.set_vpc_cidrs(cidrs);
        let wanted: BTreeSet<String> = cidrs.iter().map(|c| (*c).to_owned()).collect();
        let followed = world.node.wait_for(&what, 4 * MINUTE, |_| {
            let found = exempt(&world, flavour)?;
            anyhow::ensure!(found.iter().all(|f| *f == wanted), "{found:?}");
            Ok(true)
        });
        followed.unwrap();
        standing.talk().unwrap_or_else(|e| panic!("{what}: what was connected is no more: {e:#}"));
        // Of the VPC: by the pod's own interface and as itself. Outside: as the node.
        assert_eq!(Talk::new(&pod.netns, &world.host(), LATER).both().unwrap(), seen_as, "{what}");
        witness.testify(&what);
    }
    let sent = stream.finish();
    let total = witness.testify("at the end");
    assert!(sent > 1000 && total > sent / 10, "{sent} flows, {total} packets by the primary interface");
    assert_eq!(world.node.daemon_pid(), daemon, "one daemon all the time");
    // What the daemon changed itself was no repair.
    let repairs = r#"reservoir_host_repairs_total{kind="firewall",result="success"}"#;
    assert_eq!(world.node.metric(repairs).unwrap(), 0.0);
    drop(standing);
    world.close();
}

#[test]
fn a_running_daemon_follows_the_blocks_of_the_vpc() {
    let test = "a_running_daemon_follows_the_blocks_of_the_vpc";
    if !crate::can_run(test) {
        return;
    }
    // It takes as long as the daemon takes to ask: both at a time.
    each_at_a_time(test, while_it_runs);
}
