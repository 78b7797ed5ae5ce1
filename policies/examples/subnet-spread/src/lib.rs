//! Spreads a node's interfaces over subnets: owns only where, the built-in policy does the rest.
//!
//! Eligible subnets in which the node has fewest interfaces come first, then those with most free IPs. With the setting
//! `tag` (such as `team/pods`) a subnet that carries this tag may be used too, although the documented rule leaves it out.

use std::cmp::Reverse;

use reservoir_policy_sdk::{Context, CreateEni, Node, Standing, Subnet, SubnetId, Subnets, export, log};

struct SubnetSpread;

impl Subnets for SubnetSpread {
    fn rank(node: Node, context: Context, _request: CreateEni) -> Result<Vec<SubnetId>, String> {
        if let Some((key, _)) = context.settings.iter().find(|(key, _)| key != "tag") {
            return Err(format!("unknown setting {key:?}: this policy knows only tag"));
        }
        let tagged =
            |subnet: &Subnet| context.setting("tag").is_some_and(|tag| subnet.tags.iter().any(|(k, _)| k == tag));
        let usable = |subnet: &&Subnet| match subnet.standing {
            Standing::Eligible => true,
            Standing::Possible => tagged(subnet),
            Standing::Forbidden => false,
        };
        let held = |subnet: &Subnet| node.enis.iter().filter(|eni| eni.subnet == subnet.id).count();
        let mut subnets: Vec<&Subnet> = node.subnets.iter().filter(usable).collect();
        if subnets.is_empty() {
            log::warn(&format!("none of {} subnets may be used", node.subnets.len()));
        }
        subnets.sort_by_key(|subnet| (held(subnet), Reverse(subnet.free_ips)));
        Ok(subnets.into_iter().map(|subnet| subnet.id.clone()).collect())
    }
}

export!(SubnetSpread: subnets);

#[cfg(test)]
mod tests {
    use reservoir_policy_sdk::{Unit, sample};

    use super::*;

    fn subnet(id: &str, standing: Standing, free: u32, tags: &[&str]) -> Subnet {
        let tags = tags.iter().map(|key| ((*key).to_owned(), String::new())).collect();
        Subnet { standing, free_ips: Some(free), tags, ..sample::subnet(id) }
    }

    #[test]
    fn fewest_interfaces_first_and_tagged_ones_too() {
        let mut node = sample::node();
        let home = node.enis[0].subnet.clone();
        node.subnets = vec![
            subnet(&home, Standing::Eligible, 900, &[]),
            subnet("b", Standing::Eligible, 50, &[]),
            subnet("c", Standing::Possible, 70, &["team/pods"]),
            subnet("d", Standing::Forbidden, 999, &["team/pods"]),
        ];
        let rank = |settings: Vec<(String, String)>| {
            let request = CreateEni { card: 0, unit: Unit::Ip, count: 9 };
            SubnetSpread::rank(node.clone(), Context { settings, memo: vec![] }, request)
        };
        assert_eq!(rank(vec![]), Ok(vec!["b".to_owned(), home.clone()]));
        let tag = vec![("tag".to_owned(), "team/pods".to_owned())];
        assert_eq!(rank(tag), Ok(vec!["c".to_owned(), "b".to_owned(), home.clone()]));
        let nowhere = Node { subnets: vec![subnet("d", Standing::Forbidden, 999, &[])], ..node.clone() };
        let request = CreateEni { card: 0, unit: Unit::Ip, count: 9 };
        assert_eq!(SubnetSpread::rank(nowhere, Context { settings: vec![], memo: vec![] }, request), Ok(vec![]));
        assert!(rank(vec![("tags".to_owned(), String::new())]).is_err());
    }
}
