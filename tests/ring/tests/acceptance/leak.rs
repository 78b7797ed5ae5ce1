//! Suite `ipamd`, leak: after a crowd the node is as before.

use crate::can_run;
use crate::support::lab::lab;

#[test]
fn interfaces_and_addresses_return_after_a_crowd() {
    if !can_run("interfaces_and_addresses_return_after_a_crowd") {
        return;
    }
    let mut lab = lab("secondary", "c5.xlarge", &[]);
    lab.start();
    lab.settles("one interface's worth", |a| a.enis.len() == 1 && a.addresses() == 14);
    // Half of the 58 pods that the type may have.
    let names: Vec<String> = (0..29).map(|n| format!("p{n}")).collect();
    for (name, added) in names.iter().zip(lab.add_all(&names)) {
        added.unwrap_or_else(|why| panic!("{name}: {why}"));
    }
    lab.settles("the node has grown", |a| a.enis.len() == 4);
    for name in &names {
        lab.del(name);
    }
    // An interface stays for a minute at least.
    lab.settles("as before", |a| a.enis.len() == 1 && a.addresses() == 14);
    lab.audit();
}
