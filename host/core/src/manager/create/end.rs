//! How the making of an interface ends: attached and programmed, or undone.

use std::time::Duration;

use super::{Create, Stage};
use crate::cloud::{CloudError, ErrorKind, Request};
use crate::ip::IpNet;
use crate::manager::jobs::Job;
use crate::manager::pace::{Way, retry_delay};
use crate::manager::{CleanUp, Command, Counter, JobId, Level, Manager, NotReady, Now};
use crate::policy::Unit;
use crate::store::EniSpec;

/// Times that IMDS is asked for the block of a subnet that EC2 does not list: half a minute in all.
const BLOCK_TRIES: u32 = 5;

impl Manager {
    /// EC2 has taken the attachment: the kernel shows the rest.
    pub(super) fn attached(&mut self, now: Now, id: JobId, mut job: Box<Create>, attachment: String) {
        let Some(made) = &job.made else { return };
        // The journal is written when it is programmed, or removed again.
        self.intent_is_over(&made.eni);
        if attachment.is_empty() {
            self.verify(now);
        } else {
            self.attachments.insert(made.eni.clone(), attachment.clone());
            let request = Request::SetDeleteOnTermination { eni: made.eni.clone(), attachment: attachment.clone() };
            job.attachment = Some(attachment);
            self.start_minor(now, "delete on termination", request);
        }
        job.tries = 0;
        job.attached_at = Some(now.mono);
        self.set_up_made(now, id, job);
    }

    /// Has the new interface programmed, once the block of its subnet is known.
    pub(super) fn set_up_made(&mut self, now: Now, id: JobId, mut job: Box<Create>) {
        let (Some(made), Some(device)) = (&job.made, job.device) else { return };
        let Some(subnet_cidr) = self.subnet_block(&made.subnet) else {
            if job.stage == Stage::Block && job.tries >= BLOCK_TRIES {
                let message = format!("the address block of {} is not known", made.subnet);
                self.count(Counter::WaitEniFailed);
                self.count_wait(now, &job, false);
                let (kind, code) = (ErrorKind::Refused, String::new());
                return self.create_failed(now, *job, CloudError { api: "DescribeSubnets", kind, code, message });
            }
            // IMDS shows what was attached a moment ago only after a while.
            job.stage = Stage::Block;
            job.tries += 1;
            job.retry_at = Some(now.mono + retry_delay(Duration::from_secs(1), job.tries, &mut self.random));
            self.jobs.insert(id, Job::Create(job));
            return;
        };
        let eni = self.spec_of(made, job.card, device);
        job.stage = Stage::SetUp;
        self.jobs.insert(id, Job::Create(job));
        self.out.push(Command::SetUpEni { job: id, eni, subnet_cidr });
    }

    /// A new or adopted interface is programmed, or could not be.
    pub(in crate::manager) fn eni_ready(&mut self, now: Now, id: JobId, result: Result<(), NotReady>) {
        match self.jobs.remove(&id) {
            Some(Job::Create(job)) => {
                let (Some(made), Some(device)) = (job.made.clone(), job.device) else { return };
                self.count_wait(now, &job, result.is_ok());
                match result {
                    Ok(()) => {
                        self.growth.succeed(job.card, Way::Create);
                        // Attached by a call that was never answered: its attachment is still to be put right.
                        self.put_right_later |= job.attachment.is_none();
                        let (spec, nets) = (self.spec_of(&made, job.card, device), self.blocks_told(&made));
                        let mut groups = made.security_groups.clone();
                        groups.sort();
                        self.groups_of.insert(made.eni.clone(), groups);
                        self.take_in(now, spec, job.unit, &nets);
                        // They may have changed since it was begun.
                        self.apply_groups(now);
                    }
                    Err(error) => {
                        self.count(match error {
                            NotReady::Unseen(_) => Counter::WaitEniFailed,
                            NotReady::Failed(_) => Counter::SetUpEniFailed,
                        });
                        self.log(Level::Error, format!("{} cannot be used and is removed: {error}", made.eni));
                        let message = format!("{}: {error}", made.eni);
                        let (kind, code) = (ErrorKind::Refused, String::new());
                        let error = CloudError { api: "set-up", kind, code, message };
                        self.growth.fail(now.mono, job.card, Way::Create, error, &mut self.random);
                        let spec = self.spec_of(&made, job.card, device);
                        self.dispose(now, spec, true, CleanUp::NewEni);
                    }
                }
            }
            Some(Job::Adopt(adopt)) => self.adopted(now, *adopt, result),
            Some(other) => {
                self.jobs.insert(id, other);
            }
            None => self.adopted_in_vain(id),
        }
        self.ask(now.mono);
    }

    /// How long the interface took from EC2's word that it is attached.
    pub(super) fn count_wait(&mut self, now: Now, job: &Create, usable: bool) {
        if let Some(at) = job.attached_at {
            self.count(Counter::EniAwaited { took: now.mono.saturating_sub(at), usable });
        }
    }

    /// Puts a programmed interface into the store, with its blocks, and remembers that it is ours.
    pub(in crate::manager) fn take_in(&mut self, now: Now, spec: EniSpec, unit: Unit, nets: &[IpNet]) {
        let id = spec.id.clone();
        self.journal.removing.retain(|e| *e != id);
        self.intent_is_over(&id);
        self.programmed.insert(id.clone());
        // A trunk is known by EC2's word alone: a restart must not take it for an interface of the pool.
        if !spec.trunk && !self.journal.managed.contains(&id) {
            self.journal.managed.push(id.clone());
        }
        self.write_journal();
        let Some(card) = self.cards.get_mut(spec.card) else { return };
        if let Err(error) = card.store.add_eni(spec, now.mono) {
            self.log(Level::Debug, format!("{id}: {error}"));
        }
        self.exclude(now);
        let nets: Vec<IpNet> = nets.iter().copied().filter(|net| !self.is_returning(&id, *net)).collect();
        self.log(Level::Info, format!("{id} serves {} addresses or prefixes", nets.len()));
        self.add_blocks(now, &id, unit, &nets);
    }

    /// The daemon ends (I7). What was made goes again, while there is time: nothing would delete it with the instance. If the
    /// time is short, or EC2 has not said whether it was made, the journal has it.
    pub(super) fn abandon(&mut self, now: Now, job: Create) {
        match &job.made {
            Some(made) => {
                let spec = self.spec_of(made, job.card, job.device.unwrap_or(0));
                self.dispose(now, spec, job.device.is_some(), CleanUp::NewEni);
            }
            None => self.intent_is_in_doubt(now, &job.token),
        }
    }

    pub(super) fn create_failed(&mut self, now: Now, job: Create, error: CloudError) {
        self.count(Counter::AllocEniFailed);
        if error.kind.is_exhausted() {
            self.count(Counter::AllocAddressesFailed);
        }
        if job.made.is_none() {
            self.intent_is_in_doubt(now, &job.token);
        }
        if let Some(made) = &job.made {
            // It goes again. Once an attach was tried, EC2 is asked whether it happened: no answer is no refusal.
            let spec = self.spec_of(made, job.card, job.device.unwrap_or(0));
            self.dispose(now, spec, job.device.is_some(), CleanUp::NewEni);
        }
        self.growth_failed(now, job.card, Way::Create, error);
    }
}
