//! What a run of `dev` comes to: whether every operation was executed exactly once, and whether all learners agree.

use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use twostep_bench::LoadReport;
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
    /// What the load generator counted.
    #[serde(flatten)]
    pub load: LoadReport,
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
        let agreement = agreement(answers, quorums.learners - quorums.f);
        // At rest: all at one decree, and nothing has moved since the last look.
        let rests = before.as_ref() == Some(&executed);
        if (rests && agreement.left_out.iter().all(|left| left.why == DOWN))
            || Instant::now() > until
        {
            return agreement;
        }
        before = Some(executed);
        thread::sleep(Duration::from_millis(50));
    }
}

const DOWN: &str = "it is down";

/// Compares those learners that are at the highest decree of all. At least `enough` must be.
fn agreement(
    learners: impl Iterator<Item = (NodeId, Option<NodeStatus>)>,
    enough: usize,
) -> Agreement {
    let learners: Vec<(NodeId, Option<NodeStatus>)> = learners.collect();
    let digests_of =
        |status: &Option<NodeStatus>| status.as_ref().and_then(|status| status.digests.clone());
    let decree = learners
        .iter()
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
        for left in &self.learners_left_out {
            add(format!("learner {} was left out: {}", left.node, left.why));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learner(node: u16, decree: u64, state: &str) -> (NodeId, Option<NodeStatus>) {
        let digests =
            serde_json::json!({ "decree": decree, "chain": "c", "results": "r", "state": state });
        let status = serde_json::json!({
            "node": node, "cluster": "", "clients_digest": "", "mode": "fab", "f": 1, "roles": "", "version": "", "pid": 1, "listen": "",
            "driver": "", "uptime_s": 0.0, "cpu_s": 0.0, "resident_bytes": 0, "misbehaves": null, "ready": true, "missing": [], "abstaining": null,
            "regency": 0, "leader": 0, "low": 0, "learned": decree, "executed": decree, "proposed": 0, "waiting": 0,
            "diverged": null, "digests": digests, "peers": [], "client_links": 0, "refusals": {},
            "refused_by_peers": {}, "counters": {},
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
        assert!(agreement(down.into_iter(), 3).agree);
    }

    #[test]
    fn a_difference_or_too_few_learners_do_not_agree() {
        let different = [
            learner(0, 9, "a"),
            learner(1, 9, "a"),
            learner(2, 9, "x"),
            learner(3, 9, "a"),
        ];
        assert!(!agreement(different.into_iter(), 3).agree);
        let few = [
            learner(0, 9, "a"),
            learner(1, 9, "a"),
            learner(2, 4, "a"),
            (NodeId(3), None),
        ];
        assert!(
            !agreement(few.into_iter(), 3).agree,
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
        assert!(!agreement(diverged.into_iter(), 3).agree);
    }
}
