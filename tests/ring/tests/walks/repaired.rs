//! Others remove, replace and flush what the running daemon has put into iptables and nftables: it is put back and
//! counted, and nothing of anybody else's goes with it. Nobody tells the daemon: it looks when a timer says so, and when
//! the kernel says that news were lost.

use anyhow::ensure;
use ring::Options;
use ring::shell::in_netns;

use crate::flavours::{Flavour, each_at_a_time};
use crate::support::lab::MINUTE;
use crate::support::storm::{count, lose_news};
use crate::world::{Outside, Source, World};

const REPAIRS: &str = r#"reservoir_host_repairs_total{kind="firewall",result="success"}"#;
const FAILURES: &str = r#"reservoir_host_repairs_total{kind="firewall",result="error"}"#;
/// The timer's longest interval is almost two and a half minutes.
const BY_TIMER: std::time::Duration = MINUTE.saturating_mul(6);
const TRANSLATED: Outside = Outside { internet: Source::Node, peer: Some(Source::Node) };

const OTHERS: &str = "*nat
:COMPANY - [0:0]
-A POSTROUTING -s 10.9.0.0/16 -j COMPANY
-A COMPANY -j RETURN
-A PREROUTING -i docker0 -j COMPANY
COMMIT
";

struct Rules<'a> {
    world: &'a World,
    flavour: Flavour,
}

impl Rules<'_> {
    /// All there is, without counters: ours in its order, but for those of mangle, whose order means nothing; then
    /// others'. Where ours stand among others' means nothing either.
    fn shown(&self) -> Vec<String> {
        let home = self.world.home();
        let saved = in_netns(&home, &self.flavour.program("iptables-save"), &[]).unwrap();
        let (mut ours, mut mangle, mut others) = (Vec::new(), Vec::new(), Vec::new());
        let mut table = "";
        for line in saved.lines() {
            match line.chars().next() {
                Some('*') => table = line,
                Some('-' | ':') => {
                    let kind = match (line.contains("AWS"), table) {
                        (true, "*mangle") => &mut mangle,
                        (true, _) => &mut ours,
                        (false, _) => &mut others,
                    };
                    kind.push(format!("{table} {}", line.split(" [").next().unwrap_or_default()));
                }
                _ => {}
            }
        }
        if self.flavour == Flavour::Nft {
            // Without it nothing is listed, which is a difference as well. -s: no packets that were counted.
            let listed = in_netns(&home, "nft", &["-s", "list", "table", "ip", "aws-cni"]).unwrap_or_default();
            ours.extend(listed.lines().map(str::to_owned));
        }
        mangle.sort();
        [ours, mangle, others].concat()
    }

    /// All at one moment, so that no repair comes in between.
    fn restore(&self, table: &str, lines: &[String]) {
        let file = self.world.node.dir().join("harm");
        std::fs::write(&file, format!("*{table}\n{}\nCOMMIT\n", lines.join("\n"))).unwrap();
        let arguments = ["--wait", "--noflush", &file.display().to_string()];
        in_netns(&self.world.home(), &self.flavour.program("iptables-restore"), &arguments).unwrap();
    }

    fn nft(&self, command: &str) {
        in_netns(&self.world.home(), "nft", &[command]).unwrap();
    }

    /// What deletes the first rule of a table that has this in it.
    fn delete(&self, table: &str, needle: &str) -> String {
        let saved = in_netns(&self.world.home(), &self.flavour.program("iptables-save"), &["-t", table]).unwrap();
        let rule = saved.lines().find_map(|l| l.strip_prefix("-A ").filter(|l| l.contains(needle)));
        format!("-D {}", rule.unwrap_or_else(|| panic!("no {needle} in {saved}")))
    }

    /// Single rules go, one is another's now, one is too much; how many things are wrong then.
    fn single_rules(&self) -> u32 {
        let mut nat = vec![
            self.delete("nat", "AWS SNAT CHAIN"),
            self.delete("nat", "-j SNAT"),
            "-A AWS-SNAT-CHAIN-0 -j RETURN".to_owned(),
            "-I AWS-SNAT-CHAIN-0 -d 198.51.100.0/24 -j RETURN".to_owned(),
        ];
        if self.flavour == Flavour::Legacy {
            nat.push(self.delete("nat", "--set-xmark"));
        }
        self.restore("nat", &nat);
        self.restore("mangle", &[self.delete("mangle", "-i eni+")]);
        if self.flavour == Flavour::Nft {
            self.nft("flush chain ip aws-cni snat-mark");
        }
        // The one that is another's now is two: what it was is missing, what it is is too much.
        6
    }

    /// Chains go whole; how many things are wrong then.
    fn whole_chains(&self) -> u32 {
        let mut nat = vec!["-F AWS-SNAT-CHAIN-0".to_owned()];
        if self.flavour == Flavour::Legacy {
            nat.push(self.delete("nat", "AWS, outbound connections"));
            nat.extend(["-F", "-X"].map(|what| format!("{what} AWS-CONNMARK-CHAIN-0")));
        }
        self.restore("nat", &nat);
        if self.flavour == Flavour::Nft {
            self.nft("delete table ip aws-cni");
        }
        // Of each chain two rules.
        4
    }
}

fn put_back(flavour: Flavour) {
    let dir = tempfile::tempdir().unwrap();
    let (bin, path) = flavour.path(dir.path());
    let mut world = World::new(Options {
        instance_type: "t3.small".to_owned(),
        env: vec![("PATH".to_owned(), path)],
        ..Options::of_tree()
    });
    world.fill(1);
    // Another's, in the same tables and chains.
    let restore = bin.join("iptables-restore").display().to_string();
    let file = dir.path().join("others");
    std::fs::write(&file, OTHERS).unwrap();
    let home = world.home();
    in_netns(&home, &restore, &["--wait", "--noflush", &file.display().to_string()]).unwrap();

    let rules = Rules { world: &world, flavour };
    let sound = rules.shown();
    for needle in ["AWS-SNAT-CHAIN-0", "AWS, CONNMARK", "COMPANY"] {
        let form =
            if flavour == Flavour::Nft { needle.replace("AWS, CONNMARK", "snat-mark") } else { needle.to_owned() };
        assert!(sound.iter().any(|l| l.contains(&form)), "{flavour:?}: no {form} in {sound:#?}");
    }
    let mut counted = world.node.metric(REPAIRS).unwrap();
    let mut is_put_back = |what: &str, harms: u32, patience| {
        let whole = world.node.wait_for(what, patience, |node| {
            let now = rules.shown();
            let lost: Vec<_> = sound.iter().filter(|l| !now.contains(l)).collect();
            let new: Vec<_> = now.iter().filter(|l| !sound.contains(l)).collect();
            ensure!(now == sound, "{flavour:?}: missing {lost:#?}, too much {new:#?}");
            ensure!(node.metric(REPAIRS)? >= counted + f64::from(harms), "not counted");
            Ok(true)
        });
        whole.unwrap();
        counted = world.node.metric(REPAIRS).unwrap();
    };
    let harms = rules.single_rules();
    lose_news(&world.node);
    is_put_back("single rules, after lost news", harms, MINUTE);
    let harms = rules.whole_chains();
    is_put_back("whole chains, by the timer", harms, BY_TIMER);
    assert_eq!(count(&world.node, FAILURES), 0.0);
    // They are not only there, they do what they are for.
    world.walk(TRANSLATED);
    world.close();
}

#[test]
fn rules_that_others_harm_are_put_back_and_counted() {
    let test = "rules_that_others_harm_are_put_back_and_counted";
    if !crate::can_run(test) {
        return;
    }
    each_at_a_time(test, put_back);
}
