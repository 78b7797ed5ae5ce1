//! What ADD returns: the result of the plugins before, with the egress interfaces at the end (spec 04 §14.2).

use cni_plugin::json::{objects, to_indented};
use cni_plugin::version::{CniVersion, ResultFormat};
use reservoir_net::egress::EgressLink;
use serde_json::{Map, Value, json};

/// The previous result in the configuration's version. No address is added: the pod's is the one it has in the cluster.
///
/// # Errors
/// The previous result's interfaces are not a list of objects.
pub fn to_json(
    prev_result: &Map<String, Value>,
    version: CniVersion,
    link: Option<(&EgressLink, &str)>,
) -> Result<String, String> {
    let mut result = prev_result.clone();
    set(&mut result, "cniVersion", version.as_str().into());
    // The oldest form names no interfaces.
    if let Some((link, netns)) = link.filter(|_| version.format() != ResultFormat::Addresses) {
        let mut interfaces: Vec<Value> =
            objects(&result, "interfaces")?.into_iter().cloned().map(Value::Object).collect();
        // Never with a sandbox: bandwidth tells host ends by its absence (spec 04 §15).
        interfaces.push(json!({"name": link.host.name, "mac": link.host.mac.to_string()}));
        interfaces.push(json!({"name": link.pod.name, "mac": link.pod.mac.to_string(), "sandbox": netns}));
        set(&mut result, "interfaces", interfaces.into());
    }
    if version.format() != ResultFormat::Current {
        result.entry("dns").or_insert_with(|| json!({}));
    }
    Ok(to_indented(&result))
}

/// Whether a result names one of our interfaces.
#[must_use]
pub fn names(result: &Map<String, Value>, interface: &str) -> bool {
    objects(result, "interfaces").is_ok_and(|all| all.iter().any(|i| i.get("name").is_some_and(|n| n == interface)))
}

/// Replaces a key, in whatever letter case it is there.
fn set(object: &mut Map<String, Value>, key: &str, value: Value) {
    object.retain(|candidate, _| !candidate.eq_ignore_ascii_case(key));
    object.insert(key.to_owned(), value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use reservoir_net::MacAddr;
    use reservoir_net::egress::End;

    fn link() -> EgressLink {
        let end = |name: &str, last| End { name: name.to_owned(), mac: MacAddr([2, 0, 0, 0, 0, last]) };
        EgressLink { host: end("veth0a1b2c3d", 1), pod: end("v4if0", 2) }
    }

    fn printed(prev: &Value, version: CniVersion, link: Option<(&EgressLink, &str)>) -> Value {
        serde_json::from_str(&to_json(prev.as_object().unwrap(), version, link).unwrap()).unwrap()
    }

    #[test]
    fn interfaces_come_behind_those_of_before_and_the_rest_stays() {
        let prev = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "eni1", "mtu": 9001}], "routes": [{"dst": "::/0"}],
            "ips": [{"interface": 1, "address": "2600::1/128"}]});
        let expected = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "eni1", "mtu": 9001},
            {"name": "veth0a1b2c3d", "mac": "02:00:00:00:00:01"},
            {"name": "v4if0", "mac": "02:00:00:00:00:02", "sandbox": "/n"}],
            "routes": [{"dst": "::/0"}], "ips": [{"interface": 1, "address": "2600::1/128"}]});
        assert_eq!(printed(&prev, CniVersion::V1_0_0, Some((&link(), "/n"))), expected);
        assert!(names(expected.as_object().unwrap(), "v4if0") && !names(prev.as_object().unwrap(), "v4if0"));
    }

    #[test]
    fn the_oldest_form_has_no_interfaces_and_the_older_ones_have_dns() {
        let prev = json!({"ip4": {"ip": "10.0.0.1/32"}});
        let expected = json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.0.0.1/32"}, "dns": {}});
        assert_eq!(printed(&prev, CniVersion::V0_2_0, Some((&link(), "/n"))), expected);
        assert_eq!(printed(&json!({}), CniVersion::V0_4_0, None), json!({"cniVersion": "0.4.0", "dns": {}}));
        assert_eq!(printed(&json!({}), CniVersion::V1_1_0, None), json!({"cniVersion": "1.1.0"}));
    }

    #[test]
    fn a_list_that_is_none_is_an_error() {
        let prev = json!({"interfaces": {}});
        let error = to_json(prev.as_object().unwrap(), CniVersion::V1_0_0, Some((&link(), "/n"))).unwrap_err();
        assert!(error.contains("interfaces"), "{error}");
    }
}
