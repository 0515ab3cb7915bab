//! What a run of `dev` comes to: whether every operation was executed exactly once, and whether all learners agree.

use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use twostep_bench::LoadReport;
use twostep_engine::configuration::Configuration;
use twostep_engine::node::status::{Digests, NodeStatus};
use twostep_engine::types::NodeId;

use crate::cluster::LocalCluster;

/// The last line of `dev --json`.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Whether all is as it should be: no gaps, duplicates and errors, everything read back, and learners agree.
    pub clean: bool,
    /// The fault model, `fab` or `crash`.
    pub mode: String,
    /// How many faulty nodes the cluster bears.
    pub f: usize,
    /// How many nodes it has.
    pub nodes: usize,
    /// From the start of the first process until every quorum answered. Milliseconds.
    pub ready_ms: u64,
    /// CPU time of all node processes per operation, user and system, while there was load. Microseconds.
    pub cpu_us_per_op: f64,
    /// Whether the live learners, compared at `agreed_decree` after they had come to rest, have equal digests of order, results and state.
    pub learners_agree: bool,
    /// The decree at which they were compared.
    pub agreed_decree: u64,
    /// The learners that were compared.
    pub learners_compared: Vec<u16>,
    /// The learners that were not, and why.
    pub learners_left_out: Vec<LeftOut>,
    /// The longest time in which no client got a committed reply, from READY to the end of the load: opening sessions, a
    /// leader change, or calls that waited in vain until the end. Milliseconds.
    pub longest_stall_ms: u64,
    /// How often a higher regency was seen than before. `dev` looks once a second, and all the time after it killed a leader.
    pub regency_changes: u64,
    /// The highest regency that was seen; a cluster starts in 0.
    pub regency: u64,
    /// The nodes that were killed, in order.
    pub killed: Vec<u16>,
    /// The nodes that were told to lie.
    pub misbehaved: Vec<Misbehaved>,
    /// What a closed loop did before, if it was measured. Operations per second.
    pub peak_ops_per_s: Option<f64>,
    /// What each node cost while there was load.
    pub costs: Vec<NodeCost>,
    /// What the load generator counted.
    #[serde(flatten)]
    pub load: LoadReport,
}

/// A node that was told to lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Misbehaved {
    /// Which.
    pub node: u16,
    /// What it was told to lie.
    pub strategy: String,
    /// How often it lied or withheld something.
    pub lies: u64,
}

/// What a node cost while there was load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeCost {
    /// Which.
    pub node: u16,
    /// CPU time, user and system. Seconds.
    pub cpu_s: f64,
    /// The part of it that went into messages that were refused, estimated. Seconds.
    pub refused_cpu_s: f64,
    /// Messages that were refused.
    pub refused: u64,
    /// By how much its resident memory grew. Bytes.
    pub grown_bytes: i64,
}

impl NodeCost {
    /// What it says of itself, since it started.
    pub fn of(status: &NodeStatus) -> NodeCost {
        let counted = |name: &str| status.counters.get(name).copied().unwrap_or(0);
        #[expect(clippy::cast_precision_loss, reason = "microseconds of a run")]
        let refused_cpu_s = counted("refused.cpu_us") as f64 / 1e6;
        NodeCost {
            node: status.node,
            cpu_s: status.cpu_s,
            refused_cpu_s,
            refused: counted("refused.messages"),
            grown_bytes: i64::try_from(status.resident_bytes).unwrap_or(i64::MAX),
        }
    }

    /// Becomes the difference to a later one; false if another process has begun meanwhile.
    pub fn until(&mut self, after: &NodeCost) -> bool {
        let same = after.cpu_s >= self.cpu_s && after.refused >= self.refused;
        self.cpu_s = after.cpu_s - self.cpu_s;
        self.refused_cpu_s = after.refused_cpu_s - self.refused_cpu_s;
        self.refused = after.refused.saturating_sub(self.refused);
        self.grown_bytes = after.grown_bytes - self.grown_bytes;
        same
    }
}

/// What happened while `dev` watched.
#[derive(Clone, Debug, Default)]
pub struct Course {
    /// What a closed loop did before, if it was measured.
    pub peak_ops_per_s: Option<f64>,
    /// Runs before the one that is reported that were not clean.
    pub other_errors: u64,
    /// CPU seconds of all nodes when the load began.
    pub cpu_before_s: f64,
    /// And what they took since.
    pub cpu_s: f64,
    /// What each node cost.
    pub costs: Vec<NodeCost>,
    /// The nodes that were killed, in order.
    pub killed: Vec<u16>,
    /// The nodes that were told to lie.
    pub misbehaved: Vec<Misbehaved>,
    /// The highest regency that was seen.
    pub regency: u64,
    /// How often it rose.
    pub regency_changes: u64,
    longest_stall_us: u64,
}

impl Course {
    /// Nothing was committed for so long.
    pub fn stalled_us(&mut self, us: u64) {
        self.longest_stall_us = self.longest_stall_us.max(us);
    }
}

/// A learner that was not compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Which.
    pub node: u16,
    /// Why.
    pub why: String,
}

/// How learners stand to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// Whether enough were compared and all were equal.
    pub agree: bool,
    /// The decree at which they were compared.
    pub decree: u64,
    /// Who was.
    pub compared: Vec<u16>,
    /// Who was not.
    pub left_out: Vec<LeftOut>,
}

/// Waits until the live learners have come to rest, at most `patience`, and compares them.
pub fn compare_learners(cluster: &mut LocalCluster, patience: Duration) -> Agreement {
    let until = Instant::now() + patience;
    let mut before = None;
    loop {
        let statuses = cluster.statuses(true);
        let executed: Vec<Option<u64>> = statuses
            .iter()
            .map(|(_, status)| status.as_ref().map(|status| status.executed))
            .collect();
        let learners = cluster.configuration().learners();
        let answers = statuses
            .into_iter()
            .filter(|(node, _)| learners.contains(*node));
        let quorums = cluster.configuration().quorums();
        let liars: Vec<NodeId> = cluster.liars().iter().map(|(node, _)| *node).collect();
        let agreement = agreement(answers, &liars, quorums.learners - quorums.f);
        // At rest: all at one decree, and nothing has moved since the last look.
        let rests = before.as_ref() == Some(&executed);
        if (rests
            && agreement
                .left_out
                .iter()
                .all(|left| [DOWN, LIED].contains(&left.why.as_str())))
            || Instant::now() > until
        {
            return agreement;
        }
        before = Some(executed);
        thread::sleep(Duration::from_millis(50));
    }
}

const DOWN: &str = "it is down";
const LIED: &str = "it was told to lie";

/// Compares those learners that are at the highest decree of all, liars aside. At least `enough` must be.
fn agreement(
    learners: impl Iterator<Item = (NodeId, Option<NodeStatus>)>,
    liars: &[NodeId],
    enough: usize,
) -> Agreement {
    let learners: Vec<(NodeId, Option<NodeStatus>)> = learners.collect();
    let digests_of =
        |status: &Option<NodeStatus>| status.as_ref().and_then(|status| status.digests.clone());
    let decree = learners
        .iter()
        .filter(|(node, _)| !liars.contains(node))
        .filter_map(|(_, status)| digests_of(status))
        .map(|digests| digests.decree)
        .max();
    let decree = decree.unwrap_or(0);
    let mut result = Agreement {
        agree: true,
        decree,
        compared: Vec::new(),
        left_out: Vec::new(),
    };
    let mut first: Option<Digests> = None;
    for (node, status) in &learners {
        let diverged = status.as_ref().and_then(|status| status.diverged);
        match digests_of(status) {
            _ if liars.contains(node) => result.left_out.push(LeftOut {
                node: node.0,
                why: LIED.to_owned(),
            }),
            _ if diverged.is_some() => {
                result.agree = false;
                result.left_out.push(LeftOut {
                    node: node.0,
                    why: "DIVERGED".to_owned(),
                });
            }
            None => result.left_out.push(LeftOut {
                node: node.0,
                why: DOWN.to_owned(),
            }),
            Some(digests) if digests.decree < decree => {
                let why = format!("it has executed {} of {decree} decrees", digests.decree);
                result.left_out.push(LeftOut { node: node.0, why });
            }
            Some(digests) if digests.chain.is_none() => {
                let why = "it has learned more than it executed".to_owned();
                result.left_out.push(LeftOut { node: node.0, why });
            }
            Some(digests) => {
                result.compared.push(node.0);
                result.agree &= *first.get_or_insert_with(|| digests.clone()) == digests;
            }
        }
    }
    result.agree &= result.compared.len() >= enough;
    result
}

impl Verdict {
    /// Judges a run.
    pub fn new(
        configuration: &Configuration,
        course: Course,
        agreement: Agreement,
        load: LoadReport,
        ready_ms: u64,
    ) -> Verdict {
        #[expect(clippy::cast_precision_loss, reason = "a mean is rounded anyway")]
        let operations = load.operations.max(1) as f64;
        Verdict {
            clean: load.is_clean() && agreement.agree && course.other_errors == 0,
            mode: configuration.model().to_string(),
            f: configuration.f(),
            nodes: configuration.members().len(),
            ready_ms,
            cpu_us_per_op: (course.cpu_s * 1e6 / operations * 10.0).round() / 10.0,
            learners_agree: agreement.agree,
            agreed_decree: agreement.decree,
            learners_compared: agreement.compared,
            learners_left_out: agreement.left_out,
            longest_stall_ms: course.longest_stall_us / 1000,
            regency_changes: course.regency_changes,
            regency: course.regency,
            killed: course.killed,
            misbehaved: course.misbehaved,
            peak_ops_per_s: course.peak_ops_per_s,
            costs: course.costs,
            load,
        }
    }

    /// The verdict for people.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "verdict: {}",
            if self.clean { "CLEAN" } else { "NOT CLEAN" }
        )];
        let mut add = |line: String| lines.push(format!("  {line}"));
        crate::load::report_lines(&self.load)
            .into_iter()
            .for_each(&mut add);
        add(format!(
            "{:.1} µs of CPU per operation in all nodes together",
            self.cpu_us_per_op
        ));
        add(match self.regency_changes {
            0 => "the first leader led to the end".to_owned(),
            1 => format!("1 leader change, to regency {}", self.regency),
            changes => format!("{changes} leader changes, to regency {}", self.regency),
        });
        add(format!(
            "longest stall, from READY to the end: {}",
            crate::load::time(self.longest_stall_ms.saturating_mul(1000))
        ));
        let list: Vec<String> = self.learners_compared.iter().map(u16::to_string).collect();
        let verb = if self.learners_agree {
            "agree"
        } else {
            "DO NOT AGREE"
        };
        add(format!(
            "learners {} {verb} at decree {} on order, results and state",
            list.join(", "),
            self.agreed_decree
        ));
        for liar in &self.misbehaved {
            add(format!(
                "node {} lied {} times: {}",
                liar.node,
                crate::load::grouped(liar.lies),
                liar.strategy
            ));
        }
        // A flood is told from what a leader change refuses anyway.
        for cost in self.costs.iter().filter(|cost| cost.refused > 10_000) {
            add(format!(
                "node {} refused {} messages, which took {:.1} % of its CPU time; its memory grew by {:.1} MiB",
                cost.node,
                crate::load::grouped(cost.refused),
                100.0 * cost.refused_cpu_s / cost.cpu_s.max(1e-9),
                in_mib(cost.grown_bytes)
            ));
        }
        for left in &self.learners_left_out {
            add(format!("learner {} was left out: {}", left.node, left.why));
        }
        lines
    }
}

fn in_mib(bytes: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "rounded to a tenth")]
    let bytes = bytes as f64;
    bytes / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use twostep_engine::signatures::Signatures;

    fn learner(node: u16, decree: u64, state: &str) -> (NodeId, Option<NodeStatus>) {
        let digests =
            serde_json::json!({ "decree": decree, "chain": "c", "results": "r", "state": state });
        let status = serde_json::json!({
            "node": node, "cluster": "", "clients_digest": "", "mode": "fab", "f": 1, "roles": "", "version": "", "pid": 1, "listen": "",
            "driver": "", "uptime_s": 0.0, "cpu_s": 0.0, "resident_bytes": 0, "misbehaviour": null, "signatures_made": Signatures::default(), "signatures_checked": Signatures::default(), "ready": true, "missing": [], "abstaining": null,
            "regency": 0, "leader": 0, "low": 0, "learned": decree, "executed": decree, "proposed": 0, "waiting": 0,
            "diverged": null, "digests": digests, "peers": [], "client_links": 0, "refusals": {},
            "refused_by_peers": {}, "counters": {}, "stages": {},
        });
        (NodeId(node), Some(serde_json::from_value(status).unwrap()))
    }

    #[test]
    fn only_equal_decrees_are_compared_and_the_rest_is_named() {
        let result = agreement(
            [
                learner(0, 9, "a"),
                learner(1, 9, "a"),
                learner(2, 9, "a"),
                learner(3, 5, "b"),
            ]
            .into_iter(),
            &[],
            3,
        );
        assert!(result.agree);
        assert_eq!((result.decree, result.compared), (9, vec![0, 1, 2]));
        assert_eq!(
            result.left_out,
            [LeftOut {
                node: 3,
                why: "it has executed 5 of 9 decrees".to_owned()
            }]
        );
        let down = [
            learner(0, 9, "a"),
            learner(1, 9, "a"),
            learner(2, 9, "a"),
            (NodeId(3), None),
        ];
        assert!(agreement(down.into_iter(), &[], 3).agree);
    }

    #[test]
    fn a_difference_or_too_few_learners_do_not_agree() {
        let different = [
            learner(0, 9, "a"),
            learner(1, 9, "a"),
            learner(2, 9, "x"),
            learner(3, 9, "a"),
        ];
        assert!(!agreement(different.into_iter(), &[], 3).agree);
        let few = [
            learner(0, 9, "a"),
            learner(1, 9, "a"),
            learner(2, 4, "a"),
            (NodeId(3), None),
        ];
        assert!(
            !agreement(few.into_iter(), &[], 3).agree,
            "two of four learners prove nothing for f = 1"
        );
        let (node, mut status) = learner(2, 9, "a");
        status.as_mut().unwrap().diverged = Some(4);
        let diverged = [
            learner(0, 9, "a"),
            learner(1, 9, "a"),
            (node, status),
            learner(3, 9, "a"),
        ];
        assert!(!agreement(diverged.into_iter(), &[], 3).agree);
    }

    #[test]
    fn who_lied_is_not_compared() {
        let learners = [
            learner(0, 9, "a"),
            learner(1, 9, "a"),
            learner(2, 9, "a"),
            learner(3, 11, "x"),
        ];
        let result = agreement(learners.clone().into_iter(), &[NodeId(3)], 3);
        assert!(result.agree);
        assert_eq!((result.decree, result.compared), (9, vec![0, 1, 2]));
        assert_eq!(result.left_out[0].why, LIED);
        assert!(!agreement(learners.into_iter(), &[], 3).agree);
    }

    #[test]
    fn costs_are_differences_of_one_process() {
        let cost = |cpu_s, refused, bytes| NodeCost {
            node: 0,
            cpu_s,
            refused_cpu_s: 0.0,
            refused,
            grown_bytes: bytes,
        };
        let mut before = cost(1.0, 5, 100);
        assert!(before.until(&cost(3.0, 7, 90)));
        assert_eq!(before, cost(2.0, 2, -10));
        assert!(
            !cost(5.0, 5, 100).until(&cost(0.5, 7, 90)),
            "it was started again"
        );
    }
}
