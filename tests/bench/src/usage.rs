//! CPU time and memory of processes.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// User and system time of all children that were waited for.
///
/// # Errors
/// The kernel's.
pub fn children() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("getrusage")?;
    Ok(duration(usage.user_time()) + duration(usage.system_time()))
}

fn duration(time: TimeVal) -> Duration {
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(u64::try_from(time.tv_usec()).unwrap_or(0))
}

/// CPU time of a process, threads that ended included, to the nanosecond.
///
/// # Errors
/// There is no such process.
pub fn cpu(pid: u32) -> Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(pid)?)).context("clock_getcpuclockid")?;
    Ok(clock_gettime(clock).context("clock_gettime")?.into())
}

/// Resident memory in MiB.
///
/// # Errors
/// There is no such process.
pub fn resident(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid}"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).ok_or_else(|| anyhow!("no VmRSS"))?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS")?;
    Ok(kib / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_this_process() {
        let pid = std::process::id();
        let before = cpu(pid).unwrap();
        let mut sum = 0u64;
        while cpu(pid).unwrap() < before + Duration::from_millis(5) {
            sum = sum.wrapping_add(1);
        }
        assert!(sum > 0 && resident(pid).unwrap() > 0.5);
        assert!(cpu(u32::MAX).is_err());
    }
}
