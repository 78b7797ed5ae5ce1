//! A clean-up that is done once.

/// A clean-up that is done once: after the first success it is not tried again.
#[derive(Debug, Default)]
pub struct Once {
    done: bool,
}

impl Once {
    /// Runs `clean_up` unless it has succeeded before.
    ///
    /// # Errors
    /// Its error, after which it will be tried again.
    pub fn run<E>(&mut self, clean_up: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        if !self.done {
            clean_up()?;
            self.done = true;
        }
        Ok(())
    }
}
