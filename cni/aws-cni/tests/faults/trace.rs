//! Stops the real plugin before everything it changes, by ptrace: there it can be killed, refused, or the world around
//! it changed. Nothing is compiled into the program for this, and a step that is new is stopped at like the others.
//!
//! The kernel carries out all messages of one send in one go. A kill between two of them is made by taking the type
//! away from those that follow, a refusal by making the type an unknown one and rewriting the kernel's answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Command, Stdio};

use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// What the plugin is about to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// To call ipamd.
    Call,
    /// To send one message to the kernel.
    Netlink { kind: u16, body: Vec<u8> },
    /// To write a kernel setting, by its path.
    Setting(String),
    /// To run another program.
    Run,
    /// To print its answer.
    Print,
}

impl Deed {
    /// Whether anything is different afterwards.
    pub fn changes(&self) -> bool {
        !matches!(self, Self::Netlink { kind, .. } if kind % 4 == 2)
    }

    /// Whether the kernel answers it.
    pub fn can_be_refused(&self) -> bool {
        matches!(self, Self::Netlink { .. } | Self::Setting(_))
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const OBJECTS: [&str; 5] = ["link", "address", "route", "neighbour", "rule"];
        match self {
            Self::Call => f.write_str("call of ipamd"),
            Self::Netlink { kind, .. } => {
                let object = OBJECTS.get(usize::from(kind / 4).wrapping_sub(4)).unwrap_or(&"?");
                write!(f, "{} {object}", ["new", "delete", "get", "set"][usize::from(kind % 4)])
            }
            Self::Setting(path) => write!(f, "setting {path}"),
            Self::Run => f.write_str("program"),
            Self::Print => f.write_str("answer"),
        }
    }
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Go,
    /// The plugin dies before it.
    Kill,
    /// The kernel refuses with this error number.
    Refuse(i32),
    /// The kernel does nothing and says it has: of a netlink message alone.
    Skip,
}

/// How the plugin ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// None if it was killed.
    pub exit: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Kills before the `n`th deed that changes something, and then says in `victim` what that was.
pub fn kill_before(n: usize, victim: &mut String) -> impl FnMut(&Deed) -> Verdict {
    let mut seen = 0;
    move |deed| {
        if !deed.changes() {
            return Verdict::Go;
        }
        seen += 1;
        if seen == n + 1 {
            *victim = deed.to_string();
            return Verdict::Kill;
        }
        Verdict::Go
    }
}

/// Runs `command` and asks `judge` before each deed. Must not have another child on the calling thread.
///
/// # Errors
/// Why processes cannot be traced here.
pub fn run(command: &mut Command, stdin: &str, judge: &mut dyn FnMut(&Deed) -> Verdict) -> Result<Ended, String> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let main = Pid::from_raw(child.id().cast_signed());
    // Until it has read its input it changes nothing.
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
    if let Err(error) = ptrace::seize(main, options).and_then(|()| ptrace::interrupt(main)) {
        child.kill().unwrap();
        child.wait().unwrap();
        return Err(format!("ptrace: {error}"));
    }
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let exit =
        Tracer { main, judge, netlink: BTreeSet::new(), inside: BTreeMap::new(), refused: BTreeMap::new() }.run();
    let (stdout, stderr) = output(&mut child);
    Ok(Ended { exit, stdout, stderr })
}

fn output(child: &mut Child) -> (String, String) {
    let (mut stdout, mut stderr) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    (stdout, stderr)
}

const HEADER: usize = 16;
const NOTHING: u16 = 1;
const UNKNOWN: u16 = 0xfff;
const ERROR: u16 = 2;
const VFORK: u64 = libc::CLONE_VFORK as u64;

/// What is to be done when a thread comes back from the kernel.
#[derive(Clone, Copy, Debug)]
enum After {
    Nothing,
    Socket { netlink: bool },
    Receive { fd: u64, buffer: u64 },
    Kill,
    Return(i32),
}

struct Tracer<'a> {
    main: Pid,
    judge: &'a mut dyn FnMut(&Deed) -> Verdict,
    netlink: BTreeSet<u64>,
    inside: BTreeMap<Pid, After>,
    /// Answers to rewrite, by socket and sequence number.
    refused: BTreeMap<(u64, u32), i32>,
}

impl Tracer<'_> {
    fn run(mut self) -> Option<i32> {
        let mut exit = None;
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        // Ends when there is no thread left.
        while let Ok(status) = waitpid(None::<Pid>, Some(flags)) {
            let (thread, signal) = match status {
                WaitStatus::Exited(pid, code) if pid == self.main => {
                    exit = Some(code);
                    continue;
                }
                WaitStatus::PtraceSyscall(thread) => {
                    self.syscall(thread);
                    (thread, None)
                }
                WaitStatus::PtraceEvent(thread, ..) => (thread, None),
                WaitStatus::Stopped(thread, signal) => (thread, Some(signal)),
                _ => continue,
            };
            // One that was killed meanwhile is not there any more.
            let _ = ptrace::syscall(thread, signal);
        }
        exit
    }

    fn kill(&self) {
        kill(self.main, Signal::SIGKILL).unwrap();
    }

    /// The first stop of a thread is on its way into the kernel, and from then on they alternate.
    fn syscall(&mut self, thread: Pid) {
        let Ok(registers) = ptrace::getregs(thread) else { return };
        match self.inside.remove(&thread) {
            Some(after) => self.leaves(thread, registers, after),
            None => {
                let after = self.enters(thread, &registers);
                self.inside.insert(thread, after);
            }
        }
    }

    fn enters(&mut self, thread: Pid, registers: &libc::user_regs_struct) -> After {
        let libc::user_regs_struct { rdi: fd, rsi: buffer, rdx: length, .. } = *registers;
        match registers.orig_rax.cast_signed() {
            libc::SYS_socket => After::Socket { netlink: fd == libc::AF_NETLINK as u64 },
            libc::SYS_connect => self.simple(&Deed::Call),
            libc::SYS_vfork | libc::SYS_fork => self.simple(&Deed::Run),
            // A thread is made by the same call as a process; whoever is about to run a program waits for that.
            libc::SYS_clone if fd & VFORK != 0 => self.simple(&Deed::Run),
            libc::SYS_clone3 if u64_at(&Memory::of(thread).read(fd, 8), 0) & VFORK != 0 => self.simple(&Deed::Run),
            libc::SYS_sendto if self.netlink.contains(&fd) => self.messages(thread, fd, buffer, length),
            libc::SYS_recvfrom if self.netlink.contains(&fd) => After::Receive { fd, buffer },
            libc::SYS_write if fd == 1 => self.simple(&Deed::Print),
            libc::SYS_write => {
                let path = fs::read_link(format!("/proc/{thread}/fd/{fd}")).unwrap_or_default();
                if !path.starts_with("/proc/sys") {
                    return After::Nothing;
                }
                let after = self.simple(&Deed::Setting(path.display().to_string()));
                if let After::Return(_) = after {
                    // There is no such call: the kernel does nothing.
                    ptrace::setregs(thread, libc::user_regs_struct { orig_rax: u64::MAX, ..*registers }).unwrap();
                }
                after
            }
            _ => After::Nothing,
        }
    }

    fn simple(&mut self, deed: &Deed) -> After {
        match (self.judge)(deed) {
            Verdict::Go => {}
            Verdict::Kill => self.kill(),
            Verdict::Refuse(errno) => return After::Return(errno),
            Verdict::Skip => unreachable!("{deed} cannot be skipped"),
        }
        After::Nothing
    }

    fn messages(&mut self, thread: Pid, fd: u64, buffer: u64, length: u64) -> After {
        let memory = Memory::of(thread);
        let bytes = memory.read(buffer, length as usize);
        let mut after = After::Nothing;
        for (at, message) in messages(&bytes) {
            let set_type = |kind: u16| memory.write(buffer + at as u64 + 4, &kind.to_ne_bytes());
            if matches!(after, After::Kill) {
                set_type(NOTHING);
                continue;
            }
            let (kind, sequence) = (u16_at(message, 4), u32_at(message, 8));
            match (self.judge)(&Deed::Netlink { kind, body: message[HEADER..].to_vec() }) {
                Verdict::Go => {}
                Verdict::Skip => set_type(NOTHING),
                Verdict::Kill if at == 0 => {
                    self.kill();
                    return After::Nothing;
                }
                Verdict::Kill => {
                    set_type(NOTHING);
                    after = After::Kill;
                }
                Verdict::Refuse(errno) => {
                    set_type(UNKNOWN);
                    self.refused.insert((fd, sequence), errno);
                }
            }
        }
        after
    }

    fn leaves(&mut self, thread: Pid, registers: libc::user_regs_struct, after: After) {
        let result = registers.rax.cast_signed();
        match after {
            After::Nothing => {}
            After::Kill => self.kill(),
            After::Socket { netlink } => {
                let fd = registers.rax;
                if netlink {
                    self.netlink.insert(fd)
                } else {
                    self.netlink.remove(&fd)
                };
                self.refused.retain(|(of, _), _| *of != fd);
            }
            After::Return(errno) => {
                let rax = i64::from(-errno).cast_unsigned();
                ptrace::setregs(thread, libc::user_regs_struct { rax, ..registers }).unwrap();
            }
            After::Receive { fd, buffer } if result > 0 => {
                let memory = Memory::of(thread);
                for (at, message) in messages(&memory.read(buffer, result as usize)) {
                    if u16_at(message, 4) == ERROR
                        && let Some(errno) = self.refused.remove(&(fd, u32_at(message, 8)))
                    {
                        memory.write(buffer + (at + HEADER) as u64, &(-errno).to_ne_bytes());
                    }
                }
            }
            After::Receive { .. } => {}
        }
    }
}

/// Position and bytes of each message.
fn messages(bytes: &[u8]) -> Vec<(usize, &[u8])> {
    let mut found = Vec::new();
    let mut at = 0;
    while at + HEADER <= bytes.len() {
        let length = u32_at(bytes, at) as usize;
        let Some(message) = bytes.get(at..at + length).filter(|m| m.len() >= HEADER) else { break };
        found.push((at, message));
        at += length.next_multiple_of(4);
    }
    found
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

struct Memory(File);

impl Memory {
    fn of(thread: Pid) -> Self {
        Self(File::options().read(true).write(true).open(format!("/proc/{thread}/mem")).unwrap())
    }

    fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact_at(&mut bytes, address).unwrap();
        bytes
    }

    fn write(&self, address: u64, bytes: &[u8]) {
        self.0.write_all_at(bytes, address).unwrap();
    }
}
