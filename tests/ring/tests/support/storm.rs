//! So many news of the kernel that it throws some away: the one thing beside its timer that makes the daemon look at
//! iptables and nftables.

use std::process::{Command, Stdio};

use ring::Node;
use ring::shell::get;
use rustix::process::Signal;

use super::lab::MINUTE;

/// Two news each; the kernel keeps some thousand for a reader who is busy.
const STORM: usize = 20_000;
/// Looks at everything. One that the timer had due when the news were lost is counted as the timer's.
const LOOKS: [&str; 2] =
    [r#"reservoir_host_checks_total{cause="overrun"}"#, r#"reservoir_host_checks_total{cause="timer"}"#];

/// The value of a counter whose series begins with its first count.
pub fn count(node: &Node, name: &str) -> f64 {
    let text = get(&node.netns(), "http://127.0.0.1:61678/metrics").unwrap();
    let value = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.trim().parse().unwrap())
}

/// Keeps the daemon from reading until there was too much to read, and waits until it looked at everything.
pub fn lose_news(node: &Node) {
    let looks = |node: &Node| LOOKS.iter().map(|name| count(node, name)).sum::<f64>();
    let before = looks(node);
    let storm = "address add 192.0.2.66/32 dev lo\naddress del 192.0.2.66/32 dev lo\n".repeat(STORM);
    let file = node.dir().join("storm");
    std::fs::write(&file, storm).unwrap();
    node.signal_daemon(Signal::STOP).unwrap();
    let file = file.display().to_string();
    let stormed = Command::new("ip").args(["-n", &node.netns(), "-batch", &file]).stdout(Stdio::null()).status();
    node.signal_daemon(Signal::CONT).unwrap();
    assert!(stormed.unwrap().success());
    node.wait_for("lost news", MINUTE, |node| Ok(looks(node) > before)).unwrap();
}
