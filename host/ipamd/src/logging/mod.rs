//! Logs: one JSON object per line (spec 02 §14), or lines for people where the destination is a terminal.
//!
//! Level and destination come from the configuration. The level holds for our own crates; libraries are heard from
//! `warn` on, because at `debug` they tell every frame they send.

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use crate::config::{LogLevel, LogTo, Logging};

mod file;
mod json;
mod time;

use file::RotatingFile;

/// Target of what ends the process; written at every level, with `"level":"fatal"`.
pub const FATAL: &str = "fatal";

/// Starts logging for the whole process. A file that cannot be opened is told on stderr, which then takes the log.
///
/// # Errors
/// Logging was started before.
pub fn init(config: &Logging) -> Result<(), TryInitError> {
    let filter = filter(config.level);
    let (sink, terminal) = match &config.to {
        LogTo::Stdout => (Sink::new(io::stdout()), io::stdout().is_terminal()),
        LogTo::Stderr => (Sink::new(io::stderr()), io::stderr().is_terminal()),
        LogTo::File(path) => match RotatingFile::open(path) {
            Ok(file) => (Sink::new(file), false),
            Err(error) => {
                // Nothing else can tell it yet.
                let _ = writeln!(io::stderr(), "AWS_VPC_K8S_CNI_LOG_FILE={path:?}: {error}; logging to stderr");
                (Sink::new(io::stderr()), io::stderr().is_terminal())
            }
        },
    };
    let registry = tracing_subscriber::registry().with(filter);
    if terminal {
        registry.with(tracing_subscriber::fmt::layer().with_ansi(true).with_writer(sink)).try_init()
    } else {
        registry.with(json::Layer::new(sink)).try_init()
    }
}

/// Logs what ends the process.
pub fn fatal(message: &dyn std::fmt::Display) {
    tracing::error!(target: FATAL, "{message}");
}

fn filter(level: LogLevel) -> Targets {
    let ours = match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Fatal => LevelFilter::OFF,
    };
    Targets::new()
        .with_default(ours.min(LevelFilter::WARN))
        .with_target("reservoir", ours)
        .with_target("ipamd", ours)
        .with_target(FATAL, LevelFilter::ERROR)
        // It calls every answer that is not 200 an error, and what becomes of it is told by who asked.
        .with_target("kube_client::client::builder", LevelFilter::OFF)
}

/// Where lines go. One line is one write. A write that fails is told on stderr once until one succeeds again, and
/// never stops the daemon.
#[derive(Clone)]
struct Sink(Arc<Mutex<Inner>>);

struct Inner {
    to: Box<dyn Write + Send>,
    failing: bool,
}

impl Sink {
    fn new(to: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Inner { to: Box::new(to), failing: false })))
    }

    fn line(&self, line: &[u8]) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match inner.to.write_all(line).and_then(|()| inner.to.flush()) {
            Ok(()) => inner.failing = false,
            Err(error) if !inner.failing => {
                inner.failing = true;
                let _ = writeln!(io::stderr(), "log: cannot write: {error}; lines are lost until it works again");
            }
            Err(_) => {}
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl tracing_subscriber::fmt::MakeWriter<'_> for Sink {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests;
