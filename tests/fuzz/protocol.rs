//! What both plugins must keep to, whatever they are fed.

use cni_plugin::Reply;
use serde_json::Value;

pub const COMMANDS: [&str; 5] = ["ADD", "DEL", "CHECK", "STATUS", "GC"];

/// A result or nothing, or an error object.
pub fn judge(command: &str, reply: &Reply) {
    if reply.exit == 0 {
        assert!(command == "ADD" || reply.stdout.is_empty(), "{command}: {reply:?}");
        return;
    }
    assert_eq!(reply.exit, 1, "{command}: {reply:?}");
    let error: Value = serde_json::from_str(&reply.stdout).expect("an error object");
    assert!(error["code"].as_u64().is_some_and(|code| code > 0), "{error}");
    assert!(error["msg"].as_str().is_some_and(|msg| !msg.is_empty()), "{error}");
    assert!(reply.stdout.len() < 256 * 1024, "{} bytes", reply.stdout.len());
}

/// Without log lines: a file that an input names is not to be written.
pub fn quiet(stdin: &[u8]) -> Vec<u8> {
    let Ok(Value::Object(mut object)) = serde_json::from_slice(stdin) else { return stdin.to_vec() };
    object.retain(|key, _| !key.eq_ignore_ascii_case("pluginLogFile") && !key.eq_ignore_ascii_case("pluginLogLevel"));
    object.insert("pluginLogLevel".to_owned(), "fatal".into());
    Value::Object(object).to_string().into_bytes()
}
