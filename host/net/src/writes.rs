//! How much was written to the kernel: "a run that changes nothing writes nothing" is shown by counting.

use std::cell::Cell;
use std::ops::Sub;

/// Changes that were asked of the kernel, whether or not it granted them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Writes {
    /// Requests to rtnetlink that are no reads.
    pub netlink: u64,
    /// Settings under `/proc/sys`.
    pub settings: u64,
    /// Runs of `iptables-restore`, and commits to nftables.
    pub firewall: u64,
}

impl Writes {
    /// All kinds together.
    #[must_use]
    pub fn total(self) -> u64 {
        self.netlink + self.settings + self.firewall
    }
}

impl Sub for Writes {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            netlink: self.netlink - earlier.netlink,
            settings: self.settings - earlier.settings,
            firewall: self.firewall - earlier.firewall,
        }
    }
}

thread_local! {
    static WRITTEN: Cell<Writes> = const { Cell::new(Writes { netlink: 0, settings: 0, firewall: 0 }) };
}

/// What this thread has written since it began. Everything in this crate writes on the thread that calls it.
#[must_use]
pub fn by_this_thread() -> Writes {
    WRITTEN.get()
}

/// What `work` writes, and what it returns.
pub fn of<T>(work: impl FnOnce() -> T) -> (Writes, T) {
    let before = by_this_thread();
    let result = work();
    (by_this_thread() - before, result)
}

pub(crate) fn count(change: impl FnOnce(&mut Writes)) {
    let mut written = WRITTEN.get();
    change(&mut written);
    WRITTEN.set(written);
}
