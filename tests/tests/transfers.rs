//! State transfer: learners that lack what no log holds any more, or whose state is damaged, take up a certified snapshot.

use std::time::Duration;

use twostep_engine::quorum::FaultModel;
use twostep_engine::types::{NodeId, NodeSet};
use twostep_tests::actors::troupe::{Actor, Troupe};
use twostep_tests::disk::Fate;
use twostep_tests::plan::{Fault, FaultKind, Plan, SimOptions};
use twostep_tests::runner::run_plan;
use twostep_tests::topology::Topology;

const SEEDS: u64 = 4;
const LAGGARD: NodeId = NodeId(2);

/// Every seed with logs that hold next to nothing, snapshots as often as can be, and this fault; with one learner that lies or none.
/// How many snapshots were installed in all.
fn installed(model: FaultModel, liar: bool, fault: impl Fn(&Plan) -> FaultKind) -> u64 {
    let options = SimOptions {
        model: Some(model),
        topology: Some(Topology::Shared),
        ..SimOptions::default()
    };
    let run = |seed| {
        let mut plan = Plan::draw(&options, seed);
        plan.tuning.log_decrees_max = 1;
        plan.limits.snapshot_every = plan.limits.checkpoint_every;
        plan.faults = vec![Fault {
            at: 60,
            what: fault(&plan),
        }];
        if liar {
            plan.actors = vec![Actor {
                node: NodeId(1),
                strategies: vec!["snapshot-liar"],
            }];
        }
        let troupe = Troupe::new(plan.actors.clone(), seed);
        let report = run_plan(plan, seed, &troupe);
        assert!(report.is_clean(), "seed {seed}: {report:?}");
        report.snapshots_installed
    };
    (0..SEEDS).map(run).sum()
}

/// The laggard hears nobody for so long that it is beyond every log.
fn deaf(plan: &Plan) -> FaultKind {
    let others: NodeSet = (0..6).map(NodeId).filter(|node| *node != LAGGARD).collect();
    FaultKind::Cut {
        from: others,
        to: NodeSet::one(LAGGARD),
        lasting: plan.tuning.t0 * 30,
    }
}

/// Logs that hold next to nothing, and no snapshot ever: whether a laggard catches up, and how much of that journals served.
fn caught_up(archives: bool) -> (bool, u64) {
    let options = SimOptions {
        model: Some(FaultModel::Fab),
        topology: Some(Topology::Shared),
        ..SimOptions::default()
    };
    let run = |seed| {
        let mut plan = Plan::draw(&options, seed);
        plan.tuning.log_bytes_max = 1;
        plan.limits.snapshot_every = plan.limits.checkpoint_every << 20;
        plan.archives = archives;
        plan.faults = vec![Fault {
            at: 60,
            what: deaf(&plan),
        }];
        let report = run_plan(plan, seed, &Troupe::new(Vec::new(), seed));
        assert_eq!(report.violation, None, "seed {seed}");
        (report.stall.is_none(), report.archived)
    };
    let runs: Vec<(bool, u64)> = (0..SEEDS).map(run).collect();
    let all = runs.iter().all(|(caught_up, _)| *caught_up);
    (all, runs.iter().map(|(_, archived)| archived).sum())
}

#[test]
fn a_learner_beyond_the_logs_learns_from_journals_above_the_newest_snapshot() {
    let (caught_up, archived) = caught_up(true);
    assert!(caught_up && archived > 0, "{archived}");
}

#[test]
fn without_journals_that_answer_it_waits_for_a_snapshot() {
    assert_eq!(caught_up(false), (false, 0));
}

#[test]
fn a_learner_beyond_the_logs_installs_a_snapshot_and_goes_on() {
    assert!(installed(FaultModel::Fab, false, deaf) > 0);
}

#[test]
fn a_learner_that_lies_about_snapshots_delays_nobody_for_long() {
    assert!(installed(FaultModel::Fab, true, deaf) > 0);
}

#[test]
fn a_node_without_its_disk_learns_from_a_snapshot() {
    let lost = |_: &Plan| FaultKind::Crash {
        node: LAGGARD,
        fate: Fate::AllLost,
        rejoin_after: Some(Duration::from_millis(50)),
    };
    assert!(installed(FaultModel::Fab, false, lost) > 0);
    assert!(installed(FaultModel::Crash, false, lost) > 0);
}

#[test]
fn a_state_that_is_damaged_is_found_and_taken_from_others() {
    let damage = |_: &Plan| FaultKind::Corrupt { node: LAGGARD };
    assert!(installed(FaultModel::Fab, false, damage) > 0);
}
