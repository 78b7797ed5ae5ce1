//! The demo: one node from its first pod to its last, told step by step.
//!
//! | module | what |
//! |---|---|
//! | [`story`] | headings, commands, claims; the line at the end |
//! | [`modes`] | the modes as data: everything else is the same for all |
//! | [`stage`] | what the steps share: the node, its pods, what was seen |
//! | [`live`] | the pool as the daemon shows it, redrawn while it changes |
//! | [`packets`] | servers that tell their callers' address, pings |
//! | [`config_map`] | puts a policy where the daemon looks for it, as the kubelet does |
//! | [`steps`] | the steps in order |

mod config_map;
mod live;
mod modes;
mod packets;
mod stage;
mod steps;
mod story;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use modes::Mode;
use stage::Stage;
use story::Story;

use crate::Options;
use crate::node::STANDARD_PLUGINS;

const PROGRAMS: [&str; 8] = ["ip", "nft", "iptables", "iptables-save", "ip6tables-save", "curl", "ping", "sha256sum"];

const CANNOT_RUN: u8 = 2;
const INTERRUPTED: u8 = 130;

/// Runs the demo.
#[must_use]
pub fn main(arguments: &[String]) -> ExitCode {
    let asked = modes::asked(arguments).map_err(|problem| vec![problem]);
    let (mode, options) = match asked.and_then(|mode| Ok((mode, prerequisites(mode)?))) {
        Ok(both) => both,
        Err(problems) => {
            for problem in problems {
                eprintln!("demo: {problem}");
            }
            return ExitCode::from(CANNOT_RUN);
        }
    };
    let interrupt = match crate::interrupt::watch() {
        Ok(interrupt) => interrupt,
        Err(error) => {
            eprintln!("demo: signals cannot be watched: {error}");
            return ExitCode::from(CANNOT_RUN);
        }
    };
    let mut story = Story::new(interrupt.clone());
    story.title(&format!(
        "Reservoir on one {}: {}. AWS is simulated; kernel, packets and plugin are real.",
        mode.instance_type, mode.what
    ));
    let left = left_behind();
    if !left.is_empty() {
        story.note(&format!("left by a run that was killed: network namespaces {}", left.join(" ")));
        story.note("they do no harm here; `ip netns delete NAME` removes one");
    }
    let mut seen = stage::Seen::default();
    let result = Stage::open(mode, options, &mut story).and_then(|mut stage| {
        let result = steps::all(&mut stage, &mut story);
        if result.is_err() && !interrupt.came() {
            stage.show_logs();
        }
        seen = stage.close();
        result
    });
    if interrupt.came() {
        let _ = writeln!(std::io::stdout(), "\ninterrupted; what the demo had made is removed");
        return ExitCode::from(INTERRUPTED);
    }
    match result {
        Ok(()) => steps::nothing_stays(&seen, &mut story),
        Err(error) => story.failed(&error),
    }
    if story.end(&seen.summary()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the demo needs, or all that is missing with its remedy.
fn prerequisites(mode: &Mode) -> Result<Options, Vec<String>> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("it makes network namespaces and needs root: sudo make demo".to_owned());
    }
    for program in PROGRAMS {
        if !crate::skip::on_path(program) {
            missing.push(format!("the program {program} is missing; `make setup` installs what is needed"));
        }
    }
    let mut options = Options::of_tree();
    let files = [
        (options.binaries.join("aws-sim"), "cargo build --locked --workspace --all-targets"),
        (options.binaries.join("ipamd"), "cargo build --locked --workspace --all-targets"),
        (options.plugin.clone(), "make plugin"),
        (custom_policy(), "policies/build.sh hour"),
    ];
    for (file, remedy) in files {
        if !file.is_file() {
            missing.push(format!("{} is missing; `{remedy}` makes it", file.display()));
        }
    }
    if !missing.is_empty() {
        return Err(missing);
    }
    options.instance_type = mode.instance_type.to_owned();
    options.sim = vec!["--preset".to_owned(), mode.preset.to_owned()];
    options.delays = "realistic".to_owned();
    options.portmap = Path::new(STANDARD_PLUGINS).join("portmap").is_file();
    // The default is 30 s; nobody wants to watch that.
    let env = [("IP_COOLDOWN_PERIOD", "5")].iter().chain(mode.env);
    options.env = env.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Ok(options)
}

/// The committed example that owns sizing alone.
fn custom_policy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies/examples/hour/policy.wasm")
}

/// Namespaces named as ours whose process is gone.
fn left_behind() -> Vec<String> {
    let names = std::fs::read_dir("/var/run/netns").into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    let mut left: Vec<String> = names
        .filter(|name| {
            let owner = ["rn", "rv", "rp"].iter().find_map(|p| name.strip_prefix(p)).and_then(|r| r.split_once('x'));
            owner.is_some_and(|(pid, _)| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
        })
        .collect();
    left.sort();
    left
}
