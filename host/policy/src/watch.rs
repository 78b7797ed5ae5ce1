//! Watches the policy directory and loads what changes, on a thread of its own that sleeps while nothing does.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use reservoir_core::policy::Node;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    pipe::{PipeFlags, pipe_with},
};
use tracing::error;

use crate::{
    bundle::Bundle,
    dir::{ReadError, read_dir},
    policies::{Loaded, Policies, PolicyError},
};

/// A change is read once the directory was quiet for so long,
const QUIET: Duration = Duration::from_millis(200);
/// or after so long if it does not come to rest.
const PATIENCE: Duration = Duration::from_secs(5);

/// The directory cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("the policy directory {} cannot be watched: {source}", dir.display())]
pub struct WatchError {
    dir: PathBuf,
    #[source]
    source: io::Error,
}

/// Why a change did not come into force.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// Ends the watching when dropped. A load that is under way runs to its end.
#[derive(Debug)]
#[must_use = "dropping it ends the watching"]
pub struct Watch {
    _stop: OwnedFd,
}

/// Reads the directory and puts what it holds in force; tells [`Policies::status`] either way.
pub fn load_dir(policies: &Policies, dir: &Path, snapshot: Option<&Node>) -> Result<Loaded, ReloadError> {
    let bundle = read(policies, dir)?;
    Ok(policies.load(&bundle, snapshot)?)
}

fn read(policies: &Policies, dir: &Path) -> Result<Bundle, ReadError> {
    read_dir(dir, policies.runtime().limits()).inspect_err(|error| policies.load_failed(error))
}

/// Loads `dir` as it is, before this returns: a daemon that decided without its policy would undo what that policy did.
/// Then loads it again whenever it changes, until the [`Watch`] is dropped. Failures are logged and shown by
/// [`Policies::status`]; the last good component stays.
///
/// `snapshot` supplies the node on which a new component is tried, and `after` hears of every load: of the first from
/// the caller's thread, later from the watching one. The directory need not exist yet. It may be a ConfigMap volume,
/// which swaps a link, or be written in place.
pub fn watch(
    policies: Arc<Policies>,
    dir: &Path,
    snapshot: impl Fn() -> Option<Node> + Send + 'static,
    after: impl Fn(&Result<Loaded, ReloadError>) + Send + 'static,
) -> Result<Watch, WatchError> {
    let failed = |source| WatchError { dir: dir.to_owned(), source };
    let dir = std::path::absolute(dir).map_err(failed)?;
    let mut eyes = Eyes::open(&dir).map_err(failed)?;
    let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    let mut seen = None;
    let mut look = move || {
        if let Some(result) = refresh(&policies, &dir, &mut seen, &snapshot) {
            if let Err(error) = &result {
                error!(dir = %dir.display(), "{} in force stays, the new one is refused: {error}", policies.role());
            }
            after(&result);
        }
    };
    // Watched before it is read: what changes from here on wakes the thread.
    look();
    let run = move || {
        loop {
            match eyes.wait(&stopped) {
                Ok(true) => look(),
                Ok(false) => return,
                Err(error) => {
                    let dir = eyes.dir.display();
                    error!(%dir, "the policy directory is watched no more, restart to load changes: {error}");
                    return;
                }
            }
        }
    };
    thread::Builder::new().name("policy-watch".into()).spawn(run).map_err(failed)?;
    Ok(Watch { _stop: stop })
}

/// Loads the directory if it differs from what was seen last, or if what is in force has failed meanwhile.
fn refresh(
    policies: &Policies,
    dir: &Path,
    seen: &mut Option<Bundle>,
    snapshot: &impl Fn() -> Option<Node>,
) -> Option<Result<Loaded, ReloadError>> {
    let bundle = match read(policies, dir) {
        Ok(bundle) => bundle,
        Err(error) => {
            *seen = None;
            return Some(Err(error.into()));
        }
    };
    let fingerprint = Bundle {
        // The digest stands for the bytes, which need not stay in memory.
        component: bundle.component.as_ref().map(|bytes| crate::Digest::of(bytes).to_string().into_bytes()),
        settings: bundle.settings.clone(),
        pin: bundle.pin,
    };
    if seen.as_ref() == Some(&fingerprint) && policies.status().taken_over_at.is_none() {
        return None;
    }
    let result = policies.load(&bundle, snapshot().as_ref());
    *seen = result.is_ok().then_some(fingerprint);
    Some(result.map_err(ReloadError::from))
}

/// inotify on the directory, or on the nearest one above it that exists.
struct Eyes {
    inotify: Inotify,
    dir: PathBuf,
    watched: Vec<Watched>,
}

struct Watched {
    at: WatchDescriptor,
    /// Only this name matters; in the directory itself every name does.
    name: Option<OsString>,
}

impl Eyes {
    fn open(dir: &Path) -> io::Result<Eyes> {
        let mut eyes = Eyes { inotify: Inotify::init()?, dir: dir.to_owned(), watched: Vec::new() };
        eyes.aim()?;
        Ok(eyes)
    }

    /// Watches what is there now: the directory and its place in its parent, or else the nearest existing ancestor for
    /// the next name on the way.
    fn aim(&mut self) -> io::Result<()> {
        for old in self.watched.drain(..) {
            // It may have gone with its directory.
            let _ = self.inotify.watches().remove(old.at);
        }
        let inside = WatchMask::CREATE
            | WatchMask::CLOSE_WRITE
            | WatchMask::MODIFY
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::DELETE
            | WatchMask::ATTRIB
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF;
        let place = WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::MOVED_FROM | WatchMask::DELETE;
        let mut next: Option<&OsStr> = None;
        for path in self.dir.ancestors() {
            let mask = if next.is_none() { inside } else { place };
            let at = match self.inotify.watches().add(path, mask) {
                Ok(at) => at,
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    next = path.file_name();
                    continue;
                }
                Err(e) => return Err(e),
            };
            let came_meanwhile = self.watched.is_empty() && next.is_some_and(|name| path.join(name).exists());
            self.watched.push(Watched { at, name: next.map(OsStr::to_owned) });
            if came_meanwhile {
                // Made between the look at it and the watch on its parent: nothing will tell us.
                return self.aim();
            }
            if next.is_some() {
                return Ok(());
            }
            next = path.file_name();
        }
        Ok(())
    }

    /// Sleeps until the directory changed and came to rest. False: time to stop.
    fn wait(&mut self, stopped: &OwnedFd) -> io::Result<bool> {
        let mut changed: Option<Instant> = None;
        loop {
            let timeout = changed.map(|first| {
                let left = QUIET.min((first + PATIENCE).saturating_duration_since(Instant::now()));
                Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) }
            });
            let mut fds = [PollFd::new(&self.inotify, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
            let ready = match poll(&mut fds, timeout.as_ref()) {
                Ok(ready) => ready,
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            };
            if !fds[1].revents().is_empty() {
                return Ok(false);
            }
            let due = changed.is_some_and(|first| first.elapsed() >= PATIENCE);
            if ready == 0 || due {
                // The directory may have come, gone or been replaced.
                self.aim()?;
                return Ok(true);
            }
            if self.drain()? {
                changed.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Takes what inotify has to say. True if it concerns the directory.
    fn drain(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        let mut ours = false;
        let events = match self.inotify.read_events(&mut buffer) {
            Ok(events) => events,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(e),
        };
        for event in events {
            ours |= event.mask.contains(EventMask::Q_OVERFLOW)
                || self
                    .watched
                    .iter()
                    .any(|w| w.at == event.wd && w.name.as_deref().is_none_or(|name| event.name == Some(name)));
        }
        Ok(ours)
    }
}
