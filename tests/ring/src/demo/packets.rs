//! Real packets: servers that tell each caller the address they see it under, and pings.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::modes::Net;
use crate::shell::{get, in_netns};

const PORT: u16 = 8080;

/// An HTTP server in a namespace. Its thread and socket keep the namespace alive until it is dropped.
#[derive(Debug)]
pub struct Mirror {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Mirror {
    /// Serves at [`PORT`] inside the namespace.
    pub fn in_netns(netns: &str, net: &Net) -> Result<Self> {
        let end = Arc::new(AtomicBool::new(false));
        let (ready, listens) = std::sync::mpsc::channel();
        let (path, ended, any) = (Path::new("/var/run/netns").join(netns), end.clone(), net.any);
        let thread = std::thread::spawn(move || {
            let listener = listen(&path, any);
            let listener = match listener {
                Ok(listener) => {
                    // The starter waits for it.
                    let _ = ready.send(Ok(()));
                    listener
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return;
                }
            };
            while !ended.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, from)) => drop(answer(stream, &from.ip().to_string())),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(5)),
                    Err(_) => return,
                }
            }
        });
        let mirror = Self { end, thread: Some(thread) };
        listens
            .recv()
            .map_err(|_| anyhow!("the thread ended early"))
            .flatten()
            .with_context(|| format!("no server in {netns}"))?;
        Ok(mirror)
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It holds nothing that a panic could leave half done.
            let _ = thread.join();
        }
    }
}

fn listen(netns: &Path, any: &str) -> Result<TcpListener> {
    let netns = File::open(netns)?;
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
    let listener = TcpListener::bind((any, PORT))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn answer(mut stream: std::net::TcpStream, from: &str) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut request = [0; 1024];
    let _ = stream.read(&mut request)?;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", from.len());
    stream.write_all((head + from).as_bytes())
}

/// Where the server at `to` is.
pub fn url(to: &str) -> String {
    if to.contains(':') { format!("http://[{to}]:{PORT}/") } else { format!("http://{to}:{PORT}/") }
}

/// Under which address the server at `to` sees a caller in the namespace.
pub fn seen_as(netns: &str, to: &str) -> Result<String> {
    get(netns, &url(to))
}

/// Whether one echo request is answered within two seconds.
pub fn answers(netns: &str, to: &str) -> bool {
    in_netns(netns, "ping", &["-n", "-q", "-c", "1", "-W", "2", to]).is_ok()
}

/// Which of `to` do not answer.
pub fn silent<'a>(netns: &str, to: &[(&'a str, &'a str)]) -> Vec<&'a str> {
    let mut silent = Vec::new();
    for some in to.chunks(8) {
        std::thread::scope(|scope| {
            let asked: Vec<_> = some.iter().map(|(name, ip)| (name, scope.spawn(move || answers(netns, ip)))).collect();
            silent.extend(asked.into_iter().filter_map(|(name, t)| (!t.join().unwrap_or(false)).then_some(*name)));
        });
    }
    silent
}

/// A ping every tenth of a second until it is asked how it went.
#[derive(Debug)]
pub struct Stream(Child);

impl Stream {
    pub fn start(netns: &str, to: &str) -> Result<Self> {
        let child = Command::new("ip")
            .args(["netns", "exec", netns, "ping", "-n", "-q", "-i", "0.1", to])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }

    /// Packets sent, and answered.
    pub fn end(mut self) -> Result<(u32, u32)> {
        signal(&self.0, Signal::INT)?;
        let mut text = String::new();
        if let Some(mut out) = self.0.stdout.take() {
            out.read_to_string(&mut text)?;
        }
        self.0.wait()?;
        counts(&text).ok_or_else(|| anyhow!("ping said: {text}"))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // It has ended already, as a rule.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn signal(child: &Child, signal: Signal) -> Result<()> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| anyhow!("no process id"))?;
    Ok(kill_process(pid, signal)?)
}

/// Of ping's last lines: `12 packets transmitted, 12 received, …`.
fn counts(text: &str) -> Option<(u32, u32)> {
    let line = text.lines().find(|l| l.contains("packets transmitted"))?;
    let mut numbers = line.split(", ").map(|part| part.split(' ').next().and_then(|n| n.parse().ok()));
    Some((numbers.next()??, numbers.next()??))
}

/// How many packets the VPC has dropped because the sending interface does not own their source.
pub fn foreign_dropped(vpc: &str, net: &Net) -> Result<u64> {
    let text = in_netns(vpc, "nft", &["list", "counter", net.table, "vpc", "foreign_source"])?;
    let packets = text.split_whitespace().skip_while(|w| *w != "packets").nth(1);
    packets.and_then(|n| n.parse().ok()).ok_or_else(|| anyhow!("nft said: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_are_counted() {
        let said =
            "--- 10.0.200.10 ping statistics ---\n38 packets transmitted, 37 received, 2.6% packet loss, time 3798ms\n";
        assert_eq!(counts(said), Some((38, 37)));
        assert_eq!(counts("ping: connect: Network is unreachable"), None);
    }
}
