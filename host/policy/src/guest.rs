//! What the host keeps for one instance while it runs: what it may still use, what it said.

use reservoir_core::policy::{LogLevel, Node};
use serde::Serialize;
use wasmtime::ResourceLimiter;

use crate::limits::Limits;

/// One line that a component logged or printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogLine {
    pub level: LogLevel,
    /// At most [`Limits::LOG_LINE_BYTES`], without line breaks.
    pub text: String,
}

/// A store's data.
#[derive(Debug)]
pub(crate) struct Guest {
    /// Unix seconds at which the component's clocks stand.
    pub(crate) now: u64,
    pub(crate) random: Random,
    pub(crate) log: Log,
    /// What it printed after the last line break, to stdout and to stderr.
    pub(crate) printed: [Vec<u8>; 2],
    pub(crate) usage: Usage,
}

impl Guest {
    pub(crate) fn new(node: &Node, memory_bytes: usize) -> Guest {
        Guest {
            now: node.now,
            random: Random::seeded(node),
            log: Log::default(),
            printed: [Vec::new(), Vec::new()],
            usage: Usage { memory_left: memory_bytes, table_left: Limits::TABLE_ELEMENTS, denied: false },
        }
    }

    /// Lines logged since the last time, with what was printed last.
    pub(crate) fn take_log(&mut self) -> (Vec<LogLine>, u32) {
        for (stream, level) in [(0, LogLevel::Info), (1, LogLevel::Warn)] {
            let rest = std::mem::take(&mut self.printed[stream]);
            if !rest.is_empty() {
                self.log.add(level, &String::from_utf8_lossy(&rest));
            }
        }
        let log = std::mem::take(&mut self.log);
        (log.lines, log.dropped)
    }

    /// Cuts what a component prints into lines.
    pub(crate) fn print(&mut self, stream: usize, bytes: &[u8]) {
        let level = if stream == 0 { LogLevel::Info } else { LogLevel::Warn };
        for piece in bytes.split_inclusive(|&b| b == b'\n') {
            let line = &mut self.printed[stream];
            // What a line has no room for is not remembered either; one byte more shows that it was cut.
            let room = (Limits::LOG_LINE_BYTES + 1).saturating_sub(line.len());
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            line.extend_from_slice(&text[..text.len().min(room)]);
            if piece.ends_with(b"\n") {
                let line = std::mem::take(line);
                self.log.add(level, &String::from_utf8_lossy(&line));
            }
        }
    }
}

/// Log lines of one call, with their limits.
#[derive(Debug, Default)]
pub(crate) struct Log {
    lines: Vec<LogLine>,
    dropped: u32,
}

impl Log {
    pub(crate) fn add(&mut self, level: LogLevel, text: &str) {
        if self.lines.len() >= Limits::LOG_LINES {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        self.lines.push(LogLine { level, text: one_line(text, Limits::LOG_LINE_BYTES) });
    }
}

/// `text` cut to `bytes` at a character's boundary, control characters as spaces: it goes to logs and terminals.
pub(crate) fn one_line(text: &str, bytes: usize) -> String {
    let end = text.floor_char_boundary(bytes);
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Memory and tables of one instance.
#[derive(Debug)]
pub(crate) struct Usage {
    memory_left: usize,
    table_left: usize,
    /// It asked for more than it may have. Most guests trap then; this tells why.
    pub(crate) denied: bool,
}

impl Usage {
    fn take(left: &mut usize, denied: &mut bool, current: usize, desired: usize, maximum: Option<usize>) -> bool {
        let more = desired.saturating_sub(current);
        if more > *left {
            *denied = true;
            return false;
        }
        if maximum.is_some_and(|m| desired > m) {
            return false;
        }
        *left -= more;
        true
    }
}

impl ResourceLimiter for Usage {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(Usage::take(&mut self.memory_left, &mut self.denied, current, desired, maximum))
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(Usage::take(&mut self.table_left, &mut self.denied, current, desired, maximum))
    }

    fn instances(&self) -> usize {
        Limits::CORE_INSTANCES as usize
    }

    fn memories(&self) -> usize {
        Limits::MEMORIES as usize
    }

    fn tables(&self) -> usize {
        Limits::TABLES as usize
    }
}

/// Random numbers that are the same for the same node at the same time: splitmix64 over an FNV-1a hash.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    fn seeded(node: &Node) -> Random {
        let bytes = node.name.bytes().chain(node.now.to_be_bytes());
        Random(bytes.fold(0xcbf2_9ce4_8422_2325, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest() -> Guest {
        Guest::new(&crate::sample::node(1, 1), 1 << 20)
    }

    #[test]
    fn log_keeps_sixteen_lines_of_256_bytes() {
        let mut guest = guest();
        for _ in 0..20 {
            guest.log.add(LogLevel::Info, &"é".repeat(200));
        }
        let (lines, dropped) = guest.take_log();
        assert_eq!((lines.len(), dropped), (16, 4));
        assert_eq!(lines[0].text, "é".repeat(128));
        assert_eq!(guest.take_log(), (vec![], 0));
    }

    #[test]
    fn prints_become_lines() {
        let mut guest = guest();
        guest.print(1, b"panicked at");
        guest.print(1, b" src/lib.rs\nnote: \x1b[31mred\n");
        guest.print(0, b"rest");
        let (lines, _) = guest.take_log();
        let lines: Vec<_> = lines.iter().map(|l| (l.level, l.text.as_str())).collect();
        assert_eq!(
            lines,
            [(LogLevel::Warn, "panicked at src/lib.rs"), (LogLevel::Warn, "note:  [31mred"), (LogLevel::Info, "rest")]
        );
    }

    #[test]
    fn an_endless_line_takes_no_memory() {
        let mut guest = guest();
        for _ in 0..1000 {
            guest.print(0, &[b'x'; 1000]);
        }
        assert!(guest.printed[0].len() <= Limits::LOG_LINE_BYTES + 1);
    }

    #[test]
    fn memory_is_one_account_for_all_memories() {
        let mut usage = guest().usage;
        assert!(usage.memory_growing(0, 1 << 19, None).unwrap());
        assert!(usage.memory_growing(0, 1 << 19, None).unwrap());
        assert!(!usage.denied);
        assert!(!usage.memory_growing(1 << 19, (1 << 19) + 1, None).unwrap());
        assert!(usage.denied);
    }

    #[test]
    fn random_depends_on_the_input_alone() {
        let node = crate::sample::node(1, 1);
        let later = Node { now: node.now + 1, ..node.clone() };
        assert_eq!(Random::seeded(&node).next(), Random::seeded(&node).next());
        assert_ne!(Random::seeded(&node).next(), Random::seeded(&later).next());
    }
}
