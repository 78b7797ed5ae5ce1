//! Prefix delegation: the same rows with addresses of prefixes on both interfaces.

use ring::Options;

use crate::world::{Outside, Source, World, owned};

#[test]
fn prefixes_on_two_interfaces() {
    if !crate::can_run("prefixes_on_two_interfaces") {
        return;
    }
    // An interface of a t3.nano holds one prefix.
    let mut world = World::new(Options {
        instance_type: "t3.nano".to_owned(),
        env: owned(&[("ENABLE_PREFIX_DELEGATION", "true"), ("WARM_PREFIX_TARGET", "1")]),
        sim: vec!["--preset".to_owned(), "prefix".to_owned()],
        ..Options::of_tree()
    });
    world.fill(2);
    assert_eq!(world.primary().len(), 16);
    world.walk(Outside { internet: Source::Node, peer: Some(Source::Node) });
    crate::services::rows(&world);
    crate::mtu::probe(&world, 9001, 9001);
    world.restart(&[("AWS_VPC_K8S_CNI_EXTERNALSNAT", "true")]);
    world.walk(Outside { internet: Source::Lost, peer: Some(Source::Pod) });
    world.close();
}
