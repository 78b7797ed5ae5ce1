//! The daemon's view: who answers, and that nothing a component does stops the next decision.

use reservoir_policy::{By, Options, Policies, sample};

#[test]
fn the_built_in_component_decides_alone() {
    let policies = Policies::new(Options::default()).unwrap();
    for (enis, addresses) in [(1, 2), (2, 29), (15, 49)] {
        let node = sample::node(enis, addresses);
        let decision = policies.decide(&node);
        assert_eq!(decision.failure(), None);
        assert_eq!(decision.by, Some(By::BuiltIn));
        assert_eq!(decision.targets.unwrap(), [node.cards[0].configured]);
        for call in &decision.calls {
            eprintln!("{enis}x{addresses} {:?} fuel {} time {:?}", call.function, call.fuel, call.time);
        }
    }
}
