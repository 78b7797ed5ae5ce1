//! What the cluster's resource controller tells of a pod's branch interface: the annotation `vpc.amazonaws.com/pod-eni`
//! (spec 02 §3.2, 04 §6.1). Nothing of it is stored: it is read again whenever it is needed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reservoir_core::ip::{IpNet, Ipv4Net};
use reservoir_net::{MacAddr, eni, table};
use serde::Deserialize;

/// The annotation, in an operator's words.
const WHAT: &str = "the pod's annotation vpc.amazonaws.com/pod-eni";

/// A branch interface as ADD needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    pub vlan: u16,
    pub mac: MacAddr,
    /// The pod's, of the node's family.
    pub address: IpAddr,
    /// The router of its subnet.
    pub gateway: IpAddr,
}

/// What DEL needs of it: only what names something on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    pub vlan: i32,
    /// Of the node's family; none where the annotation has none.
    pub address: Option<IpAddr>,
}

/// An annotation that does not tell what it should. The resource controller wrote it: nothing on the node mends it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("{WHAT} is not the JSON array that the resource controller writes: {0}")]
    Json(String),
    /// The text is the reference's (spec 02 §4.2).
    #[error("parsed PodENIData is empty")]
    Empty,
    #[error("{WHAT} has {found:?} as {key}, which is not {expected}; see the resource controller's log")]
    Value { key: &'static str, found: String, expected: &'static str },
}

/// One element; keys that are not known are skipped, as are all elements but the first.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Element {
    if_address: Option<String>,
    private_ip: Option<String>,
    ipv6_addr: Option<String>,
    #[serde(rename = "vlanID")]
    vlan: Option<i32>,
    subnet_cidr: Option<String>,
    #[serde(rename = "subnetV6Cidr")]
    subnet_ipv6_cidr: Option<String>,
}

impl Element {
    fn first(annotation: &str) -> Result<Self, Malformed> {
        let list: Vec<Self> = serde_json::from_str(annotation).map_err(|e| Malformed::Json(e.to_string()))?;
        list.into_iter().next().ok_or(Malformed::Empty)
    }

    fn address(&self, ipv6: bool) -> Result<IpAddr, Malformed> {
        if ipv6 {
            let parse = |text: &str| text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
            value("ipv6Addr", self.ipv6_addr.as_deref(), parse, "an IPv6 address, which the pods of this node have")
        } else {
            let parse = |text: &str| text.parse::<Ipv4Addr>().ok().map(IpAddr::V4);
            value("privateIp", self.private_ip.as_deref(), parse, "an IPv4 address, which the pods of this node have")
        }
    }

    fn subnet(&self, ipv6: bool) -> Result<IpNet, Malformed> {
        if ipv6 {
            let parse = |text: &str| text.parse().ok().filter(|net: &IpNet| !net.is_ipv4());
            value("subnetV6Cidr", self.subnet_ipv6_cidr.as_deref(), parse, "the IPv6 block of its subnet")
        } else {
            let parse = |text: &str| text.parse::<Ipv4Net>().ok().map(IpNet::from);
            value("subnetCidr", self.subnet_cidr.as_deref(), parse, "the IPv4 block of its subnet")
        }
    }
}

fn value<T>(
    key: &'static str,
    found: Option<&str>,
    parse: impl Fn(&str) -> Option<T>,
    expected: &'static str,
) -> Result<T, Malformed> {
    let found = found.unwrap_or_default();
    parse(found).ok_or_else(|| Malformed::Value { key, found: found.to_owned(), expected })
}

impl Branch {
    /// Reads the annotation for a node whose pods are of one family.
    ///
    /// # Errors
    /// [`Malformed`], naming the first thing that cannot be.
    pub fn read(annotation: &str, ipv6: bool) -> Result<Self, Malformed> {
        let element = Element::first(annotation)?;
        let number = element.vlan.unwrap_or_default();
        // Those whose route tables would be the kernel's own are refused (DW-13).
        let vlan = u16::try_from(number).ok().filter(|&vlan| table::of_branch(vlan).is_some());
        let vlan = vlan.ok_or_else(|| Malformed::Value {
            key: "vlanID",
            found: number.to_string(),
            expected: "a vlan from 1 to 4094 other than 153, 154 and 155, whose route tables are the kernel's own",
        })?;
        let mac = value("ifAddress", element.if_address.as_deref(), |text| text.parse().ok(), "a MAC address")?;
        let (address, gateway) = (element.address(ipv6)?, eni::gateway(element.subnet(ipv6)?));
        Ok(Self { vlan, mac, address, gateway })
    }
}

impl Gone {
    /// Reads the annotation for a DEL, which goes on with what it tells.
    ///
    /// # Errors
    /// [`Malformed::Json`] and [`Malformed::Empty`].
    pub fn read(annotation: &str, ipv6: bool) -> Result<Self, Malformed> {
        let element = Element::first(annotation)?;
        Ok(Self { vlan: element.vlan.unwrap_or_default(), address: element.address(ipv6).ok() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of spec 02 §3.2.
    const EXAMPLE: &str = r#"[{"eniId":"eni-0d8e","ifAddress":"02:21:4c:00:00:01","privateIp":"10.0.7.9","ipv6Addr":"",
        "vlanID":3,"subnetCidr":"10.0.0.0/19","subnetV6Cidr":""}]"#;

    fn with(key: &str, value: serde_json::Value) -> String {
        let mut list: serde_json::Value = serde_json::from_str(EXAMPLE).unwrap();
        list[0][key] = value;
        list.to_string()
    }

    #[test]
    fn the_first_element_tells_address_router_and_vlan_of_the_node_s_family() {
        let branch = Branch::read(EXAMPLE, false).unwrap();
        assert_eq!((branch.vlan, branch.mac.to_string().as_str()), (3, "02:21:4c:00:00:01"));
        assert_eq!((branch.address.to_string(), branch.gateway.to_string()), ("10.0.7.9".into(), "10.0.0.1".into()));
        let dual = r#"[{"ifAddress":"02:21:4c:00:00:01","privateIp":"","ipv6Addr":"2600::9","vlanID":3,"subnetCidr":"",
            "subnetV6Cidr":"2600::/64","more":{"x":1}}, {"vlanID":"whatever follows is not looked at"}]"#;
        // Only the first is used, but the text must be what the controller writes.
        assert!(matches!(Branch::read(dual, true), Err(Malformed::Json(_))));
        let dual = dual.replace(r#", {"vlanID":"whatever follows is not looked at"}"#, r#", {"vlanID":154}"#);
        let branch = Branch::read(&dual, true).unwrap();
        assert_eq!((branch.address.to_string(), branch.gateway.to_string()), ("2600::9".into(), "fe80:ec2::1".into()));
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_name() {
        use serde_json::{Value, json};
        for text in
            ["", "{}", "null", "3", r#"{"vlanID":3}"#, r#"[{"vlanID":"3"}]"#, r#"[{"vlanID":3.5}]"#, "[3]", "[{"]
        {
            let error = Branch::read(text, false).unwrap_err();
            assert!(matches!(error, Malformed::Json(_)), "{text}: {error}");
            assert!(error.to_string().contains("vpc.amazonaws.com/pod-eni"), "{error}");
            assert!(Gone::read(text, false).is_err(), "{text}");
        }
        assert_eq!(Branch::read("[]", false).unwrap_err().to_string(), "parsed PodENIData is empty");
        for (key, value) in [
            ("vlanID", json!(0)),
            ("vlanID", json!(-1)),
            ("vlanID", json!(154)),
            ("vlanID", json!(4095)),
            ("vlanID", Value::Null),
            ("ifAddress", json!("")),
            ("ifAddress", json!("02:21:4c:00:00")),
            ("privateIp", json!("")),
            ("privateIp", json!("10.0.7.9/19")),
            ("privateIp", json!("2600::9")),
            ("subnetCidr", json!("")),
            ("subnetCidr", json!("10.0.0.0")),
            ("subnetCidr", json!("2600::/64")),
        ] {
            let text = Branch::read(&with(key, value.clone()), false).unwrap_err().to_string();
            let shown = value.as_str().map_or_else(|| value.as_i64().unwrap_or(0).to_string(), str::to_owned);
            assert!(text.contains(key) && text.contains(&format!("{shown:?}")), "{text}");
        }
        let missing = |key: &'static str| move |e| matches!(e, Malformed::Value { key: k, .. } if k == key);
        assert!(Branch::read(EXAMPLE, true).is_err_and(missing("ipv6Addr")), "the other family is not enough");
        let address = with("ipv6Addr", json!("2600::9"));
        assert!(Branch::read(&address, true).is_err_and(missing("subnetV6Cidr")));
    }

    #[test]
    fn a_del_goes_on_with_what_there_is() {
        use serde_json::json;
        let gone = |vlan, address: Option<&str>| Ok(Gone { vlan, address: address.map(|a| a.parse().unwrap()) });
        assert_eq!(Gone::read(EXAMPLE, false), gone(3, Some("10.0.7.9")));
        assert_eq!(Gone::read(EXAMPLE, true), gone(3, None), "W5: never an address of the other family");
        assert_eq!(Gone::read(&with("ipv6Addr", json!("2600::9")), true), gone(3, Some("2600::9")));
        assert_eq!(Gone::read(&with("ifAddress", json!("nonsense")), false), gone(3, Some("10.0.7.9")));
        assert_eq!(Gone::read("[{}]", false), gone(0, None));
        assert_eq!(Gone::read("[]", false), Err(Malformed::Empty));
    }
}
