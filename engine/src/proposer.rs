//! The proposer that leads: batches what waits into the next decree.
//!
//! | event | rule |
//! |---|---|
//! | bundle | it waits, in a bounded queue |
//! | end of turn | while a pipeline slot is free and something waits: put as much as fits into the next decree, log it, then `Propose` to acceptors and learners |
//! | acknowledgements are overdue, T0/4 … T0 at the latest | `Propose` again until n_l − f learners acknowledged |
//! | f+1 learners acknowledge | slots become free |
//!
//! There is no timer that waits for a batch to fill: a lone bundle leaves at the end of its turn, and batches
//! grow only because the pipeline is full (DESIGN section 3). A slot is free while fewer than `in_flight_max`
//! decrees are proposed and not yet acknowledged by f+1 learners, and the decree is open.

use std::borrow::Borrow;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use twostep_crypto::Scope;
use twostep_net::pool::Pool;

use crate::batch::{Authenticator, Batch, Bundle};
use crate::configuration::Tuning;
use crate::machine::Refusal;
use crate::resend::{Earliest, Pace, Resend};
use crate::types::{ClientId, Decree, Digest, Time, Value};
use crate::window::{Reset, Window};

/// So many digests of retries are remembered at most.
const SEEN_MAX: usize = 16_384;

/// The state of a proposer that leads.
#[derive(Debug)]
pub struct Proposer {
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Retries, which go first and have room of their own: they are what a leader is judged by.
    retries: VecDeque<Bundle>,
    retries_bytes: usize,
    /// The highest decree that was proposed.
    proposed: Decree,
    slots: Window<Slot>,
    /// When the first slot is to be said again.
    resend: Earliest,
    /// How soon, by what acknowledgements take.
    pace: Pace,
    /// What n_l − f learners acknowledged, as far as it was measured.
    acknowledged: Decree,
    /// The digests of retries that were taken in this regency.
    seen: BTreeSet<Digest>,
}

#[derive(Debug)]
struct Waiting {
    bundle: Bundle,
    since: Time,
}

impl Borrow<Bundle> for Waiting {
    fn borrow(&self) -> &Bundle {
        &self.bundle
    }
}

#[derive(Debug, Default)]
struct Slot {
    batch: Option<Batch>,
    /// When it was said for the first time.
    said: Time,
    resend: Resend,
}

impl Reset for Slot {
    fn reset(&mut self) {
        *self = Slot::default();
    }
}

impl Proposer {
    /// A proposer that has proposed nothing.
    #[must_use]
    pub fn new(window: u64, t0: Duration) -> Proposer {
        Proposer {
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            retries: VecDeque::new(),
            retries_bytes: 0,
            proposed: Decree::NONE,
            slots: Window::new(Decree::NONE, window, Slot::default),
            resend: Earliest::default(),
            pace: Pace::new(t0),
            acknowledged: Decree::NONE,
            seen: BTreeSet::new(),
        }
    }

    /// Takes a bundle whose authenticator was checked.
    ///
    /// # Errors
    /// [`Refusal::Full`] if too much waits already; the client is told to come back.
    pub fn submit(&mut self, bundle: Bundle, now: Time, tuning: &Tuning) -> Result<(), Refusal> {
        let bytes = self.waiting_bytes + bundle.len();
        if self.waiting.len() >= tuning.waiting_bundles_max || bytes > tuning.waiting_bytes_max {
            return Err(Refusal::Full);
        }
        self.waiting_bytes = bytes;
        self.waiting.push_back(Waiting { bundle, since: now });
        Ok(())
    }

    /// How many bundles wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len() + self.retries.len()
    }

    /// The highest decree that was proposed.
    #[must_use]
    pub fn proposed(&self) -> Decree {
        self.proposed
    }

    /// Makes the next batch, if something waits and a slot is free, and says since when its first bundle waited. `progress`
    /// is what f+1 learners acknowledged. The caller logs the proposal before it says it.
    pub fn next(
        &mut self,
        now: Time,
        progress: Decree,
        in_flight_max: u64,
        bytes_max: usize,
        pool: &Pool,
        scope: &Scope,
    ) -> Option<(Decree, Batch, Time)> {
        let decree = self.proposed.next();
        let free = self.proposed.since(progress) < in_flight_max && self.slots.contains(decree);
        if self.waiting() == 0 || !free {
            return None;
        }
        while let Some(bundle) = self.retries.pop_back() {
            self.waiting_bytes += bundle.len();
            self.waiting.push_front(Waiting { bundle, since: now });
        }
        self.retries_bytes = 0;
        let since = self.waiting.front().map_or(now, |first| first.since);
        let batch = Batch::assemble(pool, scope, &mut self.waiting, bytes_max);
        self.waiting_bytes -= batch.bundles_len();
        self.proposed = decree;
        let slot = self.slots.get_mut(decree).expect("the decree is open");
        *slot = Slot {
            batch: Some(batch.clone()),
            ..Slot::default()
        };
        Some((decree, batch, since))
    }

    /// The next decree, if a slot is free, to be filled with nothing: the caller proposes a NOOP for it.
    pub fn fill(&mut self, progress: Decree, in_flight_max: u64) -> Option<Decree> {
        let decree = self.proposed.next();
        let free = self.proposed.since(progress) < in_flight_max && self.slots.contains(decree);
        if free {
            self.proposed = decree;
        }
        free.then_some(decree)
    }

    /// Takes a bundle that many send at the same time (a retry, or a relay of one): each once in a regency.
    ///
    /// # Errors
    /// [`Refusal::Full`] if too much waits already.
    pub fn submit_once(&mut self, bundle: Bundle, tuning: &Tuning) -> Result<(), Refusal> {
        let digest = bundle.digest();
        if self.seen.contains(&digest) {
            return Ok(());
        }
        let bytes = self.retries_bytes + bundle.len();
        if self.retries.len() >= tuning.waiting_bundles_max || bytes > tuning.waiting_bytes_max {
            return Err(Refusal::Full);
        }
        self.retries_bytes = bytes;
        self.retries.push_back(bundle);
        if self.seen.len() >= SEEN_MAX {
            self.seen.clear();
        }
        self.seen.insert(digest);
        Ok(())
    }

    /// Forgets that a retry was taken, so that it is taken again; whether it had been taken.
    pub fn forget(&mut self, digest: &Digest) -> bool {
        self.seen.remove(digest)
    }

    /// Another proposer leads: what was proposed is its business now, and clients send to it again.
    pub fn step_down(&mut self) {
        for decree in self.slots.decrees() {
            self.slots
                .get_mut(decree)
                .expect("a decree of the window")
                .reset();
        }
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.retries.clear();
        self.retries_bytes = 0;
        self.seen.clear();
        self.resend = Earliest::default();
    }

    /// A new leader proposes again what the plan says of an open decree.
    pub fn recover(&mut self, decree: Decree, batch: Batch) {
        if let Some(slot) = self.slots.get_mut(decree) {
            *slot = Slot {
                batch: Some(batch),
                ..Slot::default()
            };
        }
    }

    /// A new leader goes on above `top`.
    pub fn begin(&mut self, top: Decree) {
        self.proposed = top;
    }

    /// The proposal was said for the first time.
    pub fn said(&mut self, decree: Decree, now: Time) {
        if let Some(slot) = self.slots.get_mut(decree) {
            (slot.said, slot.resend) = (now, Resend::said(now, self.pace));
            self.resend.note(&slot.resend);
        }
    }

    /// n_l − f learners acknowledged everything up to `decree`: so long do acknowledgements take.
    pub fn acknowledged(&mut self, decree: Decree, now: Time) {
        if decree <= self.acknowledged {
            return;
        }
        self.acknowledged = decree;
        if let Some(slot) = self.slots.get(decree).filter(|slot| slot.resend.is_first()) {
            self.pace.answered(slot.said, now);
        }
    }

    /// When [`Proposer::say_again`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.resend.at()
    }

    /// Gives every proposal that is due. Those up to `done` need no more saying.
    pub fn say_again(&mut self, now: Time, done: Decree, mut say: impl FnMut(Decree, &Batch)) {
        let mut next = Earliest::default();
        for decree in self.slots.decrees() {
            let slot = self.slots.get_mut(decree).expect("a decree of the window");
            let Some(batch) = &slot.batch else { continue };
            if decree <= done {
                slot.resend.stop();
            } else {
                let first = slot.resend.is_first();
                if slot.resend.due(now, self.pace) {
                    say(decree, batch);
                    if first {
                        self.pace.ran_out(slot.said, now);
                    }
                }
            }
            next.note(&slot.resend);
        }
        self.resend = next;
    }

    /// What it proposed for an open decree.
    #[must_use]
    pub fn proposal(&self, decree: Decree) -> Option<&Batch> {
        self.slots.get(decree)?.batch.as_ref()
    }

    /// What it proposed for open decrees, ascending.
    #[must_use]
    pub fn proposals(&self) -> Vec<(Decree, Batch)> {
        let proposal = |decree| Some((decree, self.proposal(decree)?.clone()));
        self.slots.decrees().filter_map(proposal).collect()
    }

    /// Forgets the tagged bundles of a client that wait: it is to send them again, signed.
    pub fn drop_tagged(&mut self, client: ClientId) {
        let Proposer {
            waiting,
            waiting_bytes,
            retries,
            retries_bytes,
            seen,
            ..
        } = self;
        let mut stays = |bundle: &Bundle, bytes: &mut usize| {
            let view = bundle.view();
            let tagged = matches!(view.authenticator, Authenticator::Mac(_));
            let drop = tagged && view.client == client;
            if drop {
                *bytes -= bundle.len();
                // The signed form has the same digest.
                seen.remove(&bundle.digest());
            }
            !drop
        };
        waiting.retain(|one| stays(&one.bundle, waiting_bytes));
        retries.retain(|bundle| stays(bundle, retries_bytes));
    }

    /// A body that it proposed.
    #[must_use]
    pub fn body(&self, decree: Decree, value: Value) -> Option<&Batch> {
        self.slots
            .get(decree)?
            .batch
            .as_ref()
            .filter(|batch| batch.value() == value)
    }

    /// Moves the window up to a certified checkpoint.
    pub fn advance(&mut self, low: Decree) {
        self.slots.advance(low);
        self.proposed = self.proposed.max(low);
    }
}
