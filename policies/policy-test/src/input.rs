//! Files and arguments, with errors that say what to mend.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use anyhow::{Context, Result, anyhow, bail};
use reservoir_core::policy::Node;
use serde_json::Value;

/// `K=V` of the command line.
pub(crate) fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a setting is written NAME=VALUE, such as target=12".to_owned()),
    }
}

/// A component's bytes.
pub(crate) fn component(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("the component {} cannot be read", path.display()))
}

/// A snapshot from a file, or from standard input for `-`.
pub(crate) fn snapshot(path: &Path) -> Result<Node> {
    let text = if path.as_os_str() == "-" {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text).context("standard input cannot be read")?
    } else {
        fs::read_to_string(path).with_context(|| format!("the snapshot {} cannot be read", path.display()))?
    };
    parse(&text).with_context(|| format!("the snapshot {} is not a node", path.display()))
}

fn parse(text: &str) -> Result<Node> {
    let given: Value = serde_json::from_str(text).context("it is not JSON")?;
    let node: Node = serde_path_to_error::deserialize(&given).map_err(|error| {
        let path = error.path().to_string();
        anyhow!("{}: {}", if path == "." { "the node" } else { &path }, error.inner())
    })?;
    // Serde passes over names that it does not know, and so would a typing error in an optional field.
    let known = serde_json::to_value(&node)?;
    if let Some(path) = unknown(&given, &known, String::new()) {
        bail!("{path}: there is no such field; wit/policy.wit has the names, with _ for -");
    }
    check(&node)?;
    Ok(node)
}

/// The first field of `given` that `known` does not have.
fn unknown(given: &Value, known: &Value, path: String) -> Option<String> {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => given.iter().find_map(|(key, value)| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match known.get(key) {
                Some(other) => unknown(value, other, path),
                None => Some(path),
            }
        }),
        (Value::Array(given), Value::Array(known)) => {
            given.iter().zip(known).enumerate().find_map(|(i, (a, b))| unknown(a, b, format!("{path}[{i}]")))
        }
        _ => None,
    }
}

/// What the host promises every policy (wit/policy.wit) and a hand-written snapshot may break.
fn check(node: &Node) -> Result<()> {
    let mut ids = std::collections::HashSet::new();
    for (i, eni) in node.enis.iter().enumerate() {
        if !node.cards.iter().any(|card| card.index == eni.card) {
            bail!("enis[{i}].card: {} is not the index of a card in cards", eni.card);
        }
        for (j, cidr) in eni.cidrs.iter().enumerate() {
            let at = format!("enis[{i}].cidrs[{j}]");
            if !ids.insert(cidr.id) {
                bail!("{at}.id: {} is there twice; ids are unique on the node", cidr.id);
            }
            if u64::from(cidr.assigned) + u64::from(cidr.cooling) > u64::from(cidr.size) {
                let (assigned, cooling, size) = (cidr.assigned, cidr.cooling, cidr.size);
                bail!("{at}: {assigned} assigned and {cooling} cooling IPs are more than its size of {size}");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use reservoir_policy::sample;
    use serde_json::json;

    fn error(change: impl FnOnce(&mut Value)) -> String {
        let mut value = serde_json::to_value(sample::node(2, 3)).unwrap();
        change(&mut value);
        format!("{:#}", parse(&value.to_string()).unwrap_err())
    }

    #[test]
    fn reads_what_the_host_writes() {
        let node = sample::node(2, 3);
        assert_eq!(parse(&serde_json::to_string(&node).unwrap()).unwrap(), node);
    }

    #[test]
    fn errors_name_the_field() {
        let wrong = error(|v| v["cards"][0]["max_enis"] = json!("three"));
        assert_eq!(wrong, "cards[0].max_enis: invalid type: string \"three\", expected u32");
        let missing = error(|v| drop(v["enis"][1].as_object_mut().unwrap().remove("subnet")));
        assert_eq!(missing, "enis[1]: missing field `subnet`");
        let unknown = error(|v| v["enis"][0]["cidrs"][2]["idle_secondz"] = json!(5));
        assert!(unknown.starts_with("enis[0].cidrs[2].idle_secondz: there is no such field"), "{unknown}");
        let variant = error(|v| v["unit"] = json!("pie"));
        assert!(variant.starts_with("unit: unknown variant `pie`, expected `ip` or `prefix`"), "{variant}");
        let twice = error(|v| v["enis"][1]["cidrs"][0]["id"] = json!(0));
        assert!(twice.starts_with("enis[1].cidrs[0].id: 0 is there twice"), "{twice}");
        let card = error(|v| v["enis"][0]["card"] = json!(4));
        assert!(card.starts_with("enis[0].card: 4 is not the index"), "{card}");
        let full = error(|v| v["enis"][0]["cidrs"][0]["cooling"] = json!(1));
        assert!(full.contains("enis[0].cidrs[0]: 1 assigned and 1 cooling IPs are more than its size of 1"), "{full}");
        assert!(format!("{:#}", parse("{").unwrap_err()).starts_with("it is not JSON: EOF"));
        assert_eq!(format!("{:#}", parse("{}").unwrap_err()), "the node: missing field `now`");
    }

    #[test]
    fn settings_have_a_name() {
        assert_eq!(setting("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(setting("a="), Ok(("a".into(), String::new())));
        assert!(setting("=b").is_err() && setting("ab").is_err());
    }
}
