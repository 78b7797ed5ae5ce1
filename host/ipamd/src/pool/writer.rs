//! One thread that writes the checkpoints: all changes since its last write together. What it cannot write is undone, and
//! whoever waits for it hears why.

use std::collections::BTreeSet;
use std::io;
use std::sync::PoisonError;
use std::time::Instant;

use reservoir_core::checkpoint;
use reservoir_core::manager::{CardPool, Manager};
use reservoir_core::store::Change;

use super::Pool;
use crate::files;
use crate::metrics::Outcome;

impl Pool {
    /// Writes checkpoints until the pool is stopped; blocks, so it has a thread of its own.
    pub fn write_checkpoints(&self) {
        let mut inner = self.lock();
        loop {
            while inner.pending.is_empty() {
                if inner.stopping {
                    return;
                }
                inner = self.dirty.wait(inner).unwrap_or_else(PoisonError::into_inner);
            }
            let batch = std::mem::take(&mut inner.pending);
            let changed = batch.iter().flat_map(|p| &p.changes).map(Change::card);
            let cards: BTreeSet<u32> = changed.chain(std::mem::take(&mut inner.unwritten)).collect();
            let files = contents(&inner.manager, &cards);
            inner.writing = true;
            drop(inner);
            let (written, result) = self.replace(&files);
            inner = self.lock();
            inner.writing = false;
            match result {
                Ok(()) => {
                    for pending in batch {
                        // A caller that went away need not know.
                        let _ = pending.done.send(Ok(()));
                    }
                }
                Err(error) => {
                    tracing::error!(file = %self.edges.checkpoint.display(), "the checkpoint cannot be written, what it should have told is undone: {error}");
                    // Later changes may rest on these: all go, newest first.
                    let later = std::mem::take(&mut inner.pending);
                    let (changes, senders): (Vec<_>, Vec<_>) =
                        batch.into_iter().chain(later).map(|p| (p.changes, p.done)).unzip();
                    let changes: Vec<Change> = changes.into_iter().flatten().collect();
                    inner.manager.undo(self.edges.clock.now(), changes.into_iter());
                    self.drain(&mut inner);
                    // Files of other cards tell of what is undone now, and one whose write failed may do so too.
                    let files = contents(&inner.manager, &cards);
                    inner.unwritten = cards;
                    if written > 0 {
                        drop(inner);
                        let (again, _) = self.replace(&files[..written]);
                        inner = self.lock();
                        if inner.pending.is_empty() {
                            for (card, _) in &files[..again] {
                                inner.unwritten.remove(card);
                            }
                        }
                    }
                    for sender in senders {
                        let _ = sender.send(Err(io::Error::new(error.kind(), error.to_string())));
                    }
                }
            }
        }
    }

    /// Replaces files, up to the first that cannot be; tells how many were.
    fn replace(&self, files: &[(u32, Vec<u8>)]) -> (usize, io::Result<()>) {
        for (done, (card, content)) in files.iter().enumerate() {
            let started = Instant::now();
            let result = files::replace(&checkpoint::path(&self.edges.checkpoint, *card), content);
            let outcome = if result.is_ok() { Outcome::Success } else { Outcome::Error };
            self.edges.metrics.checkpoint_written(outcome, started.elapsed());
            if result.is_err() {
                return (done, result);
            }
        }
        (files.len(), Ok(()))
    }

    /// Writes what the stores hold now: after a restore (spec 02 §6.5 step 6).
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write_now(&self) -> io::Result<()> {
        let inner = self.lock();
        let cards = inner.manager.cards().iter().map(CardPool::index).collect();
        let files = contents(&inner.manager, &cards);
        drop(inner);
        self.replace(&files).1
    }
}

/// The checkpoints of cards, ascending.
fn contents(manager: &Manager, cards: &BTreeSet<u32>) -> Vec<(u32, Vec<u8>)> {
    let pools = manager.cards().iter().filter(|c| cards.contains(&c.index()));
    pools.map(|c| (c.index(), c.store().checkpoint())).collect()
}
