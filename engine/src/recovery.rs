//! The way of a new leader: Following → Gathering → Leading.
//!
//! | state | event | rule (PROTOCOL.md section 3) |
//! |---|---|---|
//! | Following | `Pol(r)`, and r is mine | broadcast `Gather(r, Pol)` |
//! | Gathering | `Report` from n − f acceptors | compute the plan; fetch the bodies of the values it must propose |
//! | Gathering | all those bodies are held | log and broadcast `NewRegency(r)`; propose `select(d)` for `(H, top]` |
//! | Leading | | ordinary batches from top + 1 |
//! | any | a higher regency | Following |
//!
//! Nothing is proposed before Leading. One value per (r, d), ever: the plan is computed once, from the first n − f
//! valid reports. Cost: one gather, one report with one signature per acceptor, one voucher, whatever the window.

use std::collections::BTreeMap;

use crate::batch::Batch;
use crate::resend::Resend;
use crate::types::{Decree, NodeId, NodeSet, Regency, Value};
use crate::voucher::{CheckedReport, Plan, bound};

/// Where a proposer stands in its regency.
#[derive(Debug, Default)]
pub enum Lead {
    /// Somebody else leads, or nobody yet.
    #[default]
    Following,
    /// It collects reports and bodies.
    Gathering(Gathering),
    /// It proposes.
    Leading,
}

/// What a new leader has collected.
#[derive(Debug)]
pub struct Gathering {
    /// Its regency.
    pub regency: Regency,
    /// When to ask again for what is missing.
    pub resend: Resend,
    /// The reports so far, by acceptor; exactly a report quorum once `plan` is there.
    reports: BTreeMap<NodeId, CheckedReport>,
    plan: Option<Plan>,
    /// The bodies of the values that must be proposed.
    bodies: BTreeMap<Decree, Batch>,
}

impl Gathering {
    /// Nothing collected yet.
    #[must_use]
    pub fn new(regency: Regency, resend: Resend) -> Gathering {
        Gathering {
            regency,
            resend,
            reports: BTreeMap::new(),
            plan: None,
            bodies: BTreeMap::new(),
        }
    }

    /// Whether a report of this acceptor is of use: no signature is checked for one that is not.
    #[must_use]
    pub fn wants(&self, acceptor: NodeId) -> bool {
        self.plan.is_none() && !self.reports.contains_key(&acceptor)
    }

    /// Takes a report; true if it completes the voucher.
    pub fn take(&mut self, acceptor: NodeId, report: CheckedReport, quorum: usize) -> bool {
        self.reports.insert(acceptor, report);
        self.plan.is_none() && self.reports.len() == quorum
    }

    /// The reports, ascending by acceptor.
    #[must_use]
    pub fn voucher(&self) -> Vec<CheckedReport> {
        self.reports.values().cloned().collect()
    }

    /// Fixes the plan of a complete voucher.
    pub fn fix(&mut self, plan: Plan) {
        assert!(self.plan.is_none(), "one plan per regency");
        self.plan = Some(plan);
    }

    /// The plan, once the voucher is complete.
    #[must_use]
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// The bodies above `low` that are bound and not held, each with acceptors that reported to have it. What is
    /// certified needs no proposal, and acceptors may have pruned it.
    #[must_use]
    pub fn lacking(&self, low: Decree) -> Vec<(Decree, Value, NodeSet)> {
        let Some(plan) = &self.plan else {
            return Vec::new();
        };
        let reports: Vec<CheckedReport> = self.voucher();
        bound(plan, &reports)
            .filter(|(decree, _, _)| *decree > low && !self.bodies.contains_key(decree))
            .collect()
    }

    /// Whether a body is bound and not held.
    #[must_use]
    pub fn lacks(&self, decree: Decree, value: Value) -> bool {
        let choice = self
            .plan
            .as_ref()
            .and_then(|plan| plan.choices.get(&decree));
        choice == Some(&crate::quorum::Choice::Must(value)) && !self.bodies.contains_key(&decree)
    }

    /// Takes a body that is bound.
    pub fn keep(&mut self, decree: Decree, batch: Batch) {
        self.bodies.insert(decree, batch);
    }

    /// The body that must be proposed for a decree.
    #[must_use]
    pub fn body(&self, decree: Decree) -> Option<&Batch> {
        self.bodies.get(&decree)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoints;
    use crate::configuration::{Admission, Configuration, Limits, Member, Roles};
    use crate::message::{Report, ReportedVote};
    use crate::quorum::FaultModel;
    use crate::types::Party;
    use crate::voucher::Examiner;
    use twostep_crypto::{Identity, Signature, Signed};

    const R: Regency = Regency(1);

    /// Mode C with f = 1: two reports make a voucher, and one vote binds.
    fn configuration() -> Configuration {
        let member = |node| Member {
            roles: Roles::ALL,
            public: Identity::from_seed([node; 32]).public(),
        };
        let members = (0..3).map(member).collect();
        let limits = Limits::default();
        Configuration::new(
            FaultModel::Crash,
            1,
            members,
            limits,
            Admission::Link,
            [0; 16],
        )
        .unwrap()
    }

    /// Collects the reports of two acceptors that voted for `value` in these decrees, and fixes the plan.
    fn gathered(value: Value, decrees: [&[u64]; 2]) -> Gathering {
        let configuration = configuration();
        let quorums = configuration.quorums();
        let (examiner, checkpoints) = (
            Examiner::new(&configuration),
            Checkpoints::new(&configuration),
        );
        let mut gathering = Gathering::new(R, Resend::default());
        for (node, decrees) in (1..).map(NodeId).zip(decrees) {
            let vote = |decree: &u64| ReportedVote {
                decree: Decree(*decree),
                psn: Regency(0),
                value,
            };
            let report = Signed {
                signer: Party::Node(node),
                content: Report {
                    regency: R,
                    low: None,
                    votes: decrees.iter().map(vote).collect(),
                },
                signature: Signature([0; 64]),
            };
            let report = examiner.report(report, R, &checkpoints).unwrap();
            assert!(gathering.wants(node) && gathering.plan().is_none());
            let complete = gathering.take(node, report, quorums.report);
            assert_eq!(complete, node == NodeId(2), "two make a voucher");
            assert!(!gathering.wants(node), "each reports once");
        }
        let plan = Plan::of(quorums, configuration.limits().window, &gathering.voucher());
        gathering.fix(plan);
        gathering
    }

    fn noop() -> Batch {
        Batch::noop(&configuration().scope())
    }

    #[test]
    fn a_complete_voucher_wants_no_more_reports() {
        let gathering = gathered(noop().value(), [&[], &[1]]);
        assert!((0..3).map(NodeId).all(|node| !gathering.wants(node)));
        assert_eq!(gathering.plan().map(|plan| plan.top), Some(Decree(1)));
    }

    #[test]
    #[should_panic(expected = "one plan per regency")]
    fn there_is_one_plan_per_regency() {
        gathered(noop().value(), [&[], &[]]).fix(Plan::open());
    }

    #[test]
    fn what_is_bound_is_lacked_until_its_body_comes() {
        let noop = noop();
        let mut gathering = gathered(noop.value(), [&[1, 3], &[3]]);
        let holders = |nodes: &[u16]| nodes.iter().copied().map(NodeId).collect::<NodeSet>();
        let lacking = [
            (Decree(1), noop.value(), holders(&[1])),
            (Decree(3), noop.value(), holders(&[1, 2])),
        ];
        assert_eq!(gathering.lacking(Decree::NONE), lacking);
        assert!(gathering.lacks(Decree(1), noop.value()));
        assert!(!gathering.lacks(Decree(2), noop.value()), "free");
        let other = Value(crate::types::Digest([9; 32]));
        assert!(!gathering.lacks(Decree(1), other), "not what is bound");

        gathering.keep(Decree(1), noop.clone());
        assert!(!gathering.lacks(Decree(1), noop.value()));
        assert_eq!(
            gathering.body(Decree(1)).map(Batch::value),
            Some(noop.value())
        );
        assert_eq!(gathering.lacking(Decree::NONE), lacking[1..]);
    }

    #[test]
    fn nobody_waits_for_bodies_that_were_certified_meanwhile() {
        // Acceptors prune what is certified: a leader that asked them for it would never lead.
        let gathering = gathered(noop().value(), [&[1, 2, 3], &[]]);
        let decrees = |low: u64| -> Vec<Decree> {
            let lacking = gathering.lacking(Decree(low));
            lacking.into_iter().map(|(decree, _, _)| decree).collect()
        };
        assert_eq!(decrees(2), [Decree(3)]);
        assert!(decrees(3).is_empty());
    }
}
