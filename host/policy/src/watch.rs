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
use tracing::{debug, error, info};

use crate::{
    again::{Schedule, Trouble},
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
/// [`Policies::status`]; the last good component stays. What is refused on a snapshot, and what the built-in component took
/// over from, is tried again after [`Pauses`](crate::Pauses), and at once when the first snapshot with labels comes.
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
    let bell = policies.bell().map_err(failed)?;
    let mut watcher =
        Watcher { policies, dir, snapshot, after, seen: None, refusal: None, schedule: Schedule::default() };
    // Watched before it is read: what changes from here on wakes the thread.
    watcher.look(Why::Changed);
    let run = move || {
        loop {
            match eyes.wait(&stopped, &bell, watcher.schedule.due()) {
                Ok(Wake::Changed) => watcher.look(Why::Changed),
                Ok(Wake::Due) => watcher.look(Why::Again),
                Ok(Wake::Rung) => watcher.rung(),
                Ok(Wake::Stopped) => return,
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

/// Why the directory is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// Something happened in it, or this is the start.
    Changed,
    /// What lies in it is not in force, and may be by now.
    Again,
}

/// One directory, and what came of it.
struct Watcher<S, A> {
    policies: Arc<Policies>,
    dir: PathBuf,
    snapshot: S,
    after: A,
    /// What was put in force last; None where it was refused.
    seen: Option<Bundle>,
    /// How the last load failed, and whether it may work another time.
    refusal: Option<(String, bool)>,
    schedule: Schedule,
}

impl<S, A> Watcher<S, A>
where
    S: Fn() -> Option<Node>,
    A: Fn(&Result<Loaded, ReloadError>),
{
    /// Loads the directory if there is a reason to, and plans when to do so again if what lies in it is not in force.
    fn look(&mut self, why: Why) {
        let (taken_over, role) = (self.policies.taken_over(), self.policies.role());
        if why == Why::Again {
            self.schedule.tried();
        }
        if let Some(result) = refresh(&self.policies, &self.dir, &mut self.seen, &self.snapshot) {
            if why == Why::Changed {
                self.schedule.fresh();
            }
            let refusal = result.as_ref().err().map(|error| (error.to_string(), may_work_later(error)));
            let dir = self.dir.display();
            match &refusal {
                None if why == Why::Again => info!(%dir, "{role}: tried again, it answers and is in force"),
                None => {}
                // Told once, however often it is tried.
                Some(_) if why == Why::Again && refusal == self.refusal => debug!(%dir, "{role}: refused as before"),
                Some((error, _)) if taken_over => error!(%dir, "{role}: refused, the built-in policy goes on: {error}"),
                Some((error, _)) => error!(%dir, "{role} in force stays, the new one is refused: {error}"),
            }
            self.refusal = refusal;
            (self.after)(&result);
        }
        self.plan();
    }

    /// The policies have news.
    fn rung(&mut self) {
        if self.policies.take_again() { self.look(Why::Again) } else { self.plan() }
    }

    fn plan(&mut self) {
        let refused = self.refusal.as_ref().is_some_and(|(_, may_work_later)| *may_work_later);
        let taken_over = self.policies.taken_over();
        let trouble = if taken_over { Some(Trouble::TakenOver) } else { refused.then_some(Trouble::Refused) };
        self.schedule.note(trouble, self.policies.pauses(), Instant::now());
        self.policies.next_try(self.schedule.due());
    }
}

/// Whether the same files may come into force another time. A component that does not load never will.
fn may_work_later(error: &ReloadError) -> bool {
    !matches!(error, ReloadError::Policy(PolicyError::Load(_)))
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
    if seen.as_ref() == Some(&fingerprint) && !policies.taken_over() {
        return None;
    }
    let result = policies.load(&bundle, snapshot().as_ref());
    *seen = result.is_ok().then_some(fingerprint);
    Some(result.map_err(ReloadError::from))
}

/// Why the thread woke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wake {
    /// The directory changed and came to rest.
    Changed,
    /// It is time to try again.
    Due,
    /// The policies have news.
    Rung,
    Stopped,
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

    /// Sleeps until the directory changed and came to rest, or something else is to be done.
    fn wait(&mut self, stopped: &OwnedFd, bell: &OwnedFd, again: Option<Instant>) -> io::Result<Wake> {
        let mut changed: Option<Instant> = None;
        loop {
            let now = Instant::now();
            let left = match changed {
                Some(first) => Some(QUIET.min((first + PATIENCE).saturating_duration_since(now))),
                None => again.map(|due| due.saturating_duration_since(now)),
            };
            let timeout = left.map(|left| Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            });
            let mut fds = [
                PollFd::new(&self.inotify, PollFlags::IN),
                PollFd::new(stopped, PollFlags::IN),
                PollFd::new(bell, PollFlags::IN),
            ];
            // While the directory changes the bell can wait: the files are read anyway.
            let heard = if changed.is_some() { 2 } else { 3 };
            let ready = match poll(&mut fds[..heard], timeout.as_ref()) {
                Ok(ready) => ready,
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            };
            if !fds[1].revents().is_empty() {
                return Ok(Wake::Stopped);
            }
            if heard == 3 && !fds[2].revents().is_empty() {
                return match rustix::io::read(bell, &mut [0; 8]) {
                    Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(Wake::Rung),
                    Err(e) => Err(e.into()),
                };
            }
            if changed.is_none() && ready == 0 {
                return Ok(Wake::Due);
            }
            let patience_over = changed.is_some_and(|first| first.elapsed() >= PATIENCE);
            if ready == 0 || patience_over {
                // The directory may have come, gone or been replaced.
                self.aim()?;
                return Ok(Wake::Changed);
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
