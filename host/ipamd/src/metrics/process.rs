//! The `process_*` series, read from `/proc` at each scrape. What cannot be read is left out.

use std::fs;

use super::family as f;
use super::text;

/// Ticks per second of `/proc/*/stat`: USER_HZ, 100 on every architecture that we run on.
const USER_HZ: f64 = 100.0;

pub(super) fn write(out: &mut String) {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let stat = Stat::parse(&read("/proc/self/stat"));
    if let Some(stat) = &stat {
        text::single(out, &f::PROCESS_CPU, stat.cpu_ticks / USER_HZ);
        text::single(out, &f::PROCESS_THREADS, stat.threads);
    }
    let booted = number_after(&read("/proc/stat"), "btime");
    if let (Some(stat), Some(booted)) = (&stat, booted) {
        text::single(out, &f::PROCESS_START, booted + stat.start_ticks / USER_HZ);
    }
    let status = read("/proc/self/status");
    for (family, field) in [(f::PROCESS_RSS, "VmRSS:"), (f::PROCESS_VIRTUAL, "VmSize:")] {
        if let Some(kib) = number_after(&status, field) {
            text::single(out, &family, kib * 1024.0);
        }
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        // The directory itself is open while it is read.
        text::single(out, &f::PROCESS_FDS, entries.count().saturating_sub(1));
    }
    if let Some(limit) = number_after(&read("/proc/self/limits"), "Max open files") {
        text::single(out, &f::PROCESS_MAX_FDS, limit);
    }
}

struct Stat {
    cpu_ticks: f64,
    threads: f64,
    start_ticks: f64,
}

impl Stat {
    /// proc(5): the second field is the program's name in parentheses and may hold anything.
    fn parse(stat: &str) -> Option<Self> {
        let (_, rest) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // `rest` begins with field 3.
        let field = |n: usize| fields.get(n - 3)?.parse::<f64>().ok();
        Some(Self { cpu_ticks: field(14)? + field(15)?, threads: field(20)?, start_ticks: field(22)? })
    }
}

/// The first number on the line that begins with `name`.
fn number_after(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_parentheses_and_blanks() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 9 0 1234 1 1";
        let stat = Stat::parse(stat).unwrap();
        assert_eq!((stat.cpu_ticks, stat.threads, stat.start_ticks), (300.0, 9.0, 1234.0));
        assert!(Stat::parse("7 (a) S 1").is_none());
    }

    #[test]
    fn the_process_that_runs_this_has_all_series() {
        let mut out = String::new();
        write(&mut out);
        for family in f::ALL.iter().filter(|f| f.name.starts_with("process_")) {
            let line = out
                .lines()
                .find_map(|l| l.strip_prefix(family.name)?.strip_prefix(' '))
                .unwrap_or_else(|| panic!("{}\n{out}", family.name));
            let value: f64 = line.parse().unwrap();
            assert!(value > 0.0 || family.name == f::PROCESS_CPU.name, "{} {value}", family.name);
        }
    }
}
