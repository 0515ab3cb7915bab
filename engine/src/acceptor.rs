//! The acceptor: votes, at most one value per regency and decree.
//!
//! | event | rule (PROTOCOL.md section 3) |
//! |---|---|
//! | `Propose(r, d, v)` | vote iff `r` is the promised regency and its plan is held, `d` is open, there is no other vote in `r` for `d`, the plan allows `v`, and the body is held and authentic |
//! | `Stored(vote)` | send `Accepted(r, d, v)` to every learner |
//! | T0/4 … T0 | again, to each learner that has not acknowledged `d` |
//! | certificate c | `low := c`; everything at and below c is pruned |
//!
//! *One value per regency*: a correct acceptor votes once per `(r, d)`, and two learn quorums share one, so two
//! values cannot both be learned in one regency. *Anchoring* across regencies rests on the report being a
//! promise for every lower regency: [`vote_rule`] refuses anything below it.
//!
//! Cost: one record and one message to each learner per decree; one signature per leader change, none before.
//!
//! [`vote_rule`]: crate::rules::vote_rule

use std::time::Duration;

use crate::batch::Batch;
use crate::machine::Refusal;
use crate::message::ReportedVote;
use crate::quorum::{Choice, Reported};
use crate::resend::{Earliest, Resend};
use crate::rules::{Ballot, Rules, Verdict};
use crate::types::{Decree, Regency, Time, Value};
use crate::voucher::Plan;
use crate::window::{Reset, Window};

/// The state of one acceptor.
#[derive(Debug)]
pub struct Acceptor {
    promised: Regency,
    /// What it may vote for in its regency; none while the voucher has not been seen.
    plan: Option<Plan>,
    slots: Window<Slot>,
    /// When the first slot is to be said again.
    resend: Earliest,
}

#[derive(Debug, Default)]
struct Slot {
    vote: Option<Reported>,
    batch: Option<Batch>,
    /// Whether the vote was said: it is durable and may be repeated to whoever asks.
    said: bool,
    resend: Resend,
}

impl Reset for Slot {
    fn reset(&mut self) {
        *self = Slot::default();
    }
}

impl Acceptor {
    /// A fresh acceptor: regency 0 needs no voucher, so everything is free.
    #[must_use]
    pub fn new(window: u64) -> Acceptor {
        Acceptor {
            promised: Regency(0),
            plan: Some(Plan::open()),
            slots: Window::new(Decree::NONE, window, Slot::default),
            resend: Earliest::default(),
        }
    }

    /// An acceptor as its journal tells it: what it promised, and its votes above `low`, which were said, or may have been,
    /// and are said again until they are acknowledged. The plan of its regency is unknown, unless nothing binds there.
    #[must_use]
    pub fn restore(
        window: u64,
        low: Decree,
        promised: Regency,
        plan: Option<Plan>,
        votes: impl Iterator<Item = (Decree, Regency, Batch)>,
    ) -> Acceptor {
        let mut acceptor = Acceptor {
            promised,
            plan,
            slots: Window::new(low, window, Slot::default),
            resend: Earliest::default(),
        };
        for (decree, regency, batch) in votes {
            acceptor.vote(regency, decree, batch);
            let slot = acceptor.slots.get_mut(decree).expect("just voted there");
            (slot.said, slot.resend) = (true, Resend::overdue());
            acceptor.resend.note(&slot.resend);
        }
        acceptor
    }

    /// Its votes for open decrees, ascending.
    pub fn votes(&self) -> impl Iterator<Item = (Decree, Reported)> + '_ {
        let vote = |decree| Some((decree, self.slots.get(decree)?.vote?));
        self.slots.decrees().filter_map(vote)
    }

    /// The regency that it promised.
    #[must_use]
    pub fn promised(&self) -> Regency {
        self.promised
    }

    /// Whether it holds the plan of its regency.
    #[must_use]
    pub fn plan_held(&self) -> bool {
        self.plan.is_some()
    }

    /// What the rule says of a proposal, before anything is spent on its body.
    ///
    /// # Errors
    /// Why the acceptor does not vote.
    pub fn judge<R: Rules>(
        &self,
        rules: &R,
        regency: Regency,
        decree: Decree,
        value: Value,
    ) -> Result<Verdict, Refusal> {
        let slot = self.slots.get(decree).ok_or(Refusal::OutsideWindow)?;
        // The base of the plan is certified, so everything up to it is decided and the plan says nothing of it. The
        // own window is still below while the record of that certificate is on its way to the disk.
        let base = self.plan.as_ref().map_or(Decree::NONE, Plan::base);
        if regency == self.promised && decree <= base {
            return Err(Refusal::OutsideWindow);
        }
        let ballot = Ballot {
            promised: self.promised,
            plan: self.plan.as_ref().map(|plan| plan.choice(decree)),
            vote: slot.vote,
        };
        rules.vote(&ballot, regency, value)
    }

    /// Casts the vote that [`Acceptor::judge`] allowed; the caller makes it durable before it is said.
    pub fn vote(&mut self, regency: Regency, decree: Decree, batch: Batch) {
        let slot = self
            .slots
            .get_mut(decree)
            .expect("judged before: the decree is open");
        *slot = Slot {
            vote: Some(Reported {
                psn: regency,
                value: batch.value(),
            }),
            batch: Some(batch),
            said: false,
            resend: Resend::default(),
        };
    }

    /// The vote of this regency was said for the first time: from now on it is said again until it is
    /// acknowledged. A vote of a higher regency, which is not yet durable, is not.
    pub fn said(&mut self, regency: Regency, decree: Decree, now: Time, t0: Duration) {
        if let Some(slot) = self.slots.get_mut(decree)
            && slot.vote.is_some_and(|vote| vote.psn == regency)
        {
            (slot.said, slot.resend) = (true, Resend::said(now, t0));
            self.resend.note(&slot.resend);
        }
    }

    /// Its newest vote for an open decree, said or not.
    #[must_use]
    pub fn vote_for(&self, decree: Decree) -> Option<Reported> {
        self.slots.get(decree)?.vote
    }

    /// Whether the vote for an open decree was said: it is durable and may be repeated to whoever asks.
    #[must_use]
    pub fn has_said(&self, decree: Decree) -> bool {
        self.slots.get(decree).is_some_and(|slot| slot.said)
    }

    /// When [`Acceptor::say_again`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.resend.at()
    }

    /// Gives every vote that is due, and forgets those that `acknowledged` says need no more saying.
    pub fn say_again(
        &mut self,
        now: Time,
        t0: Duration,
        acknowledged: impl Fn(Decree) -> bool,
        mut say: impl FnMut(Decree, Reported),
    ) {
        let mut next = Earliest::default();
        for decree in self.slots.decrees() {
            let slot = self.slots.get_mut(decree).expect("a decree of the window");
            let Some(vote) = slot.vote.filter(|_| slot.resend.at().is_some()) else {
                continue;
            };
            if acknowledged(decree) {
                slot.resend.stop();
            } else if slot.resend.due(now, t0) {
                say(decree, vote);
            }
            next.note(&slot.resend);
        }
        self.resend = next;
    }

    /// A body that it holds.
    #[must_use]
    pub fn body(&self, decree: Decree, value: Value) -> Option<&Batch> {
        self.slots
            .get(decree)?
            .batch
            .as_ref()
            .filter(|batch| batch.value() == value)
    }

    /// Promises never to vote below `regency`, and gives the votes that the report must name.
    ///
    /// # Panics
    /// If the regency is not above the promised one: a promise is made once.
    pub fn promise(&mut self, regency: Regency) -> Vec<ReportedVote> {
        assert!(regency > self.promised, "promises rise");
        self.promised = regency;
        self.plan = None;
        let report = |(decree, vote): (Decree, Reported)| ReportedVote {
            decree,
            psn: vote.psn,
            value: vote.value,
        };
        self.votes().map(report).collect()
    }

    /// Takes the plan of the promised regency. A second one is ignored: the first stays.
    pub fn adopt(&mut self, plan: Plan) {
        self.plan.get_or_insert(plan);
    }

    /// Whether the plan binds a decree: then a correct acceptor has checked its requests already.
    #[must_use]
    pub fn bound(&self, decree: Decree) -> bool {
        self.plan
            .as_ref()
            .is_some_and(|plan| matches!(plan.choice(decree), Choice::Must(_)))
    }

    /// Moves the window up to a certified checkpoint and prunes what falls out.
    pub fn advance(&mut self, low: Decree) {
        self.slots.advance(low);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Certificate;
    use crate::rules::Standard;
    use crate::types::Digest;

    const A: Value = Value(Digest([1; 32]));
    const B: Value = Value(Digest([2; 32]));

    fn noop() -> Batch {
        use crate::types::{ClusterId, Epoch};
        Batch::noop(&twostep_crypto::Scope::new(ClusterId([0; 32]), Epoch(0)))
    }

    fn must(decree: u64, value: Value) -> Plan {
        Plan {
            top: Decree(decree),
            choices: [(Decree(decree), Choice::Must(value))].into(),
            ..Plan::open()
        }
    }

    #[test]
    fn a_second_plan_of_a_regency_is_ignored() {
        let mut acceptor = Acceptor::new(8);
        acceptor.promise(Regency(1));
        let judge =
            |acceptor: &Acceptor, value| acceptor.judge(&Standard, Regency(1), Decree(1), value);
        assert!(!acceptor.plan_held());
        assert_eq!(judge(&acceptor, A), Err(Refusal::NoPlan));
        acceptor.adopt(must(1, A));
        acceptor.adopt(must(1, B));
        acceptor.adopt(Plan::open());
        assert_eq!(judge(&acceptor, A), Ok(Verdict::Vote));
        assert_eq!(judge(&acceptor, B), Err(Refusal::AgainstPlan));
        assert!(acceptor.bound(Decree(1)) && !acceptor.bound(Decree(2)));

        acceptor.promise(Regency(2));
        assert!(!acceptor.plan_held(), "a plan serves one regency");
        assert!(!acceptor.bound(Decree(1)));
    }

    #[test]
    fn a_promise_names_every_open_vote_and_covers_every_decree() {
        let mut acceptor = Acceptor::new(8);
        let noop = noop();
        for decree in [3, 1, 8] {
            acceptor.vote(Regency(0), Decree(decree), noop.clone());
        }
        acceptor.advance(Decree(2));
        let named = |votes: Vec<ReportedVote>| -> Vec<(u64, u64)> {
            let name = |vote: &ReportedVote| (vote.decree.0, vote.psn.0);
            votes.iter().map(name).collect()
        };
        assert_eq!(named(acceptor.promise(Regency(2))), [(3, 0), (8, 0)]);
        for decree in 3..=10 {
            // PROTOCOL.md section 6, S1 and L4: voted or not, nothing below the promise.
            for regency in [0, 1] {
                assert_eq!(
                    acceptor.judge(&Standard, Regency(regency), Decree(decree), noop.value()),
                    Err(Refusal::OldRegency)
                );
            }
        }
        acceptor.adopt(Plan::open());
        acceptor.vote(Regency(2), Decree(8), noop.clone());
        assert_eq!(named(acceptor.promise(Regency(7))), [(3, 0), (8, 2)]);
        assert_eq!(acceptor.promised(), Regency(7));
    }

    #[test]
    fn what_the_plan_knows_to_be_certified_is_closed_before_the_window_moves() {
        // Such a decree is decided, and its votes are pruned at most acceptors: a plan would call anything free.
        let mut acceptor = Acceptor::new(8);
        acceptor.promise(Regency(1));
        acceptor.adopt(Plan {
            low: Some(Certificate {
                decree: Decree(4),
                chain: Digest([3; 32]),
                voices: Vec::new(),
            }),
            top: Decree(4),
            ..Plan::open()
        });
        let judge = |decree| acceptor.judge(&Standard, Regency(1), Decree(decree), A);
        assert_eq!(judge(4), Err(Refusal::OutsideWindow));
        assert_eq!(judge(5), Ok(Verdict::Vote));
    }

    #[test]
    #[should_panic(expected = "promises rise")]
    fn a_promise_is_made_once() {
        let mut acceptor = Acceptor::new(8);
        acceptor.promise(Regency(2));
        acceptor.promise(Regency(2));
    }
}
