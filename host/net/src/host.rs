//! The node at the daemon's start (spec 04 §8): primary interface, kernel settings, the fwmark rule.

use reservoir_core::ip::Ipv4Net;
use rustix::io::Errno;

use crate::error::Error;
use crate::kernel::Kernel;
use crate::mac::MacAddr;
use crate::netlink::reply::LinkInfo;
use crate::plan::{OnFailure, Op, Side, Step, apply};
use crate::pod::MAX_MTU;
use crate::rule::{Family, PRIORITY_EXTERNAL_SERVICE, PRIORITY_FWMARK, PRIORITY_LOCAL, PRIORITY_LOCAL_STRICT, Rule};
use crate::table;

/// What the error says when no interface has the primary MAC address.
pub const NO_PRIMARY: &str = "no primary interface found";

/// What the environment says about the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostConfig {
    /// `AWS_VPC_ENI_MTU`.
    pub mtu: u32,
    /// `AWS_VPC_CNI_NODE_PORT_SUPPORT`.
    pub node_port: bool,
    /// `AWS_VPC_K8S_CNI_EXTERNALSNAT`.
    pub external_snat: bool,
    /// `AWS_VPC_K8S_CNI_CONNMARK`; mark and mask.
    pub mark: u32,
    /// `DISABLE_TCP_EARLY_DEMUX`.
    pub disable_tcp_early_demux: bool,
    /// The family of the cluster's pods: `ENABLE_IPv6`.
    pub family: Family,
    /// `ENABLE_V6_EGRESS`: IPv4 pods reach IPv6 destinations.
    pub v6_egress: bool,
    /// `ENABLE_POD_ENI` with `POD_SECURITY_GROUP_ENFORCING_MODE` not `standard`: traffic of branch interfaces goes
    /// through them even on its way to the node itself.
    pub strict_branches: bool,
}

impl HostConfig {
    /// Where no variable is set.
    pub const DOCUMENTED: Self = Self {
        mtu: MAX_MTU,
        node_port: true,
        external_snat: false,
        mark: 0x80,
        disable_tcp_early_demux: false,
        family: Family::V4,
        v6_egress: false,
        strict_branches: false,
    };
}

/// What is found on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    pub primary: LinkInfo,
    /// The host's rules of the cluster's family.
    pub rules: Vec<Rule>,
}

/// Sets the node up: MTU of the primary interface, kernel settings, the fwmark rule. What is right already is not
/// touched, so a restart interrupts nothing.
///
/// # Errors
/// [`Error::LinkNotFound`] if no interface has the primary MAC address; otherwise the kernel's.
pub fn set_up(config: &HostConfig, primary_mac: MacAddr) -> Result<LinkInfo, Error> {
    let primary =
        crate::links::wait_for_mac(primary_mac, crate::links::APPEARANCE).map_err(|e| e.within(NO_PRIMARY))?;
    let mut kernel = Kernel::host()?;
    let facts = HostFacts { primary, rules: kernel.rules(Side::Host, config.family)? };
    apply(&plan(config, &facts), &mut kernel, OnFailure::Stop)?;
    Ok(facts.primary)
}

/// The steps of [`set_up`].
#[must_use]
pub fn plan(config: &HostConfig, facts: &HostFacts) -> Vec<Step> {
    let mut steps: Vec<Step> = plan_link(config, &facts.primary).into_iter().collect();
    steps.extend(plan_settings(config, &facts.primary.name));
    steps.extend(plan_rules(config, &facts.rules));
    steps
}

fn plan_link(config: &HostConfig, primary: &LinkInfo) -> Option<Step> {
    let step = Step::host(Op::LinkMtu { device: primary.name.clone(), mtu: config.mtu })
        .context(format!("failed to set MTU of primary interface {}", primary.name));
    (primary.mtu != config.mtu).then_some(step)
}

/// Kernel settings (spec 04 §8.1): replies to marked connections may come in by another interface than the routes
/// say, so the reverse path of the primary interface is filtered loosely.
#[must_use]
pub fn plan_settings(config: &HostConfig, primary: &str) -> Vec<Step> {
    let demux = if config.disable_tcp_early_demux { "0" } else { "1" };
    let mut steps = vec![
        Step::host(Op::Sysctl { key: format!("net/ipv4/conf/{primary}/rp_filter"), value: "2" })
            .context("failed to set rp_filter of the primary interface"),
        Step::host(Op::Sysctl { key: "net/ipv4/tcp_early_demux".to_owned(), value: demux })
            .tolerate(&[Errno::NOENT])
            .context("failed to set tcp_early_demux"),
    ];
    let set = |key: String, value, context| Step::host(Op::Sysctl { key, value }).context(context);
    if config.family == Family::V6 {
        let key = "net/ipv6/conf/all/disable_ipv6".to_owned();
        steps.push(set(key, "0", "failed to enable IPv6 on the host"));
    }
    if config.family == Family::V6 || config.v6_egress {
        // Before forwarding: turning that on makes the kernel drop routes of routers it does not listen to.
        let key = format!("net/ipv6/conf/{primary}/accept_ra");
        steps.push(set(key, "2", "failed to accept router advertisements on the primary interface"));
        steps.push(set("net/ipv6/conf/all/forwarding".to_owned(), "1", "failed to enable IPv6 forwarding"));
    }
    steps
}

/// The rules of the node itself (spec 04 §8.2 steps 3 to 5); `existing` are those of the cluster's family.
#[must_use]
pub fn plan_rules(config: &HostConfig, existing: &[Rule]) -> Vec<Step> {
    let mut steps = plan_marked(config, existing);
    steps.extend(plan_local(config, existing));
    steps
}

/// The rule that sends marked connections out by the primary interface. It is there at every moment; rules of an
/// earlier mark are removed.
fn plan_marked(config: &HostConfig, existing: &[Rule]) -> Vec<Step> {
    let wanted = (config.node_port || !config.external_snat).then(|| Rule::marked_in(config.family, config.mark));
    let is_ours = |r: &&Rule| {
        r.priority == PRIORITY_FWMARK
            && r.table == table::MAIN
            && r.from.is_none()
            && r.to.is_none()
            && r.ip_protocol.is_none()
            && r.iif.is_none()
            && !r.foreign
            && r.fwmark.is_some_and(|f| f.mark == f.mask)
    };
    reconcile(wanted.as_slice(), &existing.iter().filter(is_ours).cloned().collect::<Vec<_>>())
}

/// Where the lookup of local addresses stands: after the rules of branch interfaces if these are strict, else where
/// the kernel has it. What an earlier run in strict mode changed is restored (DW-12). What comes is there before what
/// goes is gone: without either the node could not talk to itself.
fn plan_local(config: &HostConfig, existing: &[Rule]) -> Vec<Step> {
    let family = config.family;
    let usual = Rule::local(family, PRIORITY_LOCAL);
    let mut strict = Vec::new();
    if family == Family::V6 {
        strict.push(Rule::router_discovery());
    }
    strict.push(Rule::local(family, PRIORITY_LOCAL_STRICT));
    let (wanted, unwanted) = if config.strict_branches {
        (strict, vec![usual])
    } else if existing.contains(&Rule::local(family, PRIORITY_LOCAL_STRICT)) {
        (vec![usual], strict)
    } else {
        return Vec::new();
    };
    let unwanted: Vec<Rule> = existing.iter().filter(|r| unwanted.contains(r)).cloned().collect();
    let present: Vec<Rule> = existing.iter().filter(|r| wanted.contains(r)).cloned().collect();
    reconcile(&wanted, &[present, unwanted].concat())
}

/// The rules for `AWS_EXTERNAL_SERVICE_CIDRS` (spec 04 §12.3): pods on secondary interfaces reach these through the
/// primary one.
#[must_use]
pub fn plan_external_services(cidrs: &[Ipv4Net], existing: &[Rule]) -> Vec<Step> {
    let mut wanted: Vec<Rule> = Vec::new();
    for &cidr in cidrs {
        let rule = Rule::to(PRIORITY_EXTERNAL_SERVICE, cidr.into(), table::MAIN);
        if !wanted.contains(&rule) {
            wanted.push(rule);
        }
    }
    let is_plain = |r: &Rule| !r.foreign && r.from.is_none() && r.iif.is_none() && r.fwmark.is_none();
    let is_ours =
        |r: &&Rule| r.priority == PRIORITY_EXTERNAL_SERVICE && r.table == table::MAIN && r.to.is_some() && is_plain(r);
    reconcile(&wanted, &existing.iter().filter(is_ours).cloned().collect::<Vec<_>>())
}

/// Brings the rules for external services in line.
///
/// # Errors
/// Everything that could not be changed.
pub fn set_external_services(cidrs: &[Ipv4Net]) -> Result<(), Error> {
    let mut kernel = Kernel::host()?;
    let existing = kernel.rules(Side::Host, Family::V4)?;
    apply(&plan_external_services(cidrs, &existing), &mut kernel, OnFailure::Continue)
}

/// Adds what is missing, then deletes what is too much, second copies included.
fn reconcile(wanted: &[Rule], ours: &[Rule]) -> Vec<Step> {
    let add = wanted
        .iter()
        .filter(|w| !ours.contains(w))
        .map(|rule| Step::host(Op::RuleAdd(rule.clone())).tolerate(&[Errno::EXIST]).context("failed to add rule"));
    let mut seen: Vec<&Rule> = Vec::new();
    let mut surplus = Vec::new();
    for rule in ours {
        if wanted.contains(rule) && !seen.contains(&rule) {
            seen.push(rule);
        } else {
            surplus.push(rule);
        }
    }
    let delete = surplus
        .into_iter()
        .map(|rule| Step::host(Op::RuleDel(rule.clone())).tolerate(&[Errno::NOENT]).context("failed to delete rule"));
    add.chain(delete).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: HostConfig = HostConfig::DOCUMENTED;

    fn ops(steps: &[Step]) -> Vec<String> {
        steps.iter().map(|s| s.op.to_string()).collect()
    }

    #[test]
    fn fwmark_rule_is_kept_added_or_removed() {
        assert_eq!(ops(&plan_rules(&CONFIG, &[])), ["rule add 1024: from all fwmark 0x80/0x80 lookup 254"]);
        assert!(plan_rules(&CONFIG, &[Rule::marked(0x80)]).is_empty());
        let unwanted = HostConfig { node_port: false, external_snat: true, ..CONFIG };
        assert_eq!(
            ops(&plan_rules(&unwanted, &[Rule::marked(0x80)])),
            ["rule delete 1024: from all fwmark 0x80/0x80 lookup 254"]
        );
        assert!(plan_rules(&unwanted, &[]).is_empty());
    }

    #[test]
    fn another_mark_replaces_the_rule_without_a_gap() {
        let existing = [Rule::marked(0x80), Rule { foreign: true, ..Rule::marked(0x1) }];
        let steps = plan_rules(&HostConfig { mark: 0x100, ..CONFIG }, &existing);
        assert_eq!(
            ops(&steps),
            [
                "rule add 1024: from all fwmark 0x100/0x100 lookup 254",
                "rule delete 1024: from all fwmark 0x80/0x80 lookup 254"
            ]
        );
    }

    #[test]
    fn strict_branches_move_the_local_lookup_and_ordinary_ones_move_it_back() {
        for family in [Family::V4, Family::V6] {
            let strict = HostConfig { family, strict_branches: true, ..CONFIG };
            let kernels = [Rule::marked_in(family, 0x80), Rule::local(family, 0)];
            let mut expected = vec!["rule add 20: from all lookup 255", "rule delete 0: from all lookup 255"];
            if family == Family::V6 {
                expected.insert(0, "rule add 0: from fe80:ec2::1/128 ipproto 58 lookup 255");
            }
            assert_eq!(ops(&plan_rules(&strict, &kernels)), expected);
            let mut moved = vec![Rule::local(family, 20), Rule::marked_in(family, 0x80)];
            if family == Family::V6 {
                moved.insert(0, Rule::router_discovery());
            }
            assert!(plan_rules(&strict, &moved).is_empty());
            let back = ops(&plan_rules(&HostConfig { family, ..CONFIG }, &moved));
            assert_eq!(back[0], "rule add 0: from all lookup 255");
            assert_eq!(back.len(), moved.len(), "{back:?}");
        }
    }

    #[test]
    fn ipv6_is_turned_on_where_it_is_used() {
        let keys = |config: &HostConfig| ops(&plan_settings(config, "ens5"))[2..].to_vec();
        assert!(keys(&CONFIG).is_empty());
        let both = ["sysctl net/ipv6/conf/ens5/accept_ra=2", "sysctl net/ipv6/conf/all/forwarding=1"];
        assert_eq!(keys(&HostConfig { v6_egress: true, ..CONFIG }), both);
        let v6 = keys(&HostConfig { family: Family::V6, ..CONFIG });
        assert_eq!(
            (v6[0].as_str(), &v6[1..]),
            ("sysctl net/ipv6/conf/all/disable_ipv6=0", &both.map(str::to_owned)[..])
        );
    }

    #[test]
    fn second_copies_of_a_rule_are_removed() {
        let cidr: Ipv4Net = "10.1.0.0/16".parse().unwrap();
        let rule = Rule::to(PRIORITY_EXTERNAL_SERVICE, cidr.into(), table::MAIN);
        let steps = plan_external_services(&[cidr, cidr], &[rule.clone(), rule]);
        assert_eq!(ops(&steps), ["rule delete 1535: from all to 10.1.0.0/16 lookup 254"]);
    }

    #[test]
    fn a_right_link_is_left_alone() {
        let primary = LinkInfo {
            index: 2,
            name: "eth0".into(),
            mac: None,
            mtu: 9001,
            up: true,
            peer_index: None,
            peer_elsewhere: false,
        };
        assert_eq!(plan_link(&CONFIG, &primary), None);
        assert!(plan_link(&CONFIG, &LinkInfo { mtu: 1500, ..primary }).is_some());
    }
}
