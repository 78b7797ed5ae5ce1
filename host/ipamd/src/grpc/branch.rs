//! Pods with branch interfaces: ADD and DEL (spec 02 §3.2, §4.2). The pool has no part in them.

use std::time::{Duration, Instant};

use reservoir_core::manager::Event;
use reservoir_kube::{KubeError, PodName};
use reservoir_rpc as rpc;
use tonic::{Code, Response, Status};

use super::{Service, address, failed};
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
    NotYet {
        why: String,
        /// It is the trunk's link: the trunk may be another by now.
        link: bool,
    },
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
        let mut asked = false;
        loop {
            match self.look_for_branch(&pod).await {
                Ok(found) => return Ok(found),
                Err(Lacking::Refused(why)) => return Err(why),
                Err(Lacking::NotYet { why, link }) => {
                    if link && !std::mem::replace(&mut asked, true) {
                        self.pool.tell(Event::LinkMissing);
                    }
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
        let Some((eni, mac)) = trunk else { return Err(self.no_trunk()) };
        let index = self.link_index(&mac).await.map_err(Lacking::Refused)?;
        let Some(trunk) = index else {
            let why = format!("the node shows no link of the trunk interface {eni} ({mac})");
            return Err(Lacking::NotYet { why, link: true });
        };
        let Some(annotation) = &facts.branches else {
            let why = format!(
                "the VPC resource controller has not yet made the branch network interface of {pod}: it has no annotation \
                 vpc.amazonaws.com/pod-eni"
            );
            return Err(Lacking::NotYet { why, link: false });
        };
        match Branch::read(annotation, self.facts.ipv6) {
            Ok(branch) => Ok(Some(Found { branch, trunk })),
            Err(error) => Err(Lacking::Refused(error.to_string())),
        }
    }

    /// Whether a trunk may come, and who is to be asked for it.
    fn no_trunk(&self) -> Lacking {
        const WISH: &str = "the pod asks for a branch network interface (a SecurityGroupPolicy names it) and";
        let (instance_type, may_have, ec2) = self.pool.look(|manager, _| {
            let settings = manager.settings();
            (settings.instance.instance_type.clone(), settings.trunk_compatible, settings.ec2)
        });
        if !may_have {
            return Lacking::Refused(format!(
                "{WISH} an instance of type {instance_type} can have no trunk interface that could carry it; the pod needs a \
                 node of another type"
            ));
        }
        if !ec2 {
            return Lacking::Refused(format!(
                "{WISH} this node cannot tell a trunk interface from another, as only EC2 knows and ENABLE_IMDS_ONLY_MODE is \
                 set; unset it, or run the pod on another node"
            ));
        }
        let why = format!(
            "{WISH} the node has no trunk interface that could carry it; the VPC resource controller attaches one where the \
             instance type can have it and a place is free"
        );
        Lacking::NotYet { why, link: false }
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
        // On no device of the node's, in no table of the pool's.
        let entry = rpc::IpAllocationMetadata { device_number: -1, ..address(branch.address) };
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
        // The reference tells the IPv4 address on IPv6 nodes too, and nothing is cleared up (W5, DW-10).
        let ip_allocation_metadata = vec![gone.address.map(address).unwrap_or_default()];
        Ok(Response::new(rpc::DelNetworkReply { pod_vlan_id: gone.vlan, ip_allocation_metadata, ..reply }))
    }
}
