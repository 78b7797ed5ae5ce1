//! The cluster's VPC resource controller, as far as pods see it: its webhook gives a pod the limit, the controller writes
//! the branch interface that it made into the pod's annotation (spec 02 §3.2).

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use super::objects::Objects;
use super::pods;

/// The limit by which a pod asks for a branch interface, and the annotation that tells of it.
pub const POD_ENI: &str = "vpc.amazonaws.com/pod-eni";

/// A branch interface, of either family or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchInterface {
    pub eni: String,
    pub mac: String,
    pub vlan: u16,
    /// Its IPv4 address and its subnet's block.
    pub ipv4: Option<(Ipv4Addr, String)>,
    /// The same of IPv6.
    pub ipv6: Option<(Ipv6Addr, String)>,
}

impl BranchInterface {
    /// The annotation's only element.
    #[must_use]
    pub fn annotation(&self) -> Value {
        let text = |own: Option<String>| own.unwrap_or_default();
        json!([{
            "eniId": self.eni,
            "ifAddress": self.mac,
            "privateIp": text(self.ipv4.as_ref().map(|(ip, _)| ip.to_string())),
            "ipv6Addr": text(self.ipv6.as_ref().map(|(ip, _)| ip.to_string())),
            "vlanID": self.vlan,
            "subnetCidr": text(self.ipv4.as_ref().map(|(_, net)| net.clone())),
            "subnetV6Cidr": text(self.ipv6.as_ref().map(|(_, net)| net.clone())),
        }])
    }
}

impl Objects {
    /// A pod that a SecurityGroupPolicy names: its first container asks for a branch interface.
    pub fn put_branch_pod(&self, namespace: &str, name: &str, uid: &str) {
        let spec = json!({"containers": [{"name": "c", "resources": {"limits": {POD_ENI: "1"}}}]});
        self.put(&pods(namespace), json!({"metadata": {"name": name, "uid": uid}, "spec": spec}));
    }

    /// The controller has made the pod's branch interface.
    ///
    /// # Panics
    /// There is no such pod.
    pub fn annotate_branch(&self, namespace: &str, name: &str, branch: &BranchInterface) {
        let annotation = json!({"metadata": {"annotations": {POD_ENI: branch.annotation().to_string()}}});
        self.change(&pods(namespace), name, &annotation);
    }
}
