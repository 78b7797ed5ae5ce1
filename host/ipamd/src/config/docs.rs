//! `docs/configuration.md`, made of the table.

use std::fmt::Write as _;

use super::table::VARIABLES;
use super::variable::{Class, Here};

/// The whole page.
#[must_use]
pub fn page() -> String {
    let mut page = String::from(
        "# Configuration\n\n\
<!-- Made of host/ipamd/src/config/table.rs. After a change there: UPDATE_DOCS=1 cargo test --workspace --lib conf -->\n\n\
The daemon takes everything from its environment and needs no arguments. It reads it once, at start; a change needs a\n\
new process. Names are case-sensitive. All problems are reported together: a warning says what is used instead, an error\n\
keeps the daemon from starting (exit code 1). A name that nobody knows and that looks like one of these is reported too.\n\n\
*Read by*: D daemon, E what writes the plugins' configuration, I init container, P plugin, M metrics helper. *Here*: **yes**\n\
works in this release; **later** is accepted with a warning (those of the metrics helper without one), with what to do\n\
meanwhile; **no** is left out on purpose. The container image's entrypoint, the init container and the metrics helper are\n\
not there yet. Until they are, what E reads takes effect by a command, run with the daemon's environment; the daemon checks\n\
the same variables at its start:\n\n\
\x20   ipamd conflist deploy/10-aws.conflist > /etc/cni/net.d/10-aws.conflist.new &&\n\
\x20       mv /etc/cni/net.d/10-aws.conflist.new /etc/cni/net.d/10-aws.conflist\n\n\
Settings of the policy are not here: they are files of `RESERVOIR_POLICY_DIR`.\n\n\
Variables of the AWS SDK (`AWS_REGION`, `AWS_ENDPOINT_URL_EC2`, `AWS_EC2_METADATA_SERVICE_ENDPOINT`, credentials, …)\n\
are read by the SDK. `KUBECONFIG`, `KUBERNETES_SERVICE_HOST`, `KUBERNETES_SERVICE_PORT`, `HOME` (`.kube/config`) and the\n\
proxy variables lead to the API server as with every other client of it. Without any of them the daemon works without one,\n\
unless a variable says that it needs it.\n",
    );
    let mut group = "";
    for v in VARIABLES {
        if v.group != group {
            group = v.group;
            // Writing to a String cannot fail.
            let _ = write!(
                page,
                "\n## {group}\n\n| Name | Read by | Type | Default | Class | Here | Effect |\n|---|---|---|---|---|---|---|\n"
            );
        }
        let here = match v.here {
            Here::Now => "yes".to_owned(),
            Here::Later(meanwhile) => format!("later: {meanwhile}"),
            Here::Never(why) => format!("no: {why}"),
        };
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | `{}` | `{}` | {here} | {} |",
            v.name,
            v.readers,
            v.ty.replace('|', "\\|"),
            v.default,
            v.class.name(),
            v.effect.replace('|', "\\|"),
        );
    }
    page.push_str("\n## Classes\n\n| Class | What is accepted, and what becomes of the rest |\n|---|---|\n");
    let mut told: Vec<(&str, String)> = Vec::new();
    for class in Class::ALL {
        let name = format!("`{}`", class.name());
        match told.iter_mut().find(|(rule, _)| *rule == class.rule()) {
            // Different words of the reference for what is one rule here.
            Some((_, names)) => *names = format!("{names}, {name}"),
            None => told.push((class.rule(), name)),
        }
    }
    for (rule, names) in told {
        let _ = writeln!(page, "| {names} | {rule} |");
    }
    page
}
