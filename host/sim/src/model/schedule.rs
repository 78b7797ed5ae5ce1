//! What follows when: attachments, kernel links, IMDS and describe, each in its own time after the answer
//! (spec 03 §16.3).

use std::cmp::Reverse;
use std::time::Duration;

use super::aws::{AttachmentStatus, Effect, Eni, InterfaceType};
use super::delays::Span;
use super::imds::{Metadata, MetadataInterface};
use super::links::{LinkChange, LinkEvent};
use super::sim::Sim;
use super::subnet6::Ipv6Pool;

/// Something at its time; what was scheduled first happens first.
#[derive(Debug, Clone)]
pub(super) struct Due {
    at: Duration,
    sequence: u64,
    event: Event,
}

#[derive(Debug, Clone)]
enum Event {
    Attached { eni: String, attachment: String },
    LinkUp { eni: String, attachment: String },
    Detached { eni: String, attachment: String },
    Metadata { instance: String, eni: String, mac: String, view: Option<Box<MetadataInterface>> },
    Described { eni: String, view: Option<Box<Eni>> },
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.sequence == other.sequence
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.sequence).cmp(&(other.at, other.sequence))
    }
}

impl Sim {
    /// Lets everything due by `now` happen. Time never runs backwards: an earlier `now` changes nothing.
    pub fn advance(&mut self, now: Duration) {
        while self.queue.peek().is_some_and(|Reverse(due)| due.at <= now) {
            if let Some(Reverse(Due { at, event, .. })) = self.queue.pop() {
                self.now = self.now.max(at);
                self.happen(event, at);
            }
        }
        self.now = self.now.max(now);
    }

    /// When something happens next by itself.
    #[must_use]
    pub fn next_event(&self) -> Option<Duration> {
        self.queue.peek().map(|Reverse(due)| due.at)
    }

    /// What happened to the instances' network devices up to `now` and was not asked for before.
    pub fn links(&mut self, now: Duration) -> Vec<LinkEvent> {
        self.advance(now);
        self.links.drain(..).collect()
    }

    /// A machine is up when its interface is: no delay between.
    pub(super) fn settle_launch(&mut self) {
        for effect in std::mem::take(&mut self.aws.effects) {
            let Effect::Attaching(id) = effect else { continue };
            let Some(eni) = self.aws.enis.get(&id) else { continue };
            let (mac, view) = (eni.mac.clone(), MetadataInterface::of(eni, &self.aws));
            let Some(attachment) = eni.attachment.clone() else { continue };
            if !self.delays.describe_lag.is_zero() {
                self.described.insert(id.clone(), eni.clone());
            }
            if let Some(view) = view {
                self.metadata.entry(attachment.instance.clone()).or_default().interfaces.insert(mac, view);
            }
            self.happen(Event::Attached { eni: id.clone(), attachment: attachment.id.clone() }, self.now);
            self.happen(Event::LinkUp { eni: id, attachment: attachment.id }, self.now);
        }
    }

    /// Schedules what an operation that is answered at `answered` sets going.
    pub(super) fn settle(&mut self, answered: Duration) {
        for effect in std::mem::take(&mut self.aws.effects) {
            match effect {
                Effect::Created(id) => {
                    let visible = answered.saturating_add(self.spread(self.delays.create_visible));
                    if !self.delays.create_visible.is_zero()
                        && let Some(eni) = self.aws.enis.get_mut(&id)
                    {
                        eni.visible_from = visible;
                    }
                    self.describe_later(&id, answered);
                }
                Effect::Attaching(id) => {
                    self.describe_later(&id, answered);
                    self.schedule_attach(&id, answered);
                }
                Effect::Detaching(id) => {
                    self.describe_later(&id, answered);
                    let at = answered.saturating_add(self.spread(self.delays.detached));
                    if let Some(attachment) = self.attachment_of(&id) {
                        self.schedule(at, Event::Detached { eni: id, attachment });
                    }
                }
                Effect::Addresses(id) => {
                    self.describe_later(&id, answered);
                    self.metadata_later(&id, answered, self.delays.imds_assign);
                    self.link_changed(&id);
                }
                Effect::Groups(id) => {
                    self.describe_later(&id, answered);
                    self.metadata_later(&id, answered, self.delays.imds_groups);
                    self.link_changed(&id);
                }
                Effect::Touched(id) | Effect::Deleted(id) => self.describe_later(&id, answered),
            }
        }
    }

    fn schedule_attach(&mut self, id: &str, answered: Duration) {
        let Some(attachment) = self.attachment_of(id) else { return };
        let attached = answered.saturating_add(self.spread(self.delays.attached));
        let link = attached.saturating_add(self.spread(self.delays.link));
        let (eni, attachment) = (id.to_owned(), attachment);
        self.schedule(attached, Event::Attached { eni: eni.clone(), attachment: attachment.clone() });
        self.schedule(link, Event::LinkUp { eni, attachment });
        if self.delays.imds_addresses.is_zero() {
            self.metadata_later(id, answered, self.delays.imds_attach);
            return;
        }
        let bare = self.aws.enis.get(id).and_then(|e| MetadataInterface::of(e, &self.aws)).map(|mut view| {
            view.facts.secondary.clear();
            view.facts.prefixes.clear();
            view.facts.ipv6_prefixes.clear();
            view
        });
        let shown = self.metadata_view_later(id, answered, self.delays.imds_attach, bare);
        self.metadata_later(id, shown, self.delays.imds_addresses);
    }

    /// IMDS shows the interface as it is now, `lag` after `from`; where lists come in part, a part of the change first.
    fn metadata_later(&mut self, id: &str, from: Duration, lag: Span) {
        let Some(eni) = self.aws.enis.get(id) else { return };
        let Some(view) = MetadataInterface::of(eni, &self.aws) else { return };
        let mut from = from;
        let mut lag = lag;
        if !self.delays.imds_partial.is_zero()
            && let Some(instance) = eni.attachment.as_ref().map(|a| &a.instance)
        {
            let shown = self.metadata.get(instance).and_then(|m| m.interfaces.get(&eni.mac));
            let part = view.in_part(shown, &mut self.random);
            if part != view {
                from = self.metadata_view_later(id, from, lag, Some(part));
                lag = self.delays.imds_partial;
            }
        }
        self.metadata_view_later(id, from, lag, Some(view));
    }

    fn metadata_view_later(
        &mut self,
        id: &str,
        from: Duration,
        lag: Span,
        view: Option<MetadataInterface>,
    ) -> Duration {
        let mut at = from.saturating_add(self.spread(lag));
        if self.delays.imds_slow_share > 0.0 && self.random.unit() < self.delays.imds_slow_share {
            at = at.saturating_add(self.spread(self.delays.imds_slow));
        }
        let Some(eni) = self.aws.enis.get(id) else { return at };
        let Some(attachment) = &eni.attachment else { return at };
        let (instance, mac) = (attachment.instance.clone(), eni.mac.clone());
        let latest = self.metadata_at.entry(id.to_owned()).or_default();
        *latest = at.max(*latest);
        let at = *latest;
        self.schedule(at, Event::Metadata { instance, eni: id.to_owned(), mac, view: view.map(Box::new) });
        at
    }

    fn describe_later(&mut self, id: &str, from: Duration) {
        if self.delays.describe_lag.is_zero() {
            return;
        }
        let view = self.aws.enis.get(id).cloned().map(Box::new);
        let at = from.saturating_add(self.spread(self.delays.describe_lag));
        let latest = self.described_at.entry(id.to_owned()).or_default();
        *latest = at.max(*latest);
        let at = *latest;
        self.schedule(at, Event::Described { eni: id.to_owned(), view });
    }

    fn spread(&mut self, span: Span) -> Duration {
        self.random.delay(span, self.delays.jitter)
    }

    fn attachment_of(&self, id: &str) -> Option<String> {
        Some(self.aws.enis.get(id)?.attachment.as_ref()?.id.clone())
    }

    fn schedule(&mut self, at: Duration, event: Event) {
        if at <= self.now {
            self.happen(event, self.now);
            return;
        }
        self.sequence += 1;
        self.queue.push(Reverse(Due { at, sequence: self.sequence, event }));
    }

    fn happen(&mut self, event: Event, at: Duration) {
        match event {
            Event::Attached { eni, attachment } => {
                let Some(eni) = self.aws.enis.get_mut(&eni) else { return };
                let own = eni.attachment.as_mut().filter(|a| a.id == attachment);
                if let Some(own) = own.filter(|a| a.status == AttachmentStatus::Attaching) {
                    own.status = AttachmentStatus::Attached;
                    eni.since = at;
                    let id = eni.id.clone();
                    self.describe_later(&id, at);
                }
            }
            Event::LinkUp { eni, attachment } => {
                // An EFA-only interface is no network device of the kernel's.
                let eni = self.aws.enis.get_mut(&eni).filter(|e| e.interface_type != InterfaceType::EfaOnly);
                let Some(eni) = eni else { return };
                let own = eni.attachment.as_mut().filter(|a| a.id == attachment);
                let Some(own) = own.filter(|a| a.status != AttachmentStatus::Detaching) else { return };
                own.link = true;
                let eni = eni.clone();
                self.link(&eni, LinkChange::Up(eni.addresses()));
            }
            Event::Detached { eni: id, attachment } => self.detached(&id, &attachment, at),
            Event::Metadata { instance, eni, mac, view } => {
                if !self.skews.holds_metadata(&eni) {
                    show(self.metadata.get_mut(&instance), mac, view.map(|v| *v));
                }
            }
            Event::Described { eni, view } => {
                match view {
                    Some(view) => {
                        self.described.insert(eni, *view);
                    }
                    None => {
                        self.described_at.remove(&eni);
                        self.described.remove(&eni);
                    }
                };
            }
        }
    }

    fn detached(&mut self, id: &str, attachment: &str, at: Duration) {
        let Some(eni) = self.aws.enis.get(id) else { return };
        if eni.attachment.as_ref().is_none_or(|a| a.id != attachment) {
            return;
        }
        let eni = eni.clone();
        self.link_down(&eni);
        if self.delays.imds_stuck_share > 0.0 && self.random.unit() < self.delays.imds_stuck_share {
            self.skews.stick_metadata(&eni);
        }
        self.metadata_view_later(id, at, self.delays.imds_detach, None);
        self.metadata_at.remove(id);
        self.aws.detached(id, at);
        self.describe_later(id, at);
    }

    fn link_changed(&mut self, id: &str) {
        if let Some(eni) = self.aws.enis.get(id)
            && eni.attachment.as_ref().is_some_and(|a| a.link)
        {
            let eni = eni.clone();
            self.link(&eni, LinkChange::Changed(eni.addresses()));
        }
    }

    pub(super) fn link_down(&mut self, eni: &Eni) {
        if eni.attachment.as_ref().is_some_and(|a| a.link) {
            self.link(eni, LinkChange::Down);
        }
    }

    fn link(&mut self, eni: &Eni, change: LinkChange) {
        let Some(attachment) = &eni.attachment else { return };
        let Some(subnet) = self.aws.subnets.iter().find(|s| s.id == eni.subnet) else { return };
        self.links.push_back(LinkEvent {
            at: self.now,
            instance: attachment.instance.clone(),
            eni: eni.id.clone(),
            mac: eni.mac.clone(),
            device_index: attachment.device_index,
            card: attachment.card,
            subnet: subnet.pool.cidr(),
            subnet_ipv6: subnet.ipv6.as_ref().map(Ipv6Pool::cidr),
            groups: eni.groups.clone(),
            change,
        });
    }
}

/// A terminated instance has no metadata service.
pub(super) fn show(metadata: Option<&mut Metadata>, mac: String, view: Option<MetadataInterface>) {
    if let Some(metadata) = metadata {
        match view {
            Some(view) => metadata.interfaces.insert(mac, view),
            None => metadata.interfaces.remove(&mac),
        };
    }
}
