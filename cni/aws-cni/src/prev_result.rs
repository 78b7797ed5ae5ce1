//! What ADD returned, as the runtime kept it: in DEL and CHECK, possibly from an older version or the reference
//! (spec 04 §2.8).

use std::net::IpAddr;

use cni_plugin::json::{field, object, objects, text};
pub use cni_plugin::prev_result::PrevResultError;
use cni_plugin::prev_result::check_version;
use cni_plugin::version::{CniVersion, ResultFormat};
use reservoir_net::{names, table};
use serde_json::{Map, Value};

use crate::args::PodArgs;

/// A result in the newest form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrevResult {
    /// Ours come in pairs, host end and container end; the dummy follows them; other plugins may have added theirs.
    pub interfaces: Vec<Interface>,
    /// Addresses.
    pub ips: Vec<Ip>,
}

/// An interface of a result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Of our container ends the route table's number, of our dummy the vlan's; never a MAC address.
    pub mac: String,
    /// The namespace it is in; of our dummy the device number of the first address.
    pub sandbox: String,
}

/// An address of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    /// `address/length`
    pub address: String,
    /// Position of its interface in [`PrevResult::interfaces`].
    pub interface: Option<usize>,
    /// Of a branch interface.
    pub gateway: Option<IpAddr>,
}

/// One address of a pod as ADD left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedAddress {
    /// The container end.
    pub interface: String,
    /// The host end.
    pub host_veth: String,
    /// The address.
    pub address: IpAddr,
    /// The table its traffic leaves by.
    pub table: u32,
}

/// A pod's branch interface as ADD left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedBranch {
    /// The pod's address.
    pub address: IpAddr,
    /// The vlan of the branch interface.
    pub vlan: u16,
    /// The host end; empty if the result does not say.
    pub host_veth: String,
    /// Of the branch interface's subnet.
    pub gateway: Option<IpAddr>,
}

impl PrevResult {
    /// Reads `prevResult` of a configuration of `version`. A result without version has the configuration's.
    ///
    /// # Errors
    /// A version the configuration's cannot hold, or a value of the wrong type.
    pub fn parse(result: &Map<String, Value>, version: CniVersion) -> Result<Self, PrevResultError> {
        check_version(result, version)?;
        match version.format() {
            ResultFormat::Addresses => addresses_only(result),
            ResultFormat::Interfaces | ResultFormat::Current => with_interfaces(result),
        }
        .map_err(PrevResultError::Decode)
    }

    /// The entry that names no device and carries what DEL needs; absent if the result is not ours.
    fn dummy(&self, args: &PodArgs) -> Option<&Interface> {
        let name = names::dummy(&args.namespace, &args.name);
        self.interfaces.iter().find(|interface| interface.name == name)
    }

    /// The interface of that name, with its position.
    fn interface(&self, name: &str) -> Option<(usize, &Interface)> {
        self.interfaces.iter().enumerate().find(|(_, interface)| interface.name == name)
    }

    /// The names of the pod's interfaces that are in the result, in order.
    pub fn pod_interfaces(&self, ifname: &str) -> impl Iterator<Item = String> {
        let name = |position| names::container_interface(ifname, position);
        (0..self.interfaces.len()).map(name).filter(|name| self.interface(name).is_some())
    }

    fn addresses_of(&self, index: usize) -> Vec<&str> {
        self.ips.iter().filter(|ip| ip.interface == Some(index)).map(|ip| ip.address.as_str()).collect()
    }

    /// The number of the pod's branch vlan; `None` for an ordinary pod, or a result that is not ours.
    ///
    /// # Errors
    /// It is not a number.
    pub fn branch_vlan(&self, args: &PodArgs) -> Result<Option<u16>, String> {
        match self.dummy(args).map(|dummy| dummy.mac.as_str()) {
            None | Some("0") => Ok(None),
            Some(mac) => match mac.parse() {
                Ok(vlan) => Ok(Some(vlan)),
                Err(_) => Err(format!("malformed vlanID in prevResult: {mac}")),
            },
        }
    }

    /// What is to be torn down of a branch pod.
    ///
    /// # Errors
    /// The container's interface, or its single address, is not in the result.
    pub fn branch(&self, vlan: u16, ifname: &str) -> Result<SavedBranch, String> {
        let Some((index, _)) = self.interface(ifname) else {
            return Err(format!("cannot find contVethName {ifname} in prevResult"));
        };
        let ips: Vec<&Ip> = self.ips.iter().filter(|ip| ip.interface == Some(index)).collect();
        let [ip] = ips.as_slice() else {
            return Err(format!("found {} containerIPs for {ifname} in prevResult", ips.len()));
        };
        let host_veth = index.checked_sub(1).map(|host| self.interfaces[host].name.clone()).unwrap_or_default();
        Ok(SavedBranch { address: bare(&ip.address)?, vlan, host_veth, gateway: ip.gateway })
    }

    /// The addresses of an ordinary pod, by the names of its interfaces: other plugins add entries of their own, so
    /// counting does not do (DW-8). An interface that is not there with a single address is left out.
    ///
    /// # Errors
    /// The reason why nothing can be said: the result is not ours, of a branch pod, or damaged.
    pub fn addresses(&self, args: &PodArgs, ifname: &str) -> Result<Vec<SavedAddress>, String> {
        let dummy = self.dummy(args).ok_or("prevResult has no dummy interface of this pod")?;
        if dummy.mac.parse() != Ok(0_i64) {
            return Err(format!("the dummy interface's mac is {:?}, not 0", dummy.mac));
        }
        let device: u32 = dummy
            .sandbox
            .parse()
            .map_err(|_| format!("the dummy interface's sandbox {:?} is no device number", dummy.sandbox))?;
        // Before 1.20 the container end had no table: then it is the device number's.
        let mut last_table = table::of_interface(0, device);
        let mut saved = Vec::new();
        for position in 0..self.interfaces.len() {
            let name = names::container_interface(ifname, position);
            let Some((index, interface)) = self.interface(&name) else { continue };
            let addresses = self.addresses_of(index);
            let [address] = addresses.as_slice() else { continue };
            if !interface.mac.is_empty() {
                last_table =
                    interface.mac.parse().map_err(|_| format!("{name}'s mac {:?} is no route table", interface.mac))?;
            }
            let host_veth = index.checked_sub(1).map(|host| self.interfaces[host].name.clone()).unwrap_or_default();
            saved.push(SavedAddress { interface: name, host_veth, address: bare(address)?, table: last_table });
        }
        Ok(saved)
    }
}

/// `10.0.0.4` of `10.0.0.4/32`.
fn bare(address: &str) -> Result<IpAddr, String> {
    let text = address.split_once('/').map_or(address, |(address, _)| address);
    text.parse().map_err(|_| format!("{address:?} in prevResult is no address"))
}

fn with_interfaces(result: &Map<String, Value>) -> Result<PrevResult, String> {
    let string = |object, key| text(object, key).map(|text| text.unwrap_or_default().to_owned());
    let mut interfaces = Vec::new();
    for item in objects(result, "interfaces")? {
        interfaces.push(Interface {
            name: string(item, "name")?,
            mac: string(item, "mac")?,
            sandbox: string(item, "sandbox")?,
        });
    }
    let mut ips = Vec::new();
    for item in objects(result, "ips")? {
        let interface = match field(item, "interface") {
            None => None,
            Some(value) => {
                let index = value.as_i64().ok_or_else(|| format!("\"interface\" must be a number, but is {value}"))?;
                usize::try_from(index).ok()
            }
        };
        // Other plugins' gateways are no business of ours, whatever they look like.
        let gateway = string(item, "gateway")?.parse().ok();
        ips.push(Ip { address: string(item, "address")?, interface, gateway });
    }
    Ok(PrevResult { interfaces, ips })
}

/// The old form knows no interfaces, so there is nothing for us in it besides the addresses.
fn addresses_only(result: &Map<String, Value>) -> Result<PrevResult, String> {
    let mut ips = Vec::new();
    for key in ["ip4", "ip6"] {
        if let Some(family) = object(result, key)? {
            let address = text(family, "ip")?.unwrap_or_default().to_owned();
            ips.push(Ip { address, interface: None, gateway: None });
        }
    }
    Ok(PrevResult { interfaces: Vec::new(), ips })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> PodArgs {
        PodArgs { name: "sample-pod".to_owned(), namespace: "default".to_owned(), ..PodArgs::default() }
    }

    fn parse(value: &Value, version: CniVersion) -> Result<PrevResult, PrevResultError> {
        PrevResult::parse(value.as_object().unwrap(), version)
    }

    fn result(interfaces: &Value) -> PrevResult {
        let value = json!({"interfaces": interfaces, "ips": [
            {"address": "10.0.0.1/32", "interface": 1}, {"address": "10.0.1.1/32", "interface": 3}]});
        parse(&value, CniVersion::V1_0_0).unwrap()
    }

    #[test]
    fn interfaces_are_found_by_name_not_by_count() {
        // egress-cni adds two entries behind the dummy.
        let result = result(&json!([
            {"name": "enicc21c2d7785"}, {"name": "eth0", "mac": "2", "sandbox": "/n"},
            {"name": "enixyz"}, {"name": "mNicIf1", "mac": "10101", "sandbox": "/n"},
            {"name": "dummycc21c2d7785", "mac": "0", "sandbox": "1"},
            {"name": "veth1234"}, {"name": "v6if0", "sandbox": "/n"}]));
        let saved = result.addresses(&pod(), "eth0").unwrap();
        let seen: Vec<_> = saved.iter().map(|a| (a.interface.as_str(), a.host_veth.as_str(), a.table)).collect();
        assert_eq!(seen, [("eth0", "enicc21c2d7785", 2), ("mNicIf1", "enixyz", 10101)]);
    }

    #[test]
    fn before_tables_were_saved_the_device_number_tells() {
        let result = result(&json!([
            {"name": "enicc21c2d7785"}, {"name": "eth0", "sandbox": "/n"},
            {"name": "dummycc21c2d7785", "mac": "0", "sandbox": "3"}]));
        assert_eq!(result.addresses(&pod(), "eth0").unwrap()[0].table, 4);
    }

    #[test]
    fn versions_do_not_mix_across_forms() {
        let of = |version: &str| json!({"cniVersion": version});
        assert!(parse(&of("0.3.1"), CniVersion::V0_4_0).is_ok());
        assert!(parse(&of("1.0.0"), CniVersion::V1_1_0).is_ok());
        assert!(parse(&json!({}), CniVersion::V0_1_0).is_ok());
        let error = parse(&of("9.9.9"), CniVersion::V0_4_0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "could not parse prevResult: result type supports [0.3.0 0.3.1 0.4.0] but unmarshalled CNIVersion is \"9.9.9\""
        );
        assert!(parse(&of("1.0.0"), CniVersion::V0_4_0).is_err());
    }

    #[test]
    fn the_old_form_has_addresses_only() {
        let result = parse(&json!({"ip4": {"ip": "10.0.0.1/32"}}), CniVersion::V0_2_0).unwrap();
        assert_eq!(result.ips, [Ip { address: "10.0.0.1/32".to_owned(), interface: None, gateway: None }]);
        assert!(result.addresses(&pod(), "eth0").is_err());
        assert_eq!(result.branch_vlan(&pod()), Ok(None));
    }

    #[test]
    fn damaged_results_are_not_guessed_at() {
        let with_dummy = |mac: &str, sandbox: &str| {
            result(&json!([{"name": "h"}, {"name": "eth0"},
                {"name": "dummycc21c2d7785", "mac": mac, "sandbox": sandbox}]))
            .addresses(&pod(), "eth0")
        };
        assert!(with_dummy("0", "1").is_ok());
        assert!(with_dummy("7", "1").unwrap_err().contains("\"7\""));
        assert!(with_dummy("0", "").unwrap_err().contains("device number"));
        assert!(with_dummy("0", "-1").unwrap_err().contains("device number"));
        let error = parse(&json!({"ips": [{"address": 4}]}), CniVersion::V1_0_0).unwrap_err();
        assert!(error.to_string().contains("\"address\" must be a string"), "{error}");
    }
}
