//! Inputs that no runtime should send, and the real program's answers: an error object with the protocol's code and the
//! cause on stdout, exit status 1, never a panic. There is no ipamd, so an input that is let through fails too, with
//! another text.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// `CNI_ARGS` and everything else, right.
fn environment(command: &str) -> Vec<(&'static str, OsString)> {
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-1;K8S_POD_UID=u1";
    [
        ("CNI_COMMAND", command),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/nonexistent/netns"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", args),
        ("CNI_PATH", "/opt/cni/bin"),
    ]
    .map(|(key, value)| (key, OsString::from(value)))
    .to_vec()
}

/// Exit status and stdout.
fn run(environment: &[(&str, OsString)], stdin: &[u8]) -> (Option<i32>, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_aws-cni"))
        .env_clear()
        .envs(environment.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may have seen enough before it has read all.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!stderr.contains("panicked"), "{stderr}");
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

/// Code and text of the error object.
fn error(what: &str, (exit, stdout): (Option<i32>, String)) -> (u64, String) {
    assert_eq!(exit, Some(1), "{what}: {stdout:.300}");
    assert!(stdout.len() < 64 * 1024, "{what}: {} bytes", stdout.len());
    let value: Value = serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{what}: {e}: {stdout:.300}"));
    let msg = value["msg"].as_str().unwrap().to_owned();
    assert!(!msg.is_empty() && !msg.contains("internal error"), "{what}: {msg}");
    (value["code"].as_u64().unwrap(), msg)
}

fn conf(key: &str, value: Value) -> Vec<u8> {
    let mut conf = json!({"cniVersion": "1.1.0", "name": "aws-cni", "type": "aws-cni", "pluginLogLevel": "fatal",
        "ipamdSocket": "/nonexistent/ipamd.sock"});
    conf[key] = value;
    conf.to_string().into_bytes()
}

#[test]
fn configurations() {
    let deep = |open: &str, close: &str, depth: usize| {
        format!("{{\"name\":\"a\",\"x\":{}{}}}", open.repeat(depth), close.repeat(depth)).into_bytes()
    };
    let big = |bytes: usize| conf("x", Value::String("x".repeat(bytes)));
    let config = "error loading config from args: ";
    let table: Vec<(&str, Vec<u8>, u64, &str)> = vec![
        ("nothing", Vec::new(), 6, "error unmarshall network config: EOF"),
        ("blanks", b" \n\t ".to_vec(), 6, "EOF"),
        ("half", b"{\"name\":\"a\"".to_vec(), 6, "EOF"),
        ("words", b"hello".to_vec(), 6, "expected value"),
        ("null", b"null".to_vec(), 6, "it must be a JSON object, but is null"),
        ("a list", b"[]".to_vec(), 6, "it must be a JSON object, but is []"),
        ("a number", b"7".to_vec(), 6, "it must be a JSON object, but is 7"),
        ("a text", b"\"x\"".to_vec(), 6, "it must be a JSON object"),
        ("two", b"{\"name\":\"a\"}{\"name\":\"b\"}".to_vec(), 6, "trailing characters"),
        ("a comma", b"{\"name\":\"a\",}".to_vec(), 6, "trailing comma"),
        ("no UTF-8", b"{\"name\":\"\xff\xfe\"}".to_vec(), 6, "invalid unicode"),
        ("half a pair of surrogates", b"{\"name\":\"\\ud800\"}".to_vec(), 6, "hex escape"),
        ("NUL", b"{\"name\":\"a\0b\"}".to_vec(), 6, "control character"),
        ("NULs", vec![0; 1000], 6, "expected value"),
        ("a mark of byte order", b"\xef\xbb\xbf{\"name\":\"a\"}".to_vec(), 6, "expected value"),
        ("a deep list", deep("[", "]", 100_000), 6, "recursion limit"),
        ("a deep object", deep("{\"a\":", "}", 1_000), 6, ""),
        ("10 MiB of blanks", vec![b' '; 10 << 20], 5, "larger than 8388608 bytes"),
        ("10 MiB in a key that is not ours", big(10 << 20), 5, "larger than 8388608 bytes"),
        ("a number of 1 MiB", conf("mtu", json!(vec![7; 1 << 19])), 999, "\"mtu\" must be a string, but is [7,7,"),
        ("a name of 1 MiB", conf("name", json!(format!("{} ", "n".repeat(1 << 20)))), 7, "invalid characters"),
        ("no name", b"{}".to_vec(), 7, "missing network name"),
        ("an empty name", conf("name", json!("")), 7, "missing network name"),
        ("a name of null", conf("name", Value::Null), 7, "missing network name"),
        ("a name with a slash", conf("name", json!("a/b")), 7, "invalid characters found in network name"),
        ("a name with NUL", conf("name", json!("a\0")), 7, "invalid characters found in network name"),
        ("a numeric name", conf("name", json!(7)), 6, "\"name\" must be a string, but is 7"),
        ("a version of the future", conf("cniVersion", json!("9.9.9")), 1, "incompatible CNI versions"),
        ("half a version", conf("cniVersion", json!("1.1")), 1, "incompatible CNI versions"),
        ("a version with a blank", conf("cniVersion", json!("1.1.0 ")), 1, "incompatible CNI versions"),
        ("a version of 1 MiB", conf("cniVersion", json!("9".repeat(1 << 20))), 1, "incompatible CNI versions"),
        ("a numeric version", conf("cniVersion", json!(1.1)), 6, "\"cniVersion\" must be a string"),
        ("a numeric MTU", conf("mtu", json!(9001)), 999, "\"mtu\" must be a string, but is 9001"),
        ("a long prefix", conf("vethPrefix", json!("abcde")), 999, "conf.VethPrefix can be at most 4 characters"),
        ("a prefix in a list", conf("vethPrefix", json!(["eni"])), 999, "\"vethPrefix\" must be a string"),
        ("a mode that is none", conf("podSGEnforcingMode", json!({})), 999, "\"podSGEnforcingMode\" must be a string"),
        ("a relative socket", conf("ipamdSocket", json!("x.sock")), 999, "ipamdSocket must be an absolute path"),
        ("a log in a number", conf("pluginLogFile", json!(-1)), 999, "\"pluginLogFile\" must be a string"),
        ("annotations in a list", conf("runtimeConfig", json!([])), 999, "\"runtimeConfig\" must be an object"),
        (
            "a numeric annotation",
            conf("runtimeConfig", json!({"io.kubernetes.cri.pod-annotations": {"k8s.amazonaws.com/nicConfig": 1}})),
            999,
            "annotation k8s.amazonaws.com/nicConfig must be a string, but is 1",
        ),
        ("a result in a text", conf("prevResult", json!("x")), 999, "\"prevResult\" must be an object"),
        ("a list of results", conf("prevResult", json!([{}])), 999, "\"prevResult\" must be an object"),
        (
            "a result of another version",
            conf("prevResult", json!({"cniVersion": "0.4.0"})),
            999,
            "could not parse prevResult: could not parse prevResult: result type supports [1.0.0 1.1.0] but unmarshalled \
             CNIVersion is \"0.4.0\"",
        ),
        (
            "a result of no version",
            conf("prevResult", json!({"cniVersion": "x"})),
            999,
            "unmarshalled CNIVersion is \"x\"",
        ),
        (
            "interfaces in an object",
            conf("prevResult", json!({"interfaces": {}})),
            999,
            "\"interfaces\" must be a list",
        ),
        ("interfaces of numbers", conf("prevResult", json!({"interfaces": [7]})), 999, "a list of objects, but is 7"),
        (
            "a numeric interface",
            conf("prevResult", json!({"interfaces": [{"name": 7}]})),
            999,
            "\"name\" must be a string",
        ),
        ("addresses in a text", conf("prevResult", json!({"ips": "10.0.0.1"})), 999, "\"ips\" must be a list"),
        (
            "a numeric address",
            conf("prevResult", json!({"ips": [{"address": 4}]})),
            999,
            "\"address\" must be a string",
        ),
        (
            "a position in the middle",
            conf("prevResult", json!({"ips": [{"address": "10.0.0.1/32", "interface": 1.5}]})),
            999,
            "\"interface\" must be a number, but is 1.5",
        ),
        (
            "a position beyond everything",
            conf("prevResult", json!({"ips": [{"address": "10.0.0.1/32", "interface": u64::MAX}]})),
            999,
            "\"interface\" must be a number",
        ),
        (
            "a numeric gateway",
            conf("prevResult", json!({"ips": [{"gateway": 1}]})),
            999,
            "\"gateway\" must be a string",
        ),
    ];
    for (what, stdin, code, part) in table {
        for (command, prefix) in [("ADD", "add cmd: "), ("DEL", "del cmd: "), ("CHECK", "check cmd: ")] {
            let (got, msg) = error(what, run(&environment(command), &stdin));
            let prefix = if code == 999 { format!("{prefix}{config}") } else { String::new() };
            assert!(
                got == code && msg.starts_with(&prefix) && msg.contains(part),
                "{what}: {command}: {got} {msg:.400}"
            );
        }
    }
    // Large, and right: it comes as far as ipamd.
    let (code, msg) = error("7 MiB", run(&environment("ADD"), &big(7 << 20)));
    assert!(code == 999 && msg.contains("AddNetwork gRPC call"), "{code} {msg}");
}

#[test]
fn del_succeeds_whatever_a_result_of_the_right_form_says() {
    let interfaces =
        |dummy: Value| json!([{"name": "eni0761ccbeace"}, {"name": "eth0", "mac": "2", "sandbox": "/n"}, dummy]);
    let dummy = |mac: &str, sandbox: &str| json!({"name": "dummy0761ccbeace", "mac": mac, "sandbox": sandbox});
    let ips = |address: &str, interface: i64| json!([{"address": address, "interface": interface}]);
    for result in [
        json!({}),
        json!({"interfaces": [], "ips": []}),
        json!({"interfaces": null, "ips": null}),
        json!({"interfaces": [{}], "ips": [{}]}),
        json!({"interfaces": interfaces(json!({"name": "dummyffffffffff"})), "ips": ips("10.0.0.1/32", 1)}),
        json!({"interfaces": interfaces(dummy("0", "")), "ips": ips("10.0.0.1/32", 1)}),
        json!({"interfaces": interfaces(dummy("0", "-1")), "ips": ips("10.0.0.1/32", 1)}),
        json!({"interfaces": interfaces(dummy("0", "99999999999999999999")), "ips": ips("10.0.0.1/32", 1)}),
        json!({"interfaces": interfaces(dummy("0", "1")), "ips": ips("not an address", 1)}),
        json!({"interfaces": interfaces(dummy("0", "1")), "ips": ips("10.0.0.1/99", -1)}),
        json!({"interfaces": interfaces(dummy("0", "1")), "ips": ips("10.0.0.1/32", i64::MAX)}),
        json!({"interfaces": [{"name": "eth0", "mac": "-2"}, dummy("0", "1")], "ips": ips("10.0.0.1/32", 0)}),
        json!({"interfaces": vec![json!({"name": "eth0"}); 10_000], "ips": vec![json!({"address": "10.0.0.1/32"}); 10_000]}),
    ] {
        let what = format!("{:.200}", result.to_string());
        let (exit, stdout) = run(&environment("DEL"), &conf("prevResult", result));
        assert_eq!((exit, stdout.as_str()), (Some(0), ""), "{what}");
    }
    // Of a branch pod what the result says is needed (spec 04 §2.8 A).
    for (mac, part) in
        [("7x", "malformed vlanID in prevResult: 7x"), ("-7", "malformed vlanID"), ("70000", "malformed vlanID")]
    {
        let result = json!({"interfaces": interfaces(dummy(mac, "")), "ips": ips("10.0.0.1/32", 1)});
        let (code, msg) = error(mac, run(&environment("DEL"), &conf("prevResult", result)));
        assert!(
            code == 999 && msg.starts_with("del cmd: failed to delete with prevResult: ") && msg.contains(part),
            "{msg}"
        );
    }
    for (ips, part) in
        [(json!([]), "found 0 containerIPs for eth0"), (ips("x/32", 1), "\"x/32\" in prevResult is no address")]
    {
        let result = json!({"interfaces": interfaces(dummy("7", "")), "ips": ips});
        let (code, msg) = error(part, run(&environment("DEL"), &conf("prevResult", result)));
        assert!(code == 999 && msg.contains(part), "{msg}");
    }
}

#[test]
fn environments() {
    let raw = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
    let long = "x".repeat(100_000);
    let table: Vec<(&str, OsString, u64, &str)> = vec![
        ("CNI_CONTAINERID", raw(b"../../etc"), 4, "invalid characters in containerID"),
        ("CNI_CONTAINERID", raw(b"a\nb"), 4, "invalid characters in containerID"),
        ("CNI_CONTAINERID", raw(b"\xff"), 4, "invalid characters in containerID"),
        ("CNI_CONTAINERID", raw(b""), 4, "required env variables [CNI_CONTAINERID] missing"),
        ("CNI_IFNAME", raw(b""), 4, "required env variables [CNI_IFNAME] missing"),
        ("CNI_IFNAME", long.clone().into(), 4, "interface name is too long"),
        ("CNI_IFNAME", raw(b"\xffeth"), 4, "interface name is not UTF-8"),
        ("CNI_PATH", raw(b""), 4, "required env variables [CNI_PATH] missing"),
        ("CNI_COMMAND", raw(b"add"), 4, "unknown CNI_COMMAND: add"),
        ("CNI_COMMAND", long.into(), 4, "unknown CNI_COMMAND: xxx"),
        ("CNI_ARGS", raw(b";"), 999, "ARGS: invalid pair \"\""),
        ("CNI_ARGS", raw(b"K8S_POD_NAME"), 999, "ARGS: invalid pair \"K8S_POD_NAME\""),
        ("CNI_ARGS", raw(b"K8S_POD_NAME=a=b"), 999, "ARGS: invalid pair"),
        ("CNI_ARGS", raw(b"X=1"), 999, "ARGS: unknown args [\"X=1\"]"),
        ("CNI_ARGS", raw(b"IgnoreUnknown=-1"), 999, "IgnoreUnknown must be 1, 0, true or false"),
        ("CNI_ARGS", raw(b"K8S_POD_NAME=\xff\xfe"), 999, "is not UTF-8"),
    ];
    for (key, value, code, part) in table {
        for command in ["ADD", "DEL", "CHECK"] {
            let mut environment = environment(command);
            environment.iter_mut().find(|(name, _)| *name == key).unwrap().1 = value.clone();
            let (got, msg) = error(key, run(&environment, &conf("mtu", json!("9001"))));
            assert!(got == code && msg.contains(part), "{key}: {command}: {got} {msg:.300}");
        }
    }
    let (code, msg) = error("GC", run(&environment("GC"), &conf("cni.dev/valid-attachments", json!({"a": 1}))));
    assert!(code == 999 && msg.contains("\"cni.dev/valid-attachments\" must be a list"), "{code} {msg}");
    let (code, msg) =
        error("GC", run(&environment("GC"), &conf("cni.dev/valid-attachments", json!([{"ifname": "eth0"}]))));
    assert!(code == 999 && msg.contains("entry without containerID"), "{code} {msg}");
    let (code, msg) = error("STATUS", run(&environment("STATUS"), &conf("mtu", json!("9001"))));
    assert!(code == 50 && msg.contains("ipamd does not answer"), "{code} {msg}");
}
