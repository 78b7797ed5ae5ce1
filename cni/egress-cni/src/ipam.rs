//! The IPAM plugin, host-local by default: a child process that speaks the same protocol.

use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use cni_plugin::json::{object, objects, text};
use reservoir_net::prefix::IpPrefix;
use serde_json::{Map, Value};

use crate::Invocation;

/// Who gives addresses.
pub trait Ipam {
    /// An address for the container.
    ///
    /// # Errors
    /// The IPAM plugin's words, or why there are none.
    fn add(&self, invocation: &Invocation<'_>) -> Result<Allocation, String>;

    /// Gives the container's address back; that it has none is a success.
    ///
    /// # Errors
    /// As `add`.
    fn del(&self, invocation: &Invocation<'_>) -> Result<(), String>;
}

/// What an IPAM plugin returned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allocation {
    /// Addresses with the length of their range, each with its gateway.
    pub ips: Vec<(IpPrefix, Option<IpAddr>)>,
    /// Destinations, each with its gateway if it is another than the address's.
    pub routes: Vec<(IpPrefix, Option<IpAddr>)>,
}

impl Allocation {
    /// Reads a result of any version.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn parse(stdout: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(stdout).map_err(|error| format!("its result is no JSON: {error}"))?;
        let result = value.as_object().ok_or_else(|| format!("its result must be a JSON object, but is {value}"))?;
        let mut allocation = Self::default();
        for ip in objects(result, "ips")? {
            allocation.ips.push((required(ip, "address")?, optional(ip, "gateway")?));
        }
        allocation.add_routes(result)?;
        // 0.1.0 and 0.2.0
        for key in ["ip4", "ip6"] {
            if let Some(family) = object(result, key)? {
                allocation.ips.push((required(family, "ip")?, optional(family, "gateway")?));
                allocation.add_routes(family)?;
            }
        }
        Ok(allocation)
    }

    fn add_routes(&mut self, object: &Map<String, Value>) -> Result<(), String> {
        for route in objects(object, "routes")? {
            self.routes.push((required(route, "dst")?, optional(route, "gw")?));
        }
        Ok(())
    }
}

fn required(object: &Map<String, Value>, key: &str) -> Result<IpPrefix, String> {
    let text = text(object, key)?.unwrap_or_default();
    text.parse().map_err(|_| format!("{key} {text:?} of its result is no address with a length"))
}

fn optional(object: &Map<String, Value>, key: &str) -> Result<Option<IpAddr>, String> {
    match text(object, key)?.filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| format!("{key} {text:?} of its result is no address")),
    }
}

/// Runs the plugin named in `ipam.type`, found through `CNI_PATH`.
#[derive(Clone, Copy, Debug)]
pub struct Delegate;

impl Ipam for Delegate {
    fn add(&self, invocation: &Invocation<'_>) -> Result<Allocation, String> {
        Allocation::parse(&execute("ADD", invocation)?)
    }

    fn del(&self, invocation: &Invocation<'_>) -> Result<(), String> {
        execute("DEL", invocation).map(drop)
    }
}

fn find(name: &str, path: &str) -> Result<PathBuf, String> {
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(format!("ipam.type must be the name of a plugin, such as \"host-local\", but is {name:?}"));
    }
    let directories: Vec<&str> = path.split(':').filter(|directory| !directory.is_empty()).collect();
    let candidates = directories.iter().map(|directory| PathBuf::from(directory).join(name));
    candidates
        .into_iter()
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| format!("failed to find plugin {name:?} in path [{}]", directories.join(" ")))
}

/// Runs it to its end and returns what it printed.
fn execute(command: &str, invocation: &Invocation<'_>) -> Result<Vec<u8>, String> {
    let Invocation { env, conf, stdin, .. } = *invocation;
    let plugin = find(&conf.ipam_type, &env.path)?;
    let cannot = |error: std::io::Error| format!("{} cannot be run: {error}", plugin.display());
    let mut child = Command::new(&plugin)
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", &env.container_id)
        .env("CNI_NETNS", &env.netns)
        .env("CNI_IFNAME", &env.ifname)
        .env("CNI_ARGS", &env.args)
        .env("CNI_PATH", &env.path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(cannot)?;
    // If it ends before it has read all, its exit tells more than the broken pipe.
    let _broken_pipe = child.stdin.take().map(|mut pipe| pipe.write_all(stdin));
    let output = child.wait_with_output().map_err(cannot)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(refusal(&output.stdout).unwrap_or_else(|| {
        let words = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
        format!("{} failed ({}): {}", plugin.display(), output.status, String::from_utf8_lossy(words).trim())
    }))
}

/// The message of an error object.
fn refusal(stdout: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(stdout).ok()?;
    let msg = value.get("msg")?.as_str()?;
    let details = value.get("details").and_then(Value::as_str).filter(|details| !details.is_empty());
    Some(details.map_or_else(|| msg.to_owned(), |details| format!("{msg}; {details}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use cni_plugin::inputs::Environment;
    use cni_plugin::log::{Level, Log};
    use cni_plugin::netconf::Header;
    use cni_plugin::version::CniVersion;

    use crate::netconf::NetConf;

    /// Runs a script as the IPAM plugin `host-local`.
    fn delegate<T>(script: &str, work: impl FnOnce(&Invocation<'_>) -> T) -> T {
        let dir = tempfile::tempdir().unwrap();
        let plugin = dir.path().join("host-local");
        fs::write(&plugin, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
        let stdin = br#"{"name": "n", "ipam": {"type": "host-local"}}"#;
        let conf = NetConf::load(Header::parse(stdin).unwrap(), CniVersion::V1_0_0).unwrap();
        let env = Environment {
            container_id: "c1".to_owned(),
            netns: "/n".to_owned(),
            ifname: "eth0".to_owned(),
            path: format!("/nowhere:{}", dir.path().display()),
            ..Environment::default()
        };
        work(&Invocation { env: &env, conf: &conf, stdin, log: &Log::new("test", "", Level::Fatal) })
    }

    #[test]
    fn results_of_every_form() {
        let expected = Allocation {
            ips: vec![("169.254.172.2/22".parse().unwrap(), Some("169.254.172.1".parse().unwrap()))],
            routes: vec![("0.0.0.0/0".parse().unwrap(), None)],
        };
        for text in [
            r#"{"ips": [{"version": "4", "address": "169.254.172.2/22", "gateway": "169.254.172.1"}], "routes": [{"dst": "0.0.0.0/0"}]}"#,
            r#"{"ip4": {"ip": "169.254.172.2/22", "gateway": "169.254.172.1", "routes": [{"dst": "0.0.0.0/0"}]}, "dns": {}}"#,
        ] {
            assert_eq!(Allocation::parse(text.as_bytes()), Ok(expected.clone()), "{text}");
        }
        assert_eq!(Allocation::parse(b"{}"), Ok(Allocation::default()));
        for (text, word) in [
            (r#"{"ips": [{"address": "169.254.172.2"}]}"#, "169.254.172.2"),
            (r#"{"ips": [{"address": "169.254.172.2/22", "gateway": "x"}]}"#, "gateway"),
            (r#"{"ips": {}}"#, "ips"),
            ("[]", "object"),
            ("", "JSON"),
        ] {
            let error = Allocation::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn the_child_gets_what_we_got_but_the_command() {
        let script = r#"config=$(cat); [ "$config" = '{"name": "n", "ipam": {"type": "host-local"}}' ] || exit 1
            [ "$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME" = "ADD c1 /n eth0" ] || exit 2
            echo '{"ips": []}'"#;
        assert_eq!(delegate(script, |invocation| Delegate.add(invocation)), Ok(Allocation::default()));
    }

    #[test]
    fn its_refusal_is_told_in_its_words() {
        let error = |script: &str| delegate(script, |invocation| Delegate.del(invocation)).unwrap_err();
        assert_eq!(error(r#"echo '{"code": 999, "msg": "no space"}'; exit 1"#), "no space");
        assert_eq!(error(r#"echo '{"code": 11, "msg": "busy", "details": "later"}'; exit 1"#), "busy; later");
        let odd = error("echo broken >&2; exit 3");
        assert!(odd.contains("host-local failed") && odd.contains('3') && odd.contains("broken"), "{odd}");
    }

    #[test]
    fn a_plugin_that_is_nowhere_is_named_with_the_places() {
        assert_eq!(find("host-local", "/a:/b").unwrap_err(), "failed to find plugin \"host-local\" in path [/a /b]");
        for name in ["", "../sh", ".."] {
            assert!(find(name, "/bin").unwrap_err().contains("ipam.type"), "{name}");
        }
    }
}
