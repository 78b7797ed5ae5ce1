//! An interface detached and deleted.

use std::time::Duration;

use super::jobs::{Job, Retry};
use super::pace::retry_delay;
use super::release::EC2_BEHIND;
use super::{CleanUp, Command, Counter, JobId, Level, Manager, Now};
use crate::cloud::{Answer, CloudError, ErrorKind, Request};
use crate::store::{EniSpec, Error as StoreError, Time};

/// Tries of a detach or a delete (spec 03 §8).
const REMOVE_TRIES: u32 = 12;
/// Between detach and delete. EC2 answers a detach at once and takes some three seconds to do it; until then each delete is
/// refused and counts as a call all the same. The reference's two seconds (spec 03 §7.6) are mostly too few.
const DETACH_PAUSE: Duration = Duration::from_secs(5);
/// Before the second delete of an interface that is still in use, doubling.
const IN_USE_PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Remove {
    pub eni: EniSpec,
    /// Whether it still takes a place on the instance, as far as EC2 has told: a detach takes a while after its answer.
    pub attached: bool,
    /// Under what a failure counts.
    why: CleanUp,
    stage: RemoveStage,
    /// Until then EC2 may not know it yet: it was made a moment before (spec 03 W-24).
    unknown_until: Option<Time>,
    pub retry: Retry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RemoveStage {
    Find,
    Detach,
    Delete,
}

impl Remove {
    pub fn is_for(&self, eni: &str) -> bool {
        self.eni.id == eni
    }

    /// Whether that EC2 knows no such interface tells that it is gone.
    fn may_be_unknown(&self, now: Now) -> bool {
        self.unknown_until.is_some_and(|until| now.mono < until)
    }
}

impl Manager {
    pub(super) fn start_removal(&mut self, now: Now, id: &str) -> Result<(), StoreError> {
        let seen = self.numbered.iter().filter(|block| block.eni == id).count();
        let store = self.cards.store_of(id).ok_or(StoreError::UnknownEni)?;
        if store.slots_used(id).is_some_and(|used| used > seen) {
            // Addresses have come since the plan was made: they were asked for because they are needed.
            return Err(StoreError::InUse);
        }
        if store.eni(id).is_none_or(|e| e.primary || e.trunk || e.efa) {
            // Known as one since the plan was made (I1).
            return Err(StoreError::InUse);
        }
        if self.is_held_back(id) {
            // EC2 has not said that it is ours (I1).
            return Err(StoreError::UnknownEni);
        }
        let store = self.cards.store_of(id).ok_or(StoreError::UnknownEni)?;
        let eni = store.take_eni(id, now.mono)?;
        self.last_removal = Some(now.mono);
        self.dispose(now, eni, true, CleanUp::Eni);
        Ok(())
    }

    /// Detaches and deletes an interface that is in no store.
    pub(super) fn dispose(&mut self, now: Now, eni: EniSpec, attached: bool, why: CleanUp) {
        // EC2 may answer that there is no such interface, and have it.
        let young = matches!(why, CleanUp::NewEni | CleanUp::LeftOver);
        let unknown_until = young.then(|| now.mono + EC2_BEHIND);
        self.forget_adoption(&eni.id);
        self.intent_is_over(&eni.id);
        self.programmed.remove(&eni.id);
        self.journal.managed.retain(|e| *e != eni.id);
        if !self.journal.removing.contains(&eni.id) {
            self.journal.removing.push(eni.id.clone());
        }
        self.write_journal();
        let attachment = self.attachments.get(&eni.id).cloned();
        let (stage, request) = match attachment {
            _ if !attached => (RemoveStage::Delete, Request::DeleteNetworkInterface { eni: eni.id.clone() }),
            Some(attachment) => (RemoveStage::Detach, Request::DetachNetworkInterface { attachment }),
            None => (RemoveStage::Find, Request::DescribeNetworkInterfaces { ids: vec![eni.id.clone()] }),
        };
        let retry = Retry { at: None, attempt: 1, request: request.clone() };
        let id = self.start(Job::Remove(Remove { eni, attached, why, stage, unknown_until, retry }));
        self.call(now, id, request);
    }

    pub(super) fn removed(&mut self, now: Now, id: JobId, mut job: Remove, result: Result<Answer, CloudError>) {
        let delete = Request::DeleteNetworkInterface { eni: job.eni.id.clone() };
        match (job.stage, result) {
            (RemoveStage::Find, Ok(Answer::Interfaces(list))) => {
                match list.into_iter().next().and_then(|i| i.attachment) {
                    Some(attachment) => {
                        let request = Request::DetachNetworkInterface { attachment: attachment.id };
                        job.stage = RemoveStage::Detach;
                        job.retry = Retry { at: None, attempt: 1, request };
                    }
                    // No attachment: straight to the delete (spec 01 W12).
                    None => {
                        job.attached = false;
                        self.detached(now, &mut job, delete, Duration::ZERO);
                    }
                }
            }
            (RemoveStage::Find | RemoveStage::Delete, Err(e))
                if e.kind == ErrorKind::NotFound && !job.may_be_unknown(now) =>
            {
                return self.gone(now, job);
            }
            (RemoveStage::Detach, Ok(_)) => self.detached(now, &mut job, delete, DETACH_PAUSE),
            (RemoveStage::Detach, Err(e)) if e.kind == ErrorKind::NotFound => {
                job.attached = false;
                self.detached(now, &mut job, delete, Duration::ZERO);
            }
            (RemoveStage::Delete, Ok(_)) => return self.gone(now, job),
            (_, Ok(other)) => {
                self.unexpected("DeleteNetworkInterface", &other);
                return self.gone(now, job);
            }
            (stage, Err(error)) => {
                let hopeless = matches!(error.kind, ErrorKind::Unauthorized);
                if job.retry.attempt >= REMOVE_TRIES || hopeless {
                    self.count_left_behind(job.why, stage, &error);
                    self.log(Level::Error, format!("{} is left behind: {error}", job.eni.id));
                    if hopeless {
                        self.giving.fail(now.mono, error.clone(), &mut self.random);
                    }
                    // If it is still attached it is used again, else the next search for left-overs, or the next start,
                    // finds it in the journal.
                    if stage != RemoveStage::Delete || error.kind == ErrorKind::InUse {
                        self.journal.removing.retain(|e| *e != job.eni.id);
                        self.write_journal();
                    }
                    self.verify(now);
                    return self.ask(now.mono);
                }
                // What EC2 will not delete for another reason than its use is off the instance.
                let told = !matches!(error.kind, ErrorKind::InUse | ErrorKind::Throttled | ErrorKind::Unknown);
                job.attached &= stage != RemoveStage::Delete || !told;
                let first = match stage {
                    RemoveStage::Delete if error.kind == ErrorKind::InUse => IN_USE_PAUSE,
                    RemoveStage::Delete => Duration::from_millis(500),
                    RemoveStage::Find | RemoveStage::Detach => Duration::from_millis(200),
                };
                let delay = retry_delay(first, job.retry.attempt, &mut self.random);
                job.retry.attempt += 1;
                job.retry.at = Some(now.mono + delay);
            }
        }
        let due = job.retry.at.is_none();
        let request = job.retry.request.clone();
        self.jobs.insert(id, Job::Remove(job));
        if due {
            self.call(now, id, request);
        }
    }

    fn count_left_behind(&mut self, why: CleanUp, stage: RemoveStage, error: &CloudError) {
        let attached = stage != RemoveStage::Delete;
        if why == CleanUp::Eni && attached {
            self.count(Counter::FreeEniFailed);
        }
        // Only what EC2 has said counts as a failed clean-up (spec 03 §12.1).
        if error.code.is_empty() {
            return;
        }
        if stage == RemoveStage::Find {
            self.count(Counter::CleanUpFailed(CleanUp::Attachment, error.code.clone()));
        }
        if why != CleanUp::Eni || !attached {
            self.count(Counter::CleanUpFailed(why, error.code.clone()));
        }
    }

    fn detached(&mut self, now: Now, job: &mut Remove, delete: Request, pause: Duration) {
        self.attachments.remove(&job.eni.id);
        self.out.push(Command::TearDownEni { eni: job.eni.clone() });
        job.stage = RemoveStage::Delete;
        let at = (pause > Duration::ZERO).then(|| now.mono + pause);
        job.retry = Retry { at, attempt: 1, request: delete };
    }

    fn gone(&mut self, now: Now, job: Remove) {
        self.log(Level::Info, format!("{} is removed", job.eni.id));
        self.eni_given_back(now, &job.eni.id);
        self.ask(now.mono);
    }
}
