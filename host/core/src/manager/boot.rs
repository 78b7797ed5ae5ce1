//! What is attached when the daemon starts, from IMDS and the journal, and the pods of the last run (spec 01 §2.3).
//!
//! IMDS is believed for the primary interface and for those that the journal knows as managed, so that pods are served
//! before EC2 has said a word. All else waits for EC2's tags (`listing.rs`, `reconcile.rs`).

use std::collections::HashSet;
use std::net::IpAddr;

use super::{Journal, Manager, Now};
use crate::checkpoint::Allocation;
use crate::cloud::AttachedInterface;
use crate::ip::IpNet;
use crate::store::EniSpec;

impl Manager {
    /// Takes in what IMDS shows and what the journal remembers of the last run, and has EC2 asked. Called once, first.
    pub fn boot(&mut self, now: Now, attached: &[AttachedInterface], journal: Journal) {
        self.journal = journal;
        self.booted_at = now;
        self.take_over_intents(now);
        self.next_look = now.mono + self.look_every();
        self.abandoned_due = self.first_search(now);
        self.note_blocks(attached);
        for interface in attached {
            let id = &interface.eni;
            self.links.know(&interface.mac);
            let address = self.own_address(interface.primary, &interface.ipv6);
            let nets: Vec<IpNet> =
                self.blocks_shown(interface).into_iter().filter(|net| !self.is_returning(id, *net)).collect();
            let spec = self.spec_shown(interface);
            let Some(pool) = self.cards.get_mut(interface.card) else { continue };
            if self.journal.removing.contains(id) {
                continue;
            }
            let primary = *id == self.settings.instance.primary_eni;
            // Without EC2 there are no tags, so nothing is anybody else's (spec 03 §13).
            let known = primary || self.journal.managed.contains(id) || !self.settings.ec2;
            let spec = EniSpec { excluded: !known, ..spec };
            if address.is_none() && !primary {
                // Without an address of the family it is not pods' business here; an EFA-only one takes a place (spec 01 §8.6).
                pool.foreign_devices.push(interface.device_index);
                pool.unmanaged += 1;
                continue;
            }
            if pool.store.add_eni(spec.clone(), now.mono).is_err() {
                continue;
            }
            self.add_blocks(now, id, self.settings.unit, &nets);
            if !known {
                self.unconfirmed.insert(id.clone());
            } else if !primary {
                self.adopt(spec, nets);
            }
        }
        let attached_ids: HashSet<&str> = attached.iter().map(|i| i.eni.as_str()).collect();
        self.journal.managed.retain(|id| attached_ids.contains(id.as_str()));
        self.write_journal();
        self.verify(now);
        self.ask(now.mono);
    }

    /// Takes over the pods that the cards' checkpoints tell of. After [`Manager::boot`].
    ///
    /// An address goes to the card that has it, whichever file told of it: an entry rebuilt from what the host shows, with
    /// no time of its own, does not know its card, and yields to any other of the same address.
    pub fn restore(&mut self, kept: Vec<(u32, Vec<(Allocation, IpAddr)>)>) {
        let entries = kept.into_iter().flat_map(|(card, list)| list.into_iter().map(move |entry| (card, entry)));
        let (timed, rest): (Vec<_>, Vec<_>) = entries.partition(|(_, (allocation, _))| allocation.timestamp != 0);
        let mut seen = HashSet::new();
        for (told_by, (allocation, ip)) in timed.into_iter().chain(rest) {
            if !seen.insert(ip) {
                continue;
            }
            let card = self.cards.iter().find(|c| c.store.covers(ip)).map_or(told_by, |c| c.index);
            if let Some(pool) = self.cards.get_mut(card) {
                pool.store.restore(vec![(allocation, ip)]);
            }
        }
    }
}
