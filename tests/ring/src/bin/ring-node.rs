//! A simulated node for other programs: `ring-node [INSTANCE_TYPE]` prints one line of JSON once the daemon serves, and
//! takes everything down when its standard input ends.

use std::io::{Read as _, Write as _};

use anyhow::Result;
use ring::{Node, Options};
use serde_json::json;

fn main() -> Result<()> {
    let instance_type = std::env::args().nth(1).unwrap_or_else(|| "t3.small".to_owned());
    let mut node = Node::new(Options { instance_type, ..Options::of_tree() })?;
    node.start_daemon()?;
    let line = json!({"netns": node.netns(), "vpc_netns": node.vpc_netns(), "socket": node.socket(),
        "policy_dir": node.dir().join("policy")});
    println!("{line}");
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
