//! ADDITIONAL_ENI_TAGS: what EC2 would refuse is left out and told, or no interface could be made (spec 03 §7.8).

use std::collections::BTreeMap;

use super::read::Reader;

const NAME: &str = "ADDITIONAL_ENI_TAGS";
/// Characters of a tag that EC2 takes.
const KEY: usize = 128;
const VALUE: usize = 256;
/// Tags that an interface can have.
const TAGS: usize = 50;
/// Shown of a tag that is left out.
const SHOWN: usize = 80;

/// The tags that can be used. `cluster`: CLUSTER_NAME is set, so that two more of the 50 are ours.
pub(super) fn additional(r: &Reader<'_>, cluster: bool) -> BTreeMap<String, String> {
    let mut tags = r.string_map(NAME);
    tags.retain(|key, value| match refused(key, value) {
        Some(why) => {
            r.warn(NAME, Some(&shown(key, value)), format!("{why}; this tag is left out"));
            false
        }
        None => true,
    });
    // node.k8s.amazonaws.com/instance_id and …/createdAt; cluster.k8s.amazonaws.com/name and eks:eni:owner, which alone may
    // be among the others.
    let ours = if cluster { 4 - usize::from(tags.contains_key("eks:eni:owner")) } else { 2 };
    let room = TAGS - ours;
    if tags.len() > room {
        let over: Vec<String> = tags.keys().skip(room).cloned().collect();
        for key in &over {
            if let Some(value) = tags.remove(key) {
                let why = format!(
                    "an interface has {TAGS} tags at most, {ours} of them ours: give {room} at most; this tag is left out"
                );
                r.warn(NAME, Some(&shown(key, &value)), why);
            }
        }
    }
    tags
}

/// Why EC2, or we, would not have the tag, and what to do.
fn refused(key: &str, value: &str) -> Option<String> {
    let (of_key, of_value) = (key.chars().count(), value.chars().count());
    if key.is_empty() {
        Some("a tag needs a key".to_owned())
    } else if key.contains("k8s.amazonaws.com") {
        Some("keys with k8s.amazonaws.com are reserved".to_owned())
    } else if key.get(..4).is_some_and(|prefix| prefix.eq_ignore_ascii_case("aws:")) {
        Some("keys that begin with aws: are reserved for AWS, choose another".to_owned())
    } else if of_key > KEY {
        Some(format!("the key has {of_key} characters, EC2 takes {KEY}: shorten it"))
    } else if of_value > VALUE {
        Some(format!("the value has {of_value} characters, EC2 takes {VALUE}: shorten it"))
    } else {
        None
    }
}

fn shown(key: &str, value: &str) -> String {
    let whole = format!("{key}={value}");
    match whole.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &whole[..end]),
        None => whole,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Environment};
    use super::*;

    /// Keys that are used, and what is told.
    fn read(tags: &BTreeMap<String, String>, cluster: &str) -> (Vec<String>, Vec<String>) {
        let text = serde_json::to_string(tags).unwrap();
        let pairs = [("ENABLE_IPv4", "true"), (NAME, text.as_str()), ("CLUSTER_NAME", cluster)];
        let (config, report) = Config::read(&Environment::from_iter(pairs));
        assert!(!report.is_fatal(), "{report}");
        let told = report.problems().iter().map(ToString::to_string).collect();
        (config.provisioning.additional_tags.into_keys().collect(), told)
    }

    fn tags(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn what_ec2_would_refuse_is_left_out_and_told_with_the_remedy() {
        let long = |n: usize| "ä".repeat(n);
        for (key, value, why) in [
            ("aws:mine", "1", "reserved for AWS, choose another"),
            ("AWS:mine", "1", "reserved for AWS, choose another"),
            (long(129).as_str(), "1", "129 characters, EC2 takes 128: shorten it"),
            ("k", long(257).as_str(), "257 characters, EC2 takes 256: shorten it"),
            ("", "1", "a tag needs a key"),
            ("x/k8s.amazonaws.com/y", "1", "reserved"),
        ] {
            let (used, told) = read(&tags(&[(key, value), ("team", "blue")]), "");
            assert_eq!(used, ["team"], "{key}={value}");
            let [told] = told.as_slice() else { panic!("{told:?}") };
            assert!(told.contains(NAME) && told.contains(why) && told.contains("this tag is left out"), "{told}");
            assert!(told.chars().count() < 250, "{told}");
        }
        let longest = (long(128), long(256));
        let (used, told) = read(&tags(&[(&longest.0, &longest.1), ("awsome", "1"), ("no-value", "")]), "");
        assert_eq!((used.len(), told.len()), (3, 0), "what EC2 takes is used: {told:?}");
    }

    #[test]
    fn more_tags_than_an_interface_can_have_are_left_out() {
        let many: BTreeMap<String, String> = (0..60).map(|n| (format!("t{n:02}"), n.to_string())).collect();
        for (cluster, room) in [("", 48), ("alpha", 46)] {
            let (used, told) = read(&many, cluster);
            assert_eq!(used, many.keys().take(room).cloned().collect::<Vec<_>>(), "{cluster:?}");
            assert_eq!(told.len(), 60 - room);
            assert!(told[0].contains(&format!("give {room} at most")), "{}", told[0]);
        }
        let own_owner: BTreeMap<_, _> = many.into_iter().take(46).chain(tags(&[("eks:eni:owner", "x")])).collect();
        assert_eq!(read(&own_owner, "alpha").0.len(), 47, "one that is in the place of ours takes no other");
    }
}
