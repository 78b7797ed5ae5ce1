//! Whose turn it is, and the clock that ends a call that runs too long.
//!
//! wasmtime compares its epoch with a call's deadline. Somebody must advance the epoch, but a settled node should not
//! be woken twenty times a second for nothing: the ticker sleeps while no call runs.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use wasmtime::{Engine, EngineWeak};

use crate::limits::Limits;

/// Hands out turns. The ticker ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Turns {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// The ticker waits here for work.
    work: Condvar,
    /// Callers wait here for a turn.
    free: Condvar,
}

#[derive(Debug)]
struct State {
    running: u32,
    most: u32,
    ticking: bool,
    ended: bool,
}

impl Shared {
    /// Nothing under this lock can panic half-way, so a poisoned one is as good as new.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to run one instance. Given back on drop.
#[derive(Debug)]
pub(crate) struct Turn {
    shared: Arc<Shared>,
}

impl Turns {
    /// At most `most` at a time. Fails if the ticker's thread cannot be started.
    pub(crate) fn new(engine: &Engine, most: u32) -> io::Result<Turns> {
        let state = State { running: 0, most: most.max(1), ticking: false, ended: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), work: Condvar::new(), free: Condvar::new() });
        let (theirs, engine) = (shared.clone(), engine.weak());
        thread::Builder::new()
            .name("policy-clock".into())
            .stack_size(64 << 10)
            .spawn(move || tick(&theirs, &engine))?;
        Ok(Turns { shared })
    }

    /// Waits until fewer than the most run.
    pub(crate) fn take(&self) -> Turn {
        let mut state = self.shared.lock();
        while state.running >= state.most {
            state = self.shared.free.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.running += 1;
        if !state.ticking {
            state.ticking = true;
            self.shared.work.notify_one();
        }
        Turn { shared: self.shared.clone() }
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.work.notify_one();
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.shared.lock().running -= 1;
        self.shared.free.notify_one();
    }
}

/// Advances the epoch once a tick while calls run. The engine is held weakly: it may go before this thread notices.
fn tick(shared: &Shared, engine: &EngineWeak) {
    let mut state = shared.lock();
    while !state.ended {
        if state.running == 0 {
            state.ticking = false;
        }
        if !state.ticking {
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        let due = Instant::now() + Limits::TICK;
        while !state.ended {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = shared.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        match engine.upgrade() {
            Some(engine) => engine.increment_epoch(),
            None => return,
        }
    }
}
