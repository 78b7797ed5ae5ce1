//! Security groups: which packets EC2 lets through to an interface and from it. They are stateful: what answers a packet
//! that was let through needs no rule of its own.

use reservoir_core::ip::IpNet;
use serde::{Deserialize, Serialize};

use super::refusal::Refusal;

/// A security group. What none of its rules, and none of the interface's other groups', allows is dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecurityGroup {
    pub id: String,
    /// Who may begin to talk to the group's interfaces.
    #[serde(default)]
    pub ingress: Vec<GroupRule>,
    /// With whom the group's interfaces may begin to talk.
    #[serde(default)]
    pub egress: Vec<GroupRule>,
}

/// What a rule allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupRule {
    #[serde(default)]
    pub protocol: Protocol,
    /// The first and the last, of TCP or UDP; none: all.
    #[serde(default)]
    pub ports: Option<(u16, u16)>,
    pub peer: Peer,
}

/// Which packets a rule is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    #[default]
    All,
    Tcp,
    Udp,
    /// Of both families.
    Icmp,
}

/// The other side: a block of addresses, or the private addresses of the interfaces of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Peer {
    Net(IpNet),
    Group(String),
}

/// Which way a connection is begun, as the group's interfaces see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    Ingress,
    Egress,
}

impl GroupRule {
    /// Everything, from or to `peer`.
    #[must_use]
    pub fn all(peer: Peer) -> Self {
        Self { protocol: Protocol::All, ports: None, peer }
    }

    /// Why it makes no sense among these groups.
    pub(super) fn check(&self, groups: &[&str]) -> Result<(), String> {
        match (&self.peer, self.ports) {
            (Peer::Group(group), _) if !groups.contains(&group.as_str()) => {
                Err(format!("peer {group:?} is neither a block of addresses nor a security group of the account"))
            }
            (_, Some(_)) if !matches!(self.protocol, Protocol::Tcp | Protocol::Udp) => {
                Err(format!("ports with protocol {:?}: only tcp and udp have any", self.protocol))
            }
            (_, Some((first, last))) if first > last => {
                Err(format!("ports {first} to {last}: the first is not to be above the last"))
            }
            _ => Ok(()),
        }
    }
}

impl SecurityGroup {
    /// A new group as EC2 makes it: nobody may talk to its interfaces, and they to everybody.
    #[must_use]
    pub fn new(id: &str) -> Self {
        let everybody = ["0.0.0.0/0", "::/0"].into_iter().filter_map(|net| net.parse().ok());
        let egress = everybody.map(|net| GroupRule::all(Peer::Net(net))).collect();
        Self { id: id.to_owned(), ingress: Vec::new(), egress }
    }

    /// The same, and interfaces of `group` may talk to its own.
    #[must_use]
    pub fn open_to(mut self, group: &str) -> Self {
        self.ingress.push(GroupRule::all(Peer::Group(group.to_owned())));
        self
    }

    /// A VPC's default group as EC2 makes it: open to itself.
    #[must_use]
    pub fn default_of_vpc(id: &str) -> Self {
        Self::new(id).open_to(id)
    }

    pub(super) fn rules(&mut self, direction: Direction) -> &mut Vec<GroupRule> {
        match direction {
            Direction::Ingress => &mut self.ingress,
            Direction::Egress => &mut self.egress,
        }
    }
}

/// Adds a rule to a group, as `AuthorizeSecurityGroupIngress` and `…Egress` do.
pub(super) fn authorize(
    groups: &mut [SecurityGroup],
    group: &str,
    direction: Direction,
    rule: &GroupRule,
) -> Result<(), Refusal> {
    let ids: Vec<&str> = groups.iter().map(|g| g.id.as_str()).collect();
    rule.check(&ids).map_err(Refusal::invalid)?;
    let rules = find(groups, group)?.rules(direction);
    if rules.contains(rule) {
        return Err(Refusal::new("InvalidPermission.Duplicate", format!("{group} has this rule already: {rule:?}")));
    }
    rules.push(rule.clone());
    Ok(())
}

/// Takes a rule away from a group, as `RevokeSecurityGroupIngress` and `…Egress` do.
pub(super) fn revoke(
    groups: &mut [SecurityGroup],
    group: &str,
    direction: Direction,
    rule: &GroupRule,
) -> Result<(), Refusal> {
    let rules = find(groups, group)?.rules(direction);
    let at = rules.iter().position(|r| r == rule);
    let unknown = || Refusal::new("InvalidPermission.NotFound", format!("{group} has no such rule: {rule:?}"));
    rules.remove(at.ok_or_else(unknown)?);
    Ok(())
}

fn find<'a>(groups: &'a mut [SecurityGroup], id: &str) -> Result<&'a mut SecurityGroup, Refusal> {
    groups.iter_mut().find(|g| g.id == id).ok_or_else(|| Refusal::no_group(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(json: &str) -> GroupRule {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn rules_come_and_go_as_with_ec2() {
        let mut groups = [SecurityGroup::default_of_vpc("sg-a"), SecurityGroup::new("sg-b")];
        let web = rule(r#"{"protocol":"tcp","ports":[80,90],"peer":"10.0.0.0/16"}"#);
        let code = |result: Result<(), Refusal>| result.map_err(|r| r.code);
        assert_eq!(code(authorize(&mut groups, "sg-b", Direction::Ingress, &web)), Ok(()));
        assert_eq!(groups[1].ingress, std::slice::from_ref(&web));
        let again = authorize(&mut groups, "sg-b", Direction::Ingress, &web);
        assert_eq!(code(again), Err("InvalidPermission.Duplicate".into()));
        assert_eq!(code(revoke(&mut groups, "sg-b", Direction::Ingress, &web)), Ok(()));
        let again = revoke(&mut groups, "sg-b", Direction::Ingress, &web);
        assert_eq!(code(again), Err("InvalidPermission.NotFound".into()));
        assert_eq!(code(authorize(&mut groups, "sg-c", Direction::Egress, &web)), Err("InvalidGroup.NotFound".into()));
    }

    #[test]
    fn a_rule_without_sense_is_named() {
        let error = |json: &str| rule(json).check(&["sg-a"]).unwrap_err();
        assert_eq!(rule(r#"{"peer":"sg-a"}"#).check(&["sg-a"]), Ok(()));
        assert!(error(r#"{"peer":"10.0.0.0/33"}"#).contains("neither a block of addresses nor a security group"));
        assert!(error(r#"{"ports":[1,2],"peer":"sg-a"}"#).contains("only tcp and udp"));
        assert!(error(r#"{"protocol":"udp","ports":[2,1],"peer":"sg-a"}"#).contains("ports 2 to 1"));
    }
}
