//! What EC2 is asked for, and where the interface is to be attached.

use super::{Create, MAX_DEVICE};
use crate::cloud::{CreateInterface, Request};
use crate::manager::jobs::Job;
use crate::manager::left_overs::CREATED_TAG;
use crate::manager::{Manager, Now};
use crate::store::EniSpec;

impl Manager {
    /// What interfaces of this node are described as (spec 03 §7.2).
    pub(in crate::manager) fn description(&self) -> String {
        format!("aws-K8S-{}", self.settings.instance.instance_id)
    }

    pub(super) fn create_request(&self, now: Now, job: &Create, subnet: &str, created_at: &str) -> Request {
        let mut tags = self.wanted_tags();
        tags.push((CREATED_TAG.to_owned(), created_at.to_owned()));
        tags.sort();
        let own_groups = job.eni_config.as_ref().map(|c| &c.security_groups).filter(|g| !g.is_empty());
        let groups = own_groups.or(self.security_groups.as_ref().map(|(groups, _)| groups));
        Request::CreateNetworkInterface(CreateInterface {
            subnet: subnet.to_owned(),
            description: self.description(),
            security_groups: groups.cloned().unwrap_or_default(),
            tags,
            unit: job.unit,
            // Its own address comes out of the same subnet.
            count: if self.is_ipv6() { 0 } else { self.within_free(now, subnet, job.unit, job.count, 1) },
            ipv6_addresses: u32::from(self.is_ipv6()),
            connection_tracking: self.connection_tracking,
            client_token: job.token.clone(),
        })
    }

    /// The tags of a managed interface, but for `createdAt` (spec 03 §7.8), sorted by key.
    pub(in crate::manager) fn wanted_tags(&self) -> Vec<(String, String)> {
        let settings = &self.settings;
        let mut tags = std::collections::BTreeMap::new();
        tags.insert("node.k8s.amazonaws.com/instance_id".to_owned(), settings.instance.instance_id.clone());
        if !settings.cluster_name.is_empty() {
            tags.insert("cluster.k8s.amazonaws.com/name".to_owned(), settings.cluster_name.clone());
            tags.insert("eks:eni:owner".to_owned(), "amazon-vpc-cni".to_owned());
        }
        tags.extend(settings.additional_tags.iter().cloned());
        tags.into_iter().collect()
    }

    /// Whether the card takes one interface more beside those that EC2 knows to be on it, or is about to: others may have
    /// been found there since the interface was begun.
    pub(super) fn still_fits(&self, card: u32) -> bool {
        let held = self.cards.get(card).map_or(0, |c| c.store.enis().count());
        let coming = self.jobs.values().filter(|job| match job {
            Job::Create(c) => c.card == card && c.device.is_some(),
            Job::Remove(r) => r.attached && r.eni.card == card,
            Job::Adopt(a) => a.eni.card == card && self.cards.eni(&a.eni.id).is_none(),
            _ => false,
        });
        u32::try_from(held + coming.count()).unwrap_or(u32::MAX) < self.max_enis(card)
    }

    /// The lowest device index of the card that nothing has or is about to have.
    pub(super) fn free_device(&self, card: u32) -> Option<u32> {
        let pool = self.cards.get(card)?;
        let held = |index: u32| {
            let is_here = |eni: &EniSpec| (eni.card, eni.device_index) == (card, index);
            pool.store.enis().any(|(e, _)| is_here(e))
                || pool.foreign_devices.contains(&index)
                || self.jobs.values().any(|j| match j {
                    Job::Create(c) => (c.card, c.device) == (card, Some(index)),
                    Job::Remove(r) => r.attached && is_here(&r.eni),
                    Job::Adopt(a) => is_here(&a.eni),
                    _ => false,
                })
        };
        (0..=MAX_DEVICE).find(|index| !held(*index))
    }
}
