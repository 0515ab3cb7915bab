//! The message pattern under load: who tells whom, at which counts, in how many bytes.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use twostep_engine::configuration::{Configuration, Limits};
use twostep_engine::types::{NodeSet, Regency};

use super::trace::{Kind, Trace};

/// Bytes of a message that grows with the operations in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Without any.
    pub fixed: usize,
    /// For each.
    pub per_operation: usize,
}

impl Size {
    /// The line through the sizes with one operation and with `count`.
    fn through(one: usize, many: usize, count: usize) -> Size {
        let per_operation = many.saturating_sub(one) / (count - 1);
        Size {
            fixed: one.saturating_sub(per_operation),
            per_operation,
        }
    }

    /// For so many operations.
    #[must_use]
    pub fn of(self, operations: u32) -> usize {
        self.fixed + self.per_operation * operations as usize
    }
}

/// What a process of the floor has to know under load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pattern {
    /// The node that batches.
    pub leader: usize,
    /// Who votes.
    pub acceptors: Vec<usize>,
    /// Who learns and answers.
    pub learners: Vec<usize>,
    /// Whom each learner tells what it has learned.
    pub proposers: Vec<usize>,
    /// Votes that decide a decree.
    pub learn: usize,
    /// Answers that end an operation.
    pub reply: usize,
    /// Learners whose acknowledgement frees a slot.
    pub progress: usize,
    /// Slots: decrees proposed and not yet acknowledged by `progress` learners.
    pub in_flight: u64,
    /// Decrees that are open at once.
    pub window: u64,
    /// Most bytes of the bundles in one decree.
    pub body_bytes_max: usize,
    /// A bundle on its way to the leader.
    pub submit: Size,
    /// What a proposal has beside its bundles.
    pub propose_more: usize,
    /// A vote.
    pub accepted: usize,
    /// An acknowledgement.
    pub ack: usize,
    /// How long acknowledgements to others than the leader wait for more of them.
    pub ack_delay: Duration,
    /// The answers of each learner, in the order of `learners`: one may send full replies, and others digests.
    pub replies: Vec<Size>,
}

impl Pattern {
    /// Takes quorums and limits from the configuration, and sizes from recordings with one operation and with `count` in
    /// one bundle. `in_flight` and `t0` are what the real nodes are told.
    ///
    /// # Panics
    /// When a recording lacks a message that every operation needs.
    #[must_use]
    pub fn new(
        configuration: &Configuration,
        in_flight: u64,
        t0: Duration,
        one: &Trace,
        many: &Trace,
        count: usize,
    ) -> Pattern {
        let size = |kind: Kind, from: Option<usize>| {
            let bytes = |trace: &Trace| {
                let mut messages = trace.messages(kind);
                let found = messages.find(|(sender, _)| from.is_none_or(|from| from == *sender));
                found.expect("every operation has it").1.bytes
            };
            Size::through(bytes(one), bytes(many), count)
        };
        let numbers = |nodes: NodeSet| -> Vec<usize> {
            nodes.iter().map(|node| usize::from(node.0)).collect()
        };
        let quorums = configuration.quorums();
        let learners = numbers(configuration.learners());
        let (submit, propose) = (size(Kind::Submit, None), size(Kind::Propose, None));
        let limits: &Limits = configuration.limits();
        Pattern {
            leader: usize::from(configuration.leader(Regency(0)).0),
            acceptors: numbers(configuration.acceptors()),
            proposers: numbers(configuration.proposers().iter().copied().collect()),
            learn: quorums.learn,
            reply: quorums.reply,
            progress: quorums.progress,
            in_flight,
            window: limits.window,
            body_bytes_max: limits.body_bytes_max as usize,
            submit,
            propose_more: propose.of(1).saturating_sub(submit.of(1)),
            accepted: size(Kind::Accepted, None).of(1),
            ack: size(Kind::Ack, None).of(1),
            ack_delay: t0 / 8,
            replies: learners
                .iter()
                .map(|learner| size(Kind::Replies, Some(*learner)))
                .collect(),
            learners,
        }
    }

    /// Most operations in one bundle.
    #[must_use]
    pub fn bundle_max(&self) -> u32 {
        let room = self.body_bytes_max.saturating_sub(self.submit.fixed);
        let most = room / self.submit.per_operation.max(1);
        u32::try_from(most).unwrap_or(u32::MAX).max(1)
    }

    /// Everybody but `me` among `nodes`.
    pub fn others(nodes: &[usize], me: usize) -> impl Iterator<Item = usize> {
        nodes.iter().copied().filter(move |node| *node != me)
    }
}
