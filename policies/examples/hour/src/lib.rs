//! Holds more addresses during the day: owns only how much, the built-in policy does the rest.
//!
//! Settings: `day` and `night`, IPs to hold (default 40 and 5); the day is 6:00 to 22:00 UTC. A node with the label
//! `example.com/pool` holds that many at any hour.

use reservoir_policy_sdk::{Context, Node, Note, Sizes, Sizing, Targets, export};

struct Hour;

impl Sizing for Hour {
    fn decide(node: Node, context: Context) -> Result<Sizes, String> {
        if let Some((key, _)) = context.settings.iter().find(|(key, _)| !["day", "night"].contains(&key.as_str())) {
            return Err(format!("unknown setting {key:?}: this policy knows day and night"));
        }
        let number =
            |what: &str, text: &str| text.parse::<u32>().map_err(|_| format!("{what} = {text:?}: set a number"));
        let setting = |key: &str, absent: u32| context.setting(key).map_or(Ok(absent), |text| number(key, text));
        let (day, night) = (setting("day", 40)?, setting("night", 5)?);
        let by_hour = if (6..22).contains(&node.hour()) { day } else { night };
        let hold = node.label("example.com/pool").map_or(Ok(by_hour), |text| number("label example.com/pool", text))?;
        let reason = format!("hold {hold} at {}:00 UTC", node.hour());
        let to_next_hour = u32::try_from(3600 - node.now % 3600).ok();
        let note = Note { wake_after_seconds: to_next_hour, ..Note::because(reason) };
        Ok(Sizes { targets: node.cards.iter().map(|_| Targets::hold(hold)).collect(), note })
    }
}

export!(Hour: sizing);

#[cfg(test)]
mod tests {
    use reservoir_policy_sdk::sample;

    use super::*;

    fn held(hour: u64, labels: &[(&str, &str)], settings: &[(&str, &str)]) -> Result<u32, String> {
        let pairs = |from: &[(&str, &str)]| from.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let node = Node { now: hour * 3600, labels: pairs(labels), ..sample::node() };
        let sizes = Hour::decide(node, Context { settings: pairs(settings), memo: vec![] })?;
        Ok(sizes.targets[0].minimum_ips)
    }

    #[test]
    fn by_hour_by_label_and_refused() {
        assert_eq!(held(12, &[], &[]), Ok(40));
        assert_eq!(held(22, &[], &[("night", "7")]), Ok(7));
        assert_eq!(held(3, &[("example.com/pool", "99")], &[]), Ok(99));
        assert!(held(3, &[], &[("nigth", "7")]).unwrap_err().starts_with("unknown setting \"nigth\""));
        assert_eq!(held(3, &[], &[("night", "few")]), Err("night = \"few\": set a number".to_owned()));
    }
}
