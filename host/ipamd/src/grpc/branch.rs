//! Pods with branch interfaces: ADD and DEL (spec 02 §3.2, §4.2). The pool has no part in them.

use std::time::{Duration, Instant};

use reservoir_kube::{KubeError, PodName};
use reservoir_rpc as rpc;
use tonic::{Code, Response, Status};

use super::{Service, failed};
use crate::branch::{Branch, Gone};

/// The trunk's link may come a little after EC2's word of it: so many looks, so far apart (spec 02 §3.2).
const LOOKS: u32 = 5;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
/// Between questions whether what was not there has come; each pause is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A pod's branch interface, and the interface that carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    branch: Branch,
    /// Index of the trunk's link.
    trunk: u32,
}

/// Why a pod gets none now.
enum Lacking {
    /// Others are at work on it: it may come.
    NotYet(String),
    Refused(String),
}

impl Service {
    /// The branch interface that the pod is to have; none if it is an ordinary pod. One that asks for a branch interface
    /// never gets an address of the pool: its traffic would pass by its security groups.
    ///
    /// What the resource controller is still to make is waited for, as an address is.
    pub(super) async fn branch_of(&self, r: &rpc::AddNetworkRequest) -> Result<Option<Found>, String> {
        let pod = PodName::new(r.k8s_pod_namespace.as_str(), r.k8s_pod_name.as_str());
        let (until, mut pause) = (Instant::now() + self.facts.add_wait, FIRST_PAUSE);
        loop {
            match self.look_for_branch(&pod).await {
                Ok(found) => return Ok(found),
                Err(Lacking::Refused(why)) => return Err(why),
                Err(Lacking::NotYet(why)) => {
                    let stopping = self.pool.look(|manager, _| manager.is_terminating());
                    if stopping || Instant::now() + pause > until {
                        return Err(why);
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn look_for_branch(&self, pod: &PodName) -> Result<Option<Found>, Lacking> {
        let facts = self.pool.kubernetes().pod(pod).await.map_err(|error| {
            Lacking::Refused(format!("whether the pod asks for a branch network interface is not known: {error}"))
        })?;
        if !facts.wants_branch {
            return Ok(None);
        }
        let trunk = self.pool.look(|manager, _| manager.trunk().map(|eni| (eni.id.clone(), eni.mac.clone())));
        let Some((eni, mac)) = trunk else {
            return Err(Lacking::NotYet(
                "the pod asks for a branch network interface (a SecurityGroupPolicy names it) and the node has no trunk \
                 interface that could carry it; the VPC resource controller attaches one where the instance type can have \
                 it and a place is free"
                    .to_owned(),
            ));
        };
        let index = self.link_index(&mac).await.map_err(Lacking::Refused)?;
        let Some(trunk) = index else {
            return Err(Lacking::NotYet(format!("the node shows no link of the trunk interface {eni} ({mac})")));
        };
        let Some(annotation) = &facts.branches else {
            return Err(Lacking::NotYet(format!(
                "the VPC resource controller has not yet made the branch network interface of {pod}: it has no annotation \
                 vpc.amazonaws.com/pod-eni"
            )));
        };
        match Branch::read(annotation, self.facts.ipv6) {
            Ok(branch) => Ok(Some(Found { branch, trunk })),
            Err(error) => Err(Lacking::Refused(error.to_string())),
        }
    }

    async fn link_index(&self, mac: &str) -> Result<Option<u32>, String> {
        for look in 1..=LOOKS {
            let (network, mac) = (self.pool.network().clone(), mac.to_owned());
            let found = tokio::task::spawn_blocking(move || network.link_index(&mac)).await;
            let found = found.map_err(|e| e.to_string()).and_then(|f| f);
            if let Some(index) = found.map_err(|e| format!("the links of the node cannot be listed: {e}"))? {
                return Ok(Some(index));
            }
            if look < LOOKS {
                tokio::time::sleep(BETWEEN_LOOKS).await;
            }
        }
        Ok(None)
    }

    /// The answer to the ADD of such a pod.
    pub(super) async fn add_branch(&self, r: &rpc::AddNetworkRequest, found: Found) -> Response<rpc::AddNetworkReply> {
        let Found { branch, trunk } = found;
        tracing::info!(
            namespace = r.k8s_pod_namespace,
            pod = r.k8s_pod_name,
            sandbox = r.container_id,
            ip = %branch.address,
            vlan = branch.vlan,
            "the pod has a branch interface"
        );
        if r.requires_multi_nic_attachment {
            tracing::info!(
                namespace = r.k8s_pod_namespace,
                pod = r.k8s_pod_name,
                "it asks for several network cards too: a pod with a branch interface has no other"
            );
        }
        let entry = match branch.address {
            std::net::IpAddr::V4(ip) => rpc::IpAllocationMetadata { ipv4_addr: ip.to_string(), ..entry() },
            std::net::IpAddr::V6(ip) => rpc::IpAllocationMetadata { ipv6_addr: ip.to_string(), ..entry() },
        };
        let branched = rpc::AddNetworkReply {
            ip_allocation_metadata: vec![entry],
            pod_vlan_id: branch.vlan.into(),
            pod_eni_mac: branch.mac.to_string(),
            pod_eni_subnet_gw: branch.gateway.to_string(),
            parent_if_index: i32::try_from(trunk).unwrap_or_default(),
            ..rpc::AddNetworkReply::default()
        };
        self.reply(r, branched, Some(branch.address)).await
    }

    /// The answer to the DEL of a pod that no store knows: of one with a branch interface the cluster may know (spec 02
    /// §4.2). `unknown` is the answer otherwise.
    pub(super) async fn del_branch(
        &self,
        r: &rpc::DelNetworkRequest,
        unknown: Status,
    ) -> Result<Response<rpc::DelNetworkReply>, Status> {
        let pod = PodName::new(r.k8s_pod_namespace.as_str(), r.k8s_pod_name.as_str());
        let reply = rpc::DelNetworkReply {
            success: true,
            network_policy_mode: self.facts.network_policy_mode.clone(),
            ..rpc::DelNetworkReply::default()
        };
        if pod.name.is_empty() || pod.namespace.is_empty() {
            return Err(unknown);
        }
        let facts = match self.pool.kubernetes().pod(&pod).await {
            Ok(facts) => facts,
            // As intended, and not as the reference does (W4): there is nothing that it could still have here.
            Err(KubeError::NotFound { .. }) => return Ok(Response::new(reply)),
            Err(error) => return Err(failed(Code::Unknown, &error)),
        };
        if facts.uid != r.k8s_pod_uid {
            // A StatefulSet's next pod of the name must not lose its interface.
            let mismatch = format!("pod UID mismatch: got {}, expected {}", r.k8s_pod_uid, facts.uid);
            return Err(failed(Code::Unknown, &mismatch));
        }
        let Some(annotation) = &facts.branches else { return Err(unknown) };
        let gone = Gone::read(annotation, self.facts.ipv6).map_err(|error| failed(Code::Unknown, &error))?;
        tracing::info!(
            namespace = pod.namespace,
            pod = pod.name,
            sandbox = r.container_id,
            vlan = gone.vlan,
            "the branch interface is to be removed"
        );
        if let (true, Some(address)) = (self.facts.annotate, gone.address)
            && let Err(error) = self.pool.kubernetes().clear_annotation(&pod, address).await
        {
            // The plugin needs the answer to clear up.
            tracing::warn!(namespace = pod.namespace, pod = pod.name, "the pod's annotation stays: {error}");
        }
        let metadata = match gone.address {
            Some(std::net::IpAddr::V4(ip)) => {
                rpc::IpAllocationMetadata { ipv4_addr: ip.to_string(), ..rpc::IpAllocationMetadata::default() }
            }
            // The reference tells the IPv4 address here too, and nothing is cleared up (W5, DW-10).
            Some(std::net::IpAddr::V6(ip)) => {
                rpc::IpAllocationMetadata { ipv6_addr: ip.to_string(), ..rpc::IpAllocationMetadata::default() }
            }
            None => rpc::IpAllocationMetadata::default(),
        };
        let ip_allocation_metadata = vec![metadata];
        Ok(Response::new(rpc::DelNetworkReply { pod_vlan_id: gone.vlan, ip_allocation_metadata, ..reply }))
    }
}

/// Of a branch interface: on no device of the node's, in no table of the pool's.
fn entry() -> rpc::IpAllocationMetadata {
    rpc::IpAllocationMetadata { device_number: -1, ..rpc::IpAllocationMetadata::default() }
}
