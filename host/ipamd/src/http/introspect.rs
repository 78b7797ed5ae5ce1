//! The introspection endpoints (spec 02 §8.2) and ours: `/v1/policy`, `/v1/decisions`.

use super::serve::Reply;

/// What introspection shows of the running daemon. Called on a runtime thread: answer from memory.
pub trait Introspect: Send + Sync {
    /// `/v1/enis`: the JSON of spec 02 §8.3, compact, container ids and interface names emptied.
    fn enis(&self) -> String;

    /// `/v1/eni-configs`: name of the ENIConfig of this node; None where the node cannot be read.
    fn eni_config(&self) -> Option<String>;

    /// `/v1/policy`: what is loaded, since when, and what the last loads came to. JSON.
    fn policy(&self) -> String;

    /// `/v1/decisions`: the last decisions, oldest first, one JSON object per line.
    fn decisions(&self) -> String;
}

/// What every path that is not known answers; the reference's bytes, so ours are not in it.
const COMMANDS: &str =
    r#"{"AvailableCommands":["/v1/enis","/v1/eni-configs","/v1/networkutils-env-settings","/v1/ipamd-env-settings"]}"#;

const TEXT: &str = "text/plain; charset=utf-8";

pub(super) fn reply(path: &str, state: &dyn Introspect, networkutils: &str, ipamd: &str) -> Reply {
    match path {
        "/v1/enis" => Reply::ok(TEXT, state.enis()),
        "/v1/eni-configs" => match state.eni_config() {
            Some(name) => Reply::ok(TEXT, serde_json::Value::from(name).to_string()),
            None => Reply::not_found("Not Found\n"),
        },
        "/v1/networkutils-env-settings" => Reply::ok(TEXT, networkutils.to_owned()),
        "/v1/ipamd-env-settings" => Reply::ok(TEXT, ipamd.to_owned()),
        "/v1/policy" => Reply::ok("application/json", state.policy()),
        "/v1/decisions" => Reply::ok("application/x-ndjson", state.decisions()),
        _ => Reply::ok(TEXT, COMMANDS.to_owned()),
    }
}
