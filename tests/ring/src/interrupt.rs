//! Ctrl-C, SIGTERM and SIGHUP (a terminal that is closed) set a mark; who looks at it ends, so that what was made is taken down.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, Clone)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Ends as if a signal had come.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Watches from now on, on a thread of its own.
pub fn watch() -> io::Result<Interrupt> {
    let mark = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _guard = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
    };
    let set = mark.clone();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            set.store(true, Ordering::Relaxed);
            // A second one must not end us in the middle of taking down: the handler stays.
            std::future::pending::<()>().await;
        });
    })?;
    Ok(Interrupt(mark))
}
