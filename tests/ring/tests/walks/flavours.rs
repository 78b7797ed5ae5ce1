//! The two kinds of iptables, as the whole node would have them: a directory before all others of the path.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use ring::shell::run;

/// One kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    Legacy,
    Nft,
}

impl Flavour {
    /// Those that work here; says loudly which do not.
    pub fn all(test: &str) -> Vec<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let works = |flavour: &Self| {
            let program = flavour.program("iptables");
            let netns = format!("rf{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let tried = run("ip", &["netns", "add", &netns])
                .and_then(|_| run("ip", &["netns", "exec", &netns, &program, "-t", "nat", "-S"]));
            let _ = run("ip", &["netns", "del", &netns]);
            if let Err(error) = &tried {
                eprintln!("SKIPPED: {test} with {program}: {error:#}");
            }
            tried.is_ok()
        };
        [Self::Legacy, Self::Nft].into_iter().filter(works).collect()
    }

    /// `iptables-restore` and the like of this kind.
    pub fn program(self, name: &str) -> String {
        let kind = match self {
            Self::Legacy => "legacy",
            Self::Nft => "nft",
        };
        match name.split_once('-') {
            Some((family, what)) => format!("{family}-{kind}-{what}"),
            None => format!("{name}-{kind}"),
        }
    }

    /// A directory where `iptables` and the like are of this kind, made in `dir`; and a PATH that begins with it.
    pub fn path(self, dir: &Path) -> (PathBuf, String) {
        let bin = dir.join(format!("{self:?}"));
        std::fs::create_dir_all(&bin).unwrap();
        for family in ["iptables", "ip6tables"] {
            for name in [family.to_owned(), format!("{family}-save"), format!("{family}-restore")] {
                let program = run("sh", &["-c", &format!("command -v {}", self.program(&name))]).unwrap();
                let link = bin.join(&name);
                if !link.exists() {
                    std::os::unix::fs::symlink(program.trim(), link).unwrap();
                }
            }
        }
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
        (bin, path)
    }
}

/// Runs `test` with every kind that works here, side by side: for those that mostly wait.
pub fn each_at_a_time(name: &str, test: impl Fn(Flavour) + Sync) {
    std::thread::scope(|scope| {
        for flavour in Flavour::all(name) {
            let test = &test;
            scope.spawn(move || test(flavour));
        }
    });
}
