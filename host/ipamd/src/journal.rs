//! Writes the journal, on a thread of its own: nothing that blocks for long, such as the set-up of an interface, is in its
//! way.

use std::path::PathBuf;
use std::sync::mpsc;

use reservoir_core::manager::Journal;
use tokio::sync::oneshot;

use crate::files;

/// The writer. Its thread ends with it.
#[derive(Debug)]
pub(crate) struct JournalThread {
    path: PathBuf,
    writer: Option<mpsc::Sender<Order>>,
}

#[derive(Debug)]
struct Order {
    journal: Journal,
    written: oneshot::Sender<()>,
}

impl JournalThread {
    /// The writer of the file at `path`. Where no thread can be had, the journal is written by whoever has time.
    pub(crate) fn start(path: PathBuf) -> Self {
        let (sender, orders) = mpsc::channel::<Order>();
        let file = path.clone();
        let run = move || {
            while let Ok(Order { journal, written }) = orders.recv() {
                files::write_journal(&file, &journal);
                // Who waited may have gone.
                let _ = written.send(());
            }
        };
        let started = std::thread::Builder::new().name("journal".to_owned()).spawn(run);
        let started = started.inspect_err(|error| tracing::error!("no thread for the journal: {error}"));
        Self { path, writer: started.is_ok().then_some(sender) }
    }

    /// Makes this the file's content. Ends when it is written, or could not be, which is logged then.
    pub(crate) async fn write(&self, journal: Journal) {
        if let Some(writer) = &self.writer {
            let (written, done) = oneshot::channel();
            if writer.send(Order { journal, written }).is_err() || done.await.is_err() {
                tracing::error!(file = %self.path.display(), "the journal was not written: its thread is gone");
            }
            return;
        }
        let path = self.path.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || files::write_journal(&path, &journal)).await {
            tracing::error!(file = %self.path.display(), "the journal was not written: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use reservoir_core::manager::Command;
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::testing::{TestPool, spec};

    #[test]
    fn interfaces_being_set_up_do_not_hold_up_the_journal() {
        // One thread for what blocks, as sixteen interfaces in the making take all sixteen of the daemon's.
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).max_blocking_threads(1).enable_all().build().unwrap();
        // What stands for the API server needs it.
        let _inside = runtime.enter();
        let test = TestPool::new(&[0]);
        let path = files::journal_path(&test.checkpoint());
        let gate = Arc::new(Mutex::new(()));
        let shut = gate.lock().unwrap();
        test.network.block_set_up(gate.clone());
        let (sender, commands) = unbounded_channel();
        let driver = runtime.spawn(test.pool.clone().run(commands));
        let subnet_cidr = "10.0.0.0/20".parse().unwrap();
        sender.send(Command::SetUpEni { job: 1, eni: spec("eni-1"), subnet_cidr }).unwrap();
        let begun = std::time::Instant::now();
        let until = |what: &str, so: &dyn Fn() -> bool| {
            while !so() {
                assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        until("nobody sets the interface up", &|| Arc::strong_count(&gate) == 3);
        let journal = Journal { managed: vec!["eni-1".to_owned()], ..Journal::default() };
        sender.send(Command::Journal(journal.clone())).unwrap();
        until("the journal waits for an interface to show", &|| files::read_journal(&path) == journal);
        drop(shut);
        driver.abort();
        runtime.shutdown_timeout(Duration::from_secs(5));
    }
}
