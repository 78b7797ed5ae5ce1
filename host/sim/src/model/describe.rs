//! Describe calls: ids, filters, pages (spec 03 §16.5).

use std::collections::BTreeMap;
use std::time::Duration;

use reservoir_core::limits::InstanceLimits;

use super::aws::{Aws, Eni, Instance};
use super::ops::{Filter, InstanceView, Op, Query, Reply, SubnetView, TagView};
use super::refusal::Refusal;
use super::subnet6::Ipv6Pool;

/// What describe sees in place of the truth.
pub(super) struct Seen<'a> {
    /// All interfaces as they were a while ago.
    pub lagging: Option<&'a BTreeMap<String, Eni>>,
    /// Some as somebody wants them seen; None: not at all.
    pub skewed: &'a BTreeMap<String, Option<Eni>>,
}

impl<'a> Seen<'a> {
    fn is_the_truth(&self) -> bool {
        self.lagging.is_none() && self.skewed.is_empty()
    }

    fn get(&self, aws: &'a Aws, id: &str) -> Option<&'a Eni> {
        match self.skewed.get(id) {
            Some(shown) => shown.as_ref(),
            None => self.lagging.unwrap_or(&aws.enis).get(id),
        }
    }

    /// Ascending.
    fn ids(&self, aws: &'a Aws) -> Vec<&'a str> {
        let mut ids: Vec<&str> = self.lagging.unwrap_or(&aws.enis).keys().map(String::as_str).collect();
        if !self.skewed.is_empty() {
            ids.extend(self.skewed.keys().map(String::as_str));
            ids.sort_unstable();
            ids.dedup();
        }
        ids
    }
}

impl Aws {
    pub(super) fn describe(&self, op: &Op, now: Duration) -> Result<Reply, Refusal> {
        match op {
            Op::DescribeNetworkInterfaces(query) => {
                self.describe_interfaces(query, &Seen { lagging: None, skewed: &BTreeMap::new() }, now)
            }
            Op::DescribeInstances(query) => self.describe_instances(query),
            Op::DescribeSubnets(query) => self.describe_subnets(query),
            Op::DescribeInstanceTypes(query) => describe_types(query),
            Op::DescribeTags(query) => self.describe_tags(query),
            _ => Ok(Reply::Done),
        }
    }

    pub(super) fn describe_interfaces(&self, query: &Query, seen: &Seen<'_>, now: Duration) -> Result<Reply, Refusal> {
        check_page(query)?;
        check_filters(query, INTERFACE_FILTERS)?;
        let visible = |id: &str| seen.get(self, id).filter(|e| e.visible_from <= now);
        let fits = |eni: &&Eni| query.filters.iter().all(|f| interface_matches(eni, f).unwrap_or(false));
        if !query.ids.is_empty() {
            let unknown: Vec<&str> = query.ids.iter().map(String::as_str).filter(|id| visible(id).is_none()).collect();
            if let Some(first) = unknown.first() {
                let listed = self.lists_unknown_ids && unknown.len() > 1;
                return Err(if listed { Refusal::no_interfaces(&unknown) } else { Refusal::no_interface(first) });
            }
            let items = query.ids.iter().filter_map(|id| visible(id)).filter(fits).cloned().collect();
            return Ok(Reply::Interfaces { items, next_token: None });
        }
        let only_available = query.filters.iter().any(|f| f.name == "status" && f.values == ["available"]);
        let found: Vec<&Eni> = if only_available && seen.is_the_truth() {
            self.available.iter().filter_map(|id| visible(id)).filter(fits).collect()
        } else {
            seen.ids(self).into_iter().filter_map(visible).filter(fits).collect()
        };
        let (items, next_token) = page(found, query, |e| &e.id)?;
        Ok(Reply::Interfaces { items: items.into_iter().cloned().collect(), next_token })
    }

    fn describe_instances(&self, query: &Query) -> Result<Reply, Refusal> {
        check_page(query)?;
        let known = ["vpc-id", "availability-zone", "instance-type", "instance-id", "instance-state-name"];
        check_filters(query, &known)?;
        if let Some(id) = query.ids.iter().find(|id| !self.instances.contains_key(*id)) {
            return Err(Refusal::no_instance(id));
        }
        let matches = |instance: &&Instance| {
            query.filters.iter().all(|f| match f.name.as_str() {
                "vpc-id" => f.matches(&self.vpc),
                "availability-zone" => f.matches(&instance.availability_zone),
                "instance-type" => f.matches(&instance.instance_type),
                "instance-state-name" => f.matches(if instance.terminated { "terminated" } else { "running" }),
                _ => f.matches(&instance.id),
            })
        };
        let chosen: Vec<&Instance> = if query.ids.is_empty() {
            self.instances.values().filter(matches).collect()
        } else {
            query.ids.iter().filter_map(|id| self.instances.get(id)).filter(matches).collect()
        };
        let (page, next_token) = page(chosen, query, |i| &i.id)?;
        let items = page.into_iter().map(|i| InstanceView {
            id: i.id.clone(),
            instance_type: i.instance_type.clone(),
            availability_zone: i.availability_zone.clone(),
            terminated: i.terminated,
            tags: i.tags.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
            interfaces: i.enis.iter().filter_map(|e| self.enis.get(e)).cloned().collect(),
        });
        Ok(Reply::Instances { items: items.collect(), next_token })
    }

    /// Looks through everything that has tags: few ask, and seldom.
    fn describe_tags(&self, query: &Query) -> Result<Reply, Refusal> {
        check_page(query)?;
        check_filters(query, &["resource-id", "resource-type", "key", "value"])?;
        let instances = self.instances.values().map(|i| (&i.id, "instance", &i.tags));
        let enis = self.enis.values().map(|e| (&e.id, "network-interface", &e.tags));
        let subnets = self.subnets.iter().filter(|s| !s.foreign).map(|s| (&s.id, "subnet", &s.tags));
        let all = instances.chain(enis).chain(subnets).flat_map(|(id, resource_type, tags)| {
            tags.iter().map(move |(key, value)| TagView {
                resource: id.clone(),
                resource_type,
                key: key.clone(),
                value: value.clone(),
            })
        });
        let mut found: Vec<(String, TagView)> = all
            .filter(|tag| {
                query.filters.iter().all(|f| match f.name.as_str() {
                    "resource-id" => f.matches(&tag.resource),
                    "resource-type" => f.matches(tag.resource_type),
                    "key" => f.matches(&tag.key),
                    _ => f.matches(&tag.value),
                })
            })
            .map(|tag| (format!("{} {}", tag.resource, tag.key), tag))
            .collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let (items, next_token) = page(found.iter().collect(), query, |(id, _)| id)?;
        Ok(Reply::Tags { items: items.into_iter().map(|(_, tag)| tag.clone()).collect(), next_token })
    }

    fn describe_subnets(&self, query: &Query) -> Result<Reply, Refusal> {
        check_filters(query, &["vpc-id", "availability-zone", "subnet-id", "tag-key", "tag:"])?;
        let known = |id: &String| self.subnets.iter().any(|s| s.id == *id && !s.foreign);
        if let Some(id) = query.ids.iter().find(|id| !known(id)) {
            return Err(Refusal::no_subnet(id));
        }
        let subnets = self.subnets.iter().filter(|s| !s.foreign).filter(|s| {
            (query.ids.is_empty() || query.ids.contains(&s.id))
                && query.filters.iter().all(|f| match f.name.as_str() {
                    "vpc-id" => f.matches(&self.vpc),
                    "availability-zone" => f.matches(&s.availability_zone),
                    "subnet-id" => f.matches(&s.id),
                    _ => tags_match(&s.tags, f),
                })
        });
        let views = subnets.map(|s| SubnetView {
            id: s.id.clone(),
            vpc: self.vpc.clone(),
            cidr: s.pool.cidr(),
            ipv6_cidr: s.ipv6.as_ref().map(Ipv6Pool::cidr),
            availability_zone: s.availability_zone.clone(),
            free: s.pool.free(),
            tags: s.tags.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        });
        Ok(Reply::Subnets(views.collect()))
    }
}

fn describe_types(query: &Query) -> Result<Reply, Refusal> {
    let unknown: Vec<_> = query.ids.iter().filter(|t| InstanceLimits::of(t).is_none()).cloned().collect();
    if !unknown.is_empty() {
        let message = format!("The following supplied instance types do not exist: [{}]", unknown.join(", "));
        return Err(Refusal::new("InvalidInstanceType", message));
    }
    if query.ids.is_empty() {
        let types = InstanceLimits::types().filter_map(|t| Some((t.to_owned(), InstanceLimits::of(t)?)));
        return Ok(Reply::InstanceTypes(types.collect()));
    }
    Ok(Reply::InstanceTypes(query.ids.iter().filter_map(|t| Some((t.clone(), InstanceLimits::of(t)?))).collect()))
}

const INTERFACE_FILTERS: &[&str] = &[
    "tag-key",
    "tag:",
    "status",
    "vpc-id",
    "availability-zone",
    "attachment.instance-id",
    "subnet-id",
    "network-interface-id",
    "description",
];

/// None: no such filter.
fn interface_matches(eni: &Eni, filter: &Filter) -> Option<bool> {
    Some(match filter.name.as_str() {
        "status" => filter.matches(eni.status()),
        "vpc-id" => filter.matches(&eni.vpc),
        "availability-zone" => filter.matches(&eni.availability_zone),
        "attachment.instance-id" => eni.attachment.as_ref().is_some_and(|a| filter.matches(&a.instance)),
        "subnet-id" => filter.matches(&eni.subnet),
        "network-interface-id" => filter.matches(&eni.id),
        "description" => filter.matches(&eni.description),
        "tag-key" => tags_match(&eni.tags, filter),
        name if name.starts_with("tag:") => tags_match(&eni.tags, filter),
        _ => return None,
    })
}

fn tags_match(tags: &BTreeMap<String, String>, filter: &Filter) -> bool {
    match filter.name.strip_prefix("tag:") {
        Some(key) => tags.get(key).is_some_and(|value| filter.matches(value)),
        None => tags.keys().any(|key| filter.matches(key)),
    }
}

fn check_filters(query: &Query, known: &[&str]) -> Result<(), Refusal> {
    for filter in &query.filters {
        if !known.iter().any(|k| filter.name == *k || (*k == "tag:" && filter.name.starts_with(k))) {
            return Err(Refusal::invalid(format!("The filter '{}' is invalid", filter.name)));
        }
    }
    Ok(())
}

fn check_page(query: &Query) -> Result<(), Refusal> {
    match query.max_results {
        Some(_) if !query.ids.is_empty() => Err(Refusal::new(
            "InvalidParameterCombination",
            "The parameter MaxResults cannot be used with the parameter of ids",
        )),
        Some(n) if !(5..=1000).contains(&n) => Err(Refusal::invalid(format!(
            "Value ( {n} ) for parameter maxResults is invalid. Expecting a value from 5 to 1000."
        ))),
        _ => Ok(()),
    }
}

/// One page; the token is the last id of the page before, in disguise.
fn page<'a, T>(
    all: Vec<&'a T>,
    query: &Query,
    id: impl Fn(&T) -> &str,
) -> Result<(Vec<&'a T>, Option<String>), Refusal> {
    let mut rest = all;
    if let Some(token) = &query.next_token {
        let last = from_token(token)
            .ok_or_else(|| Refusal::new("InvalidNextToken", format!("The token '{token}' is invalid")))?;
        rest.retain(|item| id(item) > last.as_str());
    }
    let size = query.max_results.unwrap_or(1000) as usize;
    if query.max_results.is_none() || rest.len() <= size {
        return Ok((rest, None));
    }
    rest.truncate(size);
    let next = rest.last().map(|item| to_token(id(item)));
    Ok((rest, next))
}

fn to_token(id: &str) -> String {
    id.bytes().rev().map(|b| format!("{:02x}", b ^ 0x5a)).collect()
}

fn from_token(token: &str) -> Option<String> {
    if !token.is_ascii() || !token.len().is_multiple_of(2) {
        return None;
    }
    let bytes: Option<Vec<u8>> = (0..token.len() / 2)
        .rev()
        .map(|i| u8::from_str_radix(&token[2 * i..2 * i + 2], 16).ok().map(|b| b ^ 0x5a))
        .collect();
    String::from_utf8(bytes?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_token_round_trips_and_nonsense_does_not() {
        assert_eq!(from_token(&to_token("eni-01ab")).as_deref(), Some("eni-01ab"));
        assert_eq!(from_token("xyz"), None);
        assert_eq!(from_token("ä0"), None);
    }
}
