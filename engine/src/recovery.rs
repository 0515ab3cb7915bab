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
    Gathering(Box<Gathering>),
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
    /// The reports so far, ascending by acceptor; exactly a voucher once `plan` is there.
    reports: Vec<CheckedReport>,
    plan: Option<Plan>,
    /// The values that must be proposed and whose bodies are not held, with the acceptors that reported them.
    lacking: BTreeMap<Decree, (Value, NodeSet)>,
    /// The bodies of the values that must be proposed.
    bodies: BTreeMap<Decree, Batch>,
    /// How often bodies were asked for.
    asked: u64,
}

/// A body that a new leader asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The decree that it must be proposed for.
    pub decree: Decree,
    /// Its digest.
    pub value: Value,
    /// Whom to ask this time.
    pub from: NodeSet,
}

impl Gathering {
    /// Nothing collected yet.
    #[must_use]
    pub fn new(regency: Regency, resend: Resend) -> Gathering {
        Gathering {
            regency,
            resend,
            reports: Vec::new(),
            plan: None,
            lacking: BTreeMap::new(),
            bodies: BTreeMap::new(),
            asked: 0,
        }
    }

    /// Whether a report of this acceptor is of use: no signature is checked for one that is not.
    #[must_use]
    pub fn wants(&self, acceptor: NodeId) -> bool {
        self.plan.is_none() && !self.signers().contains(&acceptor)
    }

    /// Takes a report that it wants.
    pub fn take(&mut self, report: CheckedReport) {
        let place = self
            .reports
            .partition_point(|other| other.signer() < report.signer());
        self.reports.insert(place, report);
    }

    /// Who reported, ascending.
    #[must_use]
    pub fn signers(&self) -> Vec<NodeId> {
        self.reports.iter().map(CheckedReport::signer).collect()
    }

    /// The reports, ascending by acceptor.
    #[must_use]
    pub fn voucher(&self) -> &[CheckedReport] {
        &self.reports
    }

    /// Fixes the plan of a complete voucher.
    ///
    /// # Panics
    /// If there is one: the first voucher of a regency stays.
    pub fn fix(&mut self, plan: Plan) {
        assert!(self.plan.is_none(), "one plan per regency");
        let bound = bound(&plan, &self.reports);
        self.lacking = bound
            .map(|(decree, value, holders)| (decree, (value, holders)))
            .collect();
        self.plan = Some(plan);
    }

    /// The plan, once the voucher is complete.
    #[must_use]
    pub fn plan(&self) -> Option<&Plan> {
        self.plan.as_ref()
    }

    /// The bodies above `low` that are bound and not held, ascending. What is certified needs no proposal, and acceptors
    /// may have pruned it.
    pub fn lacking(&self, low: Decree) -> impl Iterator<Item = (Decree, Value)> + '_ {
        let above = self.lacking.range(low.next()..);
        above.map(|(decree, (value, _))| (*decree, *value))
    }

    /// Whom to ask for each body that it lacks above `low`: `count` of those that reported it, without `me`. A repeat asks
    /// others, as far as there are others, and the decrees of a window are spread over all of them.
    pub fn ask(&mut self, low: Decree, count: usize, me: NodeId) -> Vec<Wanted> {
        let turn = self.asked * count as u64;
        self.asked += 1;
        let above = self.lacking.range(low.next()..);
        above
            .map(|(decree, (value, holders))| Wanted {
                decree: *decree,
                value: *value,
                from: some_of(holders.minus(NodeSet::one(me)), turn + decree.0, count),
            })
            .collect()
    }

    /// Whether a body is bound and not held.
    #[must_use]
    pub fn lacks(&self, decree: Decree, value: Value) -> bool {
        self.lacking
            .get(&decree)
            .is_some_and(|(bound, _)| *bound == value)
    }

    /// Takes a body that is bound.
    pub fn keep(&mut self, decree: Decree, batch: Batch) {
        self.lacking.remove(&decree);
        self.bodies.insert(decree, batch);
    }

    /// The body that must be proposed for a decree.
    #[must_use]
    pub fn body(&self, decree: Decree) -> Option<&Batch> {
        self.bodies.get(&decree)
    }
}

/// So many of these nodes, in a circle from the given place on.
fn some_of(nodes: NodeSet, first: u64, count: usize) -> NodeSet {
    let all: Vec<NodeId> = nodes.iter().collect();
    let first =
        usize::try_from(first % all.len().max(1) as u64).expect("below the number of nodes");
    let circle = all.iter().cycle().skip(first);
    circle.take(count.min(all.len())).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Checkpoints;
    use crate::configuration::{Admission, Configuration, Limits, Member, Roles};
    use crate::message::{Report, ReportedVote};
    use crate::quorum::FaultModel;
    use crate::rules::{Rules, Standard};
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
            gathering.take(report);
            let complete = Standard.voucher(quorums, &gathering.signers());
            assert_eq!(complete, node == NodeId(2), "two make a voucher");
            assert!(!gathering.wants(node), "each reports once");
        }
        let window = configuration.limits().window;
        let plan = Plan::of(&Standard, quorums, window, gathering.voucher());
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
        let lacking = [(Decree(1), noop.value()), (Decree(3), noop.value())];
        assert!(gathering.lacking(Decree::NONE).eq(lacking));
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
        assert!(gathering.lacking(Decree::NONE).eq(lacking[1..].to_vec()));
    }

    #[test]
    fn nobody_waits_for_bodies_that_were_certified_meanwhile() {
        // Acceptors prune what is certified: a leader that asked them for it would never lead.
        let gathering = gathered(noop().value(), [&[1, 2, 3], &[]]);
        let decrees = |low: u64| -> Vec<Decree> {
            let lacking = gathering.lacking(Decree(low));
            lacking.map(|(decree, _)| decree).collect()
        };
        assert_eq!(decrees(2), [Decree(3)]);
        assert!(decrees(3).is_empty());
    }

    #[test]
    fn a_body_is_asked_of_some_reporters_and_of_others_when_they_do_not_answer() {
        let mut gathering = gathered(noop().value(), [&[1, 2], &[2]]);
        let mut ask = |count, me| -> Vec<Vec<u16>> {
            let wanted = gathering.ask(Decree::NONE, count, NodeId(me));
            let from = |wanted: &Wanted| wanted.from.iter().map(|node| node.0).collect();
            wanted.iter().map(from).collect()
        };
        // Decree 1 was reported by 1 only, decree 2 by both: each time by the other one.
        assert_eq!(ask(1, 0), [vec![1], vec![1]]);
        assert_eq!(ask(1, 0), [vec![1], vec![2]]);
        assert_eq!(ask(1, 0), [vec![1], vec![1]]);
        assert_eq!(ask(2, 0), [vec![1], vec![1, 2]]);
        assert_eq!(ask(2, 1), [vec![], vec![2]], "nobody asks itself");

        gathering.keep(Decree(1), noop());
        let wanted = gathering.ask(Decree::NONE, 2, NodeId(0));
        let decrees = wanted.iter().map(|wanted| wanted.decree);
        assert!(decrees.eq([Decree(2)]), "not what is held");
        assert!(
            gathering.ask(Decree(2), 2, NodeId(0)).is_empty(),
            "nor what is certified"
        );
    }

    #[test]
    fn a_circle_of_reporters_comes_round() {
        let nodes: NodeSet = [1, 4, 5].into_iter().map(NodeId).collect();
        let some =
            |first| -> Vec<u16> { some_of(nodes, first, 2).iter().map(|node| node.0).collect() };
        assert_eq!(
            [some(0), some(1), some(2), some(3)],
            [[1, 4], [4, 5], [1, 5], [1, 4]].map(Vec::from)
        );
        assert!(some_of(NodeSet::EMPTY, 7, 2).is_empty());
        assert_eq!(some_of(nodes, u64::MAX, 9), nodes, "no more than there are");
    }
}
