//! A child process that cannot take for ever.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::time::Timespec;

/// What a process that was killed may take to be gone; one that the kernel itself holds is left to it.
const DYING: Duration = Duration::from_secs(1);
const FIRST_LOOK: Duration = Duration::from_micros(100);
const LONGEST_LOOK: Duration = Duration::from_millis(10);

/// Runs a program, gives it `input` and returns what it printed. None: it was not done within `limit` and was killed, with
/// all that it had started.
///
/// # Errors
/// It cannot be started, or the kernel's.
pub(super) fn run(command: &mut Command, input: Option<&str>, limit: Duration) -> io::Result<Option<Output>> {
    let deadline = Instant::now() + limit;
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    // In a group of its own: what it starts goes with it.
    let mut child = command.process_group(0).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let output = converse(&mut child, input.unwrap_or_default(), deadline);
    if !matches!(output, Ok(Some(_))) {
        // It may end by itself at this moment.
        let _gone = kill_process_group(Pid::from_child(&child), Signal::KILL);
        exit_of(&mut child, Instant::now() + DYING)?;
    }
    output
}

fn converse(child: &mut Child, input: &str, deadline: Instant) -> io::Result<Option<Output>> {
    let (mut stdin, mut stdout, mut stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let mut input = input.as_bytes();
    let (mut printed, mut complained) = (Vec::new(), Vec::new());
    if let Some(pipe) = &stdin {
        do_not_block(pipe)?;
    }
    if let Some(pipe) = &stdout {
        do_not_block(pipe)?;
    }
    if let Some(pipe) = &stderr {
        do_not_block(pipe)?;
    }
    loop {
        feed(&mut stdin, &mut input)?;
        drain(&mut stdout, &mut printed)?;
        drain(&mut stderr, &mut complained)?;
        if stdout.is_none() && stderr.is_none() {
            break;
        }
        let mut waited: Vec<PollFd<'_>> = stdin.iter().map(|pipe| PollFd::new(pipe, PollFlags::OUT)).collect();
        waited.extend(stdout.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        waited.extend(stderr.iter().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        let left = deadline.saturating_duration_since(Instant::now());
        match poll(&mut waited, Timespec::try_from(left).ok().as_ref()) {
            Ok(0) => return Ok(None),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    drop(stdin);
    let status = exit_of(child, deadline)?;
    Ok(status.map(|status| Output { status, stdout: printed, stderr: complained }))
}

fn do_not_block(pipe: impl std::os::fd::AsFd) -> io::Result<()> {
    let flags = fcntl_getfl(&pipe)?;
    Ok(fcntl_setfl(&pipe, flags | OFlags::NONBLOCK)?)
}

/// Writes as much as the pipe takes. If the child dies before it has read all, its exit tells more than the broken pipe.
fn feed(pipe: &mut Option<ChildStdin>, input: &mut &[u8]) -> io::Result<()> {
    while let Some(open) = pipe {
        if input.is_empty() {
            *pipe = None;
            break;
        }
        match open.write(input) {
            Ok(written) => *input = &input[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => *pipe = None,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads what is there; the pipe goes at its end.
fn drain(pipe: &mut Option<impl Read>, text: &mut Vec<u8>) -> io::Result<()> {
    // `read_to_end` keeps what it has read before the pipe was empty.
    match pipe.as_mut().map(|open| open.read_to_end(text)) {
        None => Ok(()),
        Some(Ok(_)) => {
            *pipe = None;
            Ok(())
        }
        Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Some(Err(error)) => Err(error),
    }
}

/// Its exit, if it comes in time: it has closed its pipes, so it is about to.
fn exit_of(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    let mut pause = FIRST_LOOK;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, input: Option<&str>, limit: Duration) -> (Option<Output>, Duration) {
        let begun = Instant::now();
        let output = run(Command::new("sh").args(["-c", script]), input, limit).unwrap();
        (output, begun.elapsed())
    }

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_secs(1);

    #[test]
    fn what_it_prints_and_how_it_ends_is_told_however_much_goes_either_way() {
        let (output, _) = shell("cat; echo no >&2; exit 3", Some("hello"), LONG);
        let output = output.unwrap();
        assert_eq!((output.status.code(), output.stdout, output.stderr), (Some(3), b"hello".into(), b"no\n".into()));
        // More than any pipe holds, back while it is still being written.
        let much = "0123456789abcdef".repeat(100_000);
        let (output, _) = shell("cat; cat /dev/zero | head -c 300000 >&2", Some(&much), LONG);
        let output = output.unwrap();
        assert!(output.stdout == much.as_bytes() && output.stderr.len() == 300_000);
    }

    #[test]
    fn one_that_does_not_listen_is_heard_all_the_same() {
        let (output, _) = shell("exec <&-; echo deaf; exit 2", Some(&"x".repeat(1_000_000)), LONG);
        let output = output.unwrap();
        assert_eq!((output.status.code(), output.stdout), (Some(2), b"deaf\n".into()));
    }

    #[test]
    fn one_that_does_not_end_is_killed_with_what_it_started() {
        let pid = std::env::temp_dir().join(format!("rsv-child-{}", std::process::id()));
        for script in ["sleep 600 & echo $! >$PID; wait", "exec >&- 2>&-; sleep 600 & echo $! >$PID; wait"] {
            // The last round's must not stand for this one's.
            let _ = std::fs::remove_file(&pid);
            let begun = Instant::now();
            let mut command = Command::new("sh");
            let output = run(command.args(["-c", script]).env("PID", &pid), Some(""), SHORT).unwrap();
            assert!(output.is_none() && begun.elapsed() < LONG, "{script}");
            let started = std::fs::read_to_string(&pid).unwrap();
            let state = std::path::PathBuf::from(format!("/proc/{}/stat", started.trim()));
            let is_gone = || std::fs::read_to_string(&state).map_or(true, |text| text.contains(") Z "));
            while !is_gone() {
                assert!(begun.elapsed() < LONG, "{script}: its child lives");
                thread::sleep(FIRST_LOOK);
            }
        }
        std::fs::remove_file(&pid).unwrap();
    }

    #[test]
    fn what_cannot_be_started_is_an_error() {
        assert!(run(&mut Command::new("/nowhere/iptables"), None, LONG).is_err());
    }
}
