//! The learner: counts votes, keeps the order, tells others.
//!
//! | event | rule (PROTOCOL.md section 3) |
//! |---|---|
//! | `Accepted(r, d, v)` from a learn quorum | `d` is decided: `v` |
//! | `Pulled` values, equal from f+1 learners | decided as well |
//! | decided and the body is held, in decree order | learned: it joins the log, is delivered, and acknowledged |
//! | a gap, every T0/4 | `Pull` values from all learners, `Fetch` bodies from anyone: the digest proves them |
//!
//! Memory is bounded: a slot for each decree in `(learned, learned + W]`, in it one ballot per acceptor (that of
//! its highest regency) and one answer per learner. Votes count only together with votes of the same
//! regency: counting values over different regencies breaks agreement (PROTOCOL.md section 6, S6).

use twostep_crypto::{Context, Scope};

use crate::batch::Batch;
use crate::log::Log;
use crate::machine::Path;
use crate::quorum::Reported;
use crate::rules::Rules;
use crate::types::{Decree, Digest, NodeId, Regency, Value};
use crate::window::{Reset, Window};

/// The state of one learner.
#[derive(Debug)]
pub struct Learner {
    slots: Window<Slot>,
    log: Log,
    chain: Digest,
    highest_decided: Decree,
    scope: Scope,
    learn_quorum: usize,
    pull_quorum: usize,
}

#[derive(Debug)]
struct Slot {
    /// By node: the vote of its highest regency.
    ballots: Box<[Option<Reported>]>,
    /// By node: what it answered to a pull.
    answers: Box<[Option<Value>]>,
    decided: Option<(Value, Path)>,
    /// A body, with the regency that proposed it.
    batch: Option<(Regency, Batch)>,
}

impl Reset for Slot {
    fn reset(&mut self) {
        self.ballots.fill(None);
        self.answers.fill(None);
        self.decided = None;
        self.batch = None;
    }
}

/// A decree that was just learned.
#[derive(Debug)]
pub struct Learned {
    /// Which one.
    pub decree: Decree,
    /// What, body included.
    pub batch: Batch,
    /// How.
    pub path: Path,
}

impl Learner {
    /// A learner that has learned nothing, in a cluster of `nodes` nodes.
    #[must_use]
    pub fn new(
        scope: &Scope,
        window: u64,
        nodes: usize,
        quorums: (usize, usize),
        log: Log,
    ) -> Learner {
        let slot = || Slot {
            ballots: vec![None; nodes].into(),
            answers: vec![None; nodes].into(),
            decided: None,
            batch: None,
        };
        Learner {
            slots: Window::new(Decree::NONE, window, slot),
            log,
            chain: Digest::ZERO,
            highest_decided: Decree::NONE,
            scope: scope.clone(),
            learn_quorum: quorums.0,
            pull_quorum: quorums.1,
        }
    }

    /// The highest decree up to which everything is learned, bodies included.
    #[must_use]
    pub fn learned(&self) -> Decree {
        self.slots.base()
    }

    /// The running digest of the order up to [`Learner::learned`]: `chain_d = H(chain_{d−1}, d, v)`.
    #[must_use]
    pub fn chain(&self) -> Digest {
        self.chain
    }

    /// Whether a decree is open here: above what is learned and inside the window.
    #[must_use]
    pub fn open(&self, decree: Decree) -> bool {
        self.slots.contains(decree)
    }

    /// Takes a vote; true if it decided the decree.
    pub fn accepted<R: Rules>(
        &mut self,
        rules: &R,
        acceptor: NodeId,
        regency: Regency,
        decree: Decree,
        value: Value,
    ) -> bool {
        let quorum = self.learn_quorum;
        let vote = Reported {
            psn: regency,
            value,
        };
        let Some(slot) = self
            .slots
            .get_mut(decree)
            .filter(|slot| slot.decided.is_none())
        else {
            return false;
        };
        let Some(ballot) = slot.ballots.get_mut(usize::from(acceptor.0)) else {
            return false;
        };
        if ballot.is_some_and(|newest| newest.psn >= regency) {
            return false;
        }
        *ballot = Some(vote);
        let ballots = slot.ballots.iter().flatten();
        let equal = ballots.filter(|told| rules.counts(**told, vote)).count();
        if equal >= quorum {
            slot.decided = Some((value, Path::Votes));
            self.highest_decided = self.highest_decided.max(decree);
        }
        equal >= quorum
    }

    /// Takes another learner's answer to a pull; true if it decided the decree, or is the first to name the value
    /// of one that votes had decided: in both cases its sender has the body.
    pub fn pulled(&mut self, learner: NodeId, decree: Decree, value: Value) -> bool {
        let quorum = self.pull_quorum;
        let Some(slot) = self.slots.get_mut(decree) else {
            return false;
        };
        let Some(answer) = slot.answers.get_mut(usize::from(learner.0)) else {
            return false;
        };
        let before = answer.replace(value);
        let equal = slot
            .answers
            .iter()
            .filter(|answer| **answer == Some(value))
            .count();
        if let Some((decided, _)) = slot.decided {
            return decided == value && before != Some(value) && equal == 1;
        }
        if equal >= quorum {
            slot.decided = Some((value, Path::Pull));
            self.highest_decided = self.highest_decided.max(decree);
        }
        equal >= quorum
    }

    /// Whether a body is of use: the decree is open, and it is the decided one or the first of its regency. A
    /// second body of one regency does not drive out the first: a liar could make learners fetch for ever.
    #[must_use]
    pub fn wants(&self, regency: Regency, decree: Decree, value: Value) -> bool {
        self.slots
            .get(decree)
            .is_some_and(|slot| match (slot.decided, &slot.batch) {
                (Some((decided, _)), held) => {
                    decided == value
                        && held
                            .as_ref()
                            .is_none_or(|(_, batch)| batch.value() != value)
                }
                (None, Some((held_of, _))) => *held_of < regency,
                (None, None) => true,
            })
    }

    /// Whether a decree is decided for this value and its body is not held.
    #[must_use]
    pub fn lacks_body(&self, decree: Decree, value: Value) -> bool {
        self.slots.get(decree).is_some_and(|slot| {
            let held = slot
                .batch
                .as_ref()
                .is_some_and(|(_, batch)| batch.value() == value);
            slot.decided.is_some_and(|(decided, _)| decided == value) && !held
        })
    }

    /// Whether the body that is held for a decree is not the one of this value.
    #[must_use]
    pub fn holds_another_body(&self, decree: Decree, value: Value) -> bool {
        let held = self.slots.get(decree).and_then(|slot| slot.batch.as_ref());
        held.is_some_and(|(_, batch)| batch.value() != value)
    }

    /// Keeps a body that it wants.
    pub fn keep(&mut self, regency: Regency, decree: Decree, batch: Batch) {
        if let Some(slot) = self.slots.get_mut(decree) {
            slot.batch = Some((regency, batch));
        }
    }

    /// The next decree, if only its body is lacking.
    #[must_use]
    pub fn waits_for_body(&self) -> Option<(Decree, Value)> {
        let decree = self.learned().next();
        let (value, _) = self.slots.get(decree)?.decided?;
        self.lacks_body(decree, value).then_some((decree, value))
    }

    /// The decrees above what is learned whose value is decided and whose body is not held, ascending.
    pub fn lacking_bodies(&self) -> impl Iterator<Item = (Decree, Value)> + '_ {
        self.slots.decrees().filter_map(|decree| {
            let slot = self.slots.get(decree)?;
            let (value, _) = slot.decided?;
            let held = slot
                .batch
                .as_ref()
                .is_some_and(|(_, batch)| batch.value() == value);
            (!held).then_some((decree, value))
        })
    }

    /// The highest decree that was ever decided here: if it is above what is learned, there is a gap.
    #[must_use]
    pub fn highest_decided(&self) -> Decree {
        self.highest_decided
    }

    /// The learners that answered a pull with this value, for a fetch.
    pub fn answered(&self, decree: Decree, value: Value) -> impl Iterator<Item = NodeId> + '_ {
        let answers = self.slots.get(decree).map(|slot| &slot.answers);
        answers.into_iter().flat_map(move |answers| {
            let matching = answers
                .iter()
                .enumerate()
                .filter(move |(_, answer)| **answer == Some(value));
            matching.map(|(node, _)| NodeId(u16::try_from(node).expect("at most NODES_MAX nodes")))
        })
    }

    /// Learns the next decree, if it is decided and its body is held.
    pub fn advance(&mut self) -> Option<Learned> {
        let decree = self.learned().next();
        let slot = self.slots.get_mut(decree)?;
        let (value, path) = slot.decided?;
        let (_, batch) = slot.batch.take_if(|(_, batch)| batch.value() == value)?;
        self.slots.advance(decree);
        self.chain = chain(&self.scope, self.chain, decree, value);
        self.log.push(decree, batch.clone());
        Some(Learned {
            decree,
            batch,
            path,
        })
    }

    /// Begins anew above `decree`: a certified snapshot, whose chain this is, holds everything up to it. Nothing happens if
    /// that much is learned already.
    pub fn resume(&mut self, decree: Decree, chain: Digest) {
        if decree <= self.learned() {
            return;
        }
        self.slots.advance(decree);
        self.log.resume(decree);
        self.chain = chain;
        self.highest_decided = self.highest_decided.max(decree);
    }

    /// Learns again what the journal says was learned before this node started.
    ///
    /// # Panics
    /// If it is not the next decree.
    pub fn relearn(&mut self, decree: Decree, batch: Batch) {
        assert_eq!(decree, self.learned().next(), "learners learn in order");
        self.slots.advance(decree);
        self.chain = chain(&self.scope, self.chain, decree, batch.value());
        self.log.push(decree, batch);
        self.highest_decided = self.highest_decided.max(decree);
    }

    /// What was learned and is still kept.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Two certified snapshots hold everything up to `decree`: others need it no more.
    pub fn cover(&mut self, decree: Decree) {
        self.log.cover(decree);
    }

    /// Everything up to `decree` was executed here: the log's bounds may drop it.
    pub fn release(&mut self, decree: Decree) {
        self.log.release(decree);
    }

    /// Others are about to ask for what is above `decree`; nobody is if none.
    pub fn hold(&mut self, decree: Option<Decree>) {
        self.log.hold(decree);
    }

    /// A body that it holds: learned, or kept for an open decree.
    #[must_use]
    pub fn body(&self, decree: Decree, value: Value) -> Option<&Batch> {
        let kept = self
            .slots
            .get(decree)
            .and_then(|slot| slot.batch.as_ref())
            .map(|(_, batch)| batch);
        kept.or_else(|| self.log.get(decree))
            .filter(|batch| batch.value() == value)
    }
}

/// The next link of the chain: what a checkpoint says of the whole order in 32 bytes.
#[must_use]
pub fn chain(scope: &Scope, before: Digest, decree: Decree, value: Value) -> Digest {
    let mut hasher = scope.hasher(Context::Chain);
    hasher
        .update(&before.0)
        .update(&decree.0.to_le_bytes())
        .update(&value.0.0);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Standard;
    use crate::types::{ClusterId, Epoch};

    fn learner() -> (Learner, Batch) {
        let scope = Scope::new(ClusterId([1; 32]), Epoch(0));
        let batch = Batch::noop(&scope);
        (
            Learner::new(&scope, 8, 6, (5, 2), Log::new(64, 1 << 20)),
            batch,
        )
    }

    #[test]
    fn a_vote_counts_once_and_only_with_its_regency() {
        let (mut learner, batch) = learner();
        let value = batch.value();
        for _ in 0..6 {
            assert!(
                !learner.accepted(&Standard, NodeId(0), Regency(0), Decree(1), value),
                "one acceptor, one vote"
            );
        }
        for node in 1..4 {
            assert!(!learner.accepted(&Standard, NodeId(node), Regency(0), Decree(1), value));
        }
        assert!(
            !learner.accepted(&Standard, NodeId(4), Regency(1), Decree(1), value),
            "another regency: S6"
        );
        assert!(
            learner.accepted(&Standard, NodeId(5), Regency(0), Decree(1), value),
            "the fifth equal vote decides"
        );
    }

    #[test]
    fn an_old_vote_does_not_replace_a_newer_one() {
        let (mut learner, batch) = learner();
        let value = batch.value();
        learner.accepted(&Standard, NodeId(0), Regency(2), Decree(1), value);
        for node in 0..4 {
            assert!(!learner.accepted(&Standard, NodeId(node), Regency(1), Decree(1), value));
        }
        assert!(
            !learner.accepted(&Standard, NodeId(4), Regency(1), Decree(1), value),
            "node 0 stands at regency 2"
        );
    }

    #[test]
    fn learning_is_in_order_and_needs_the_body() {
        let (mut learner, batch) = learner();
        let value = batch.value();
        for decree in [2, 1] {
            for node in 0..5 {
                learner.accepted(&Standard, NodeId(node), Regency(0), Decree(decree), value);
            }
        }
        assert!(learner.advance().is_none(), "no body yet");
        learner.keep(Regency(0), Decree(2), batch.clone());
        assert!(learner.advance().is_none(), "decree 1 comes first");
        assert_eq!(
            learner.lacking_bodies().collect::<Vec<_>>(),
            [(Decree(1), value)]
        );
        learner.keep(Regency(0), Decree(1), batch);
        assert_eq!(learner.advance().unwrap().decree, Decree(1));
        assert_eq!(learner.advance().unwrap().decree, Decree(2));
        assert_eq!(learner.learned(), Decree(2));
    }

    #[test]
    fn what_was_learned_before_makes_the_same_chain_and_a_snapshot_stands_for_it() {
        let (mut one, batch) = learner();
        let value = batch.value();
        let learn = |learner: &mut Learner, decree| {
            for node in 0..5 {
                learner.accepted(&Standard, NodeId(node), Regency(0), Decree(decree), value);
            }
            learner.keep(Regency(0), Decree(decree), batch.clone());
            assert_eq!(learner.advance().unwrap().decree, Decree(decree));
        };
        for decree in 1..=9 {
            learn(&mut one, decree);
        }
        let (mut again, _) = learner();
        for decree in 1..=9 {
            again.relearn(Decree(decree), batch.clone());
        }
        assert_eq!(
            (one.learned(), one.chain()),
            (again.learned(), again.chain())
        );
        assert!(!again.accepted(&Standard, NodeId(0), Regency(0), Decree(9), value));

        let (mut installed, _) = learner();
        installed.accepted(&Standard, NodeId(0), Regency(0), Decree(3), value);
        installed.resume(Decree(9), one.chain());
        assert_eq!(installed.log().base(), Decree(9));
        for learner in [&mut one, &mut again, &mut installed] {
            learn(learner, 10);
        }
        assert_eq!(one.chain(), again.chain());
        assert_eq!(one.chain(), installed.chain());
        installed.resume(Decree(9), Digest::ZERO);
        assert_eq!(installed.learned(), Decree(10), "it is further already");
    }

    #[test]
    fn a_pull_needs_distinct_learners() {
        let (mut learner, batch) = learner();
        assert!(!learner.pulled(NodeId(1), Decree(1), batch.value()));
        assert!(
            !learner.pulled(NodeId(1), Decree(1), batch.value()),
            "the same learner twice is one"
        );
        assert!(learner.pulled(NodeId(3), Decree(1), batch.value()));
    }

    #[test]
    fn answers_to_what_votes_decided_name_holders_of_the_body() {
        let (mut learner, batch) = learner();
        let value = batch.value();
        for node in 0..5 {
            learner.accepted(&Standard, NodeId(node), Regency(0), Decree(1), value);
        }
        assert!(
            learner.pulled(NodeId(2), Decree(1), value),
            "the first one is asked at once"
        );
        assert!(!learner.pulled(NodeId(2), Decree(1), value));
        assert!(!learner.pulled(NodeId(3), Decree(1), value));
        let holders: Vec<NodeId> = learner.answered(Decree(1), value).collect();
        assert_eq!(holders, [NodeId(2), NodeId(3)]);
    }
}
