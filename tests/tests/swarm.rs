//! A small swarm over fixed seeds, and a few seeds that are new at every run; the long one is `twostep sim`.

use std::time::{SystemTime, UNIX_EPOCH};

use twostep_engine::quorum::FaultModel;
use twostep_tests::plan::{CHECKPOINTS_MIN, Faults, OPERATIONS_MIN, SimOptions};
use twostep_tests::runner::{SimReport, run_range, run_seed};
use twostep_tests::topology::Topology;

fn swarm(model: FaultModel, f: usize, first: u64, count: u64) -> SimReport {
    let topology = None;
    checked(
        &SimOptions {
            model: Some(model),
            f: Some(f),
            topology,
            ..SimOptions::default()
        },
        first,
        count,
    )
}

/// The same, and the first leader may be among those that stop.
fn swarm_without_its_leader(model: FaultModel, f: usize, first: u64, count: u64) -> SimReport {
    let topology = Some(Topology::Shared);
    checked(
        &SimOptions {
            model: Some(model),
            f: Some(f),
            topology,
            leader_stops: true,
            ..SimOptions::default()
        },
        first,
        count,
    )
}

fn checked(options: &SimOptions, first: u64, count: u64) -> SimReport {
    let report = run_range(options, first..first + count, |_| true);
    for failure in &report.failures {
        let replay = format!(
            "twostep sim --mode {} --f {} --trace --seed",
            failure.mode, failure.f
        );
        let what = failure.violation.as_ref().or(failure.stall.as_ref());
        eprintln!("{replay} {}: {}", failure.seed, what.expect("it failed"));
    }
    assert_eq!((report.violations, report.stalls), (0, 0));
    assert_eq!(report.seeds, count);
    assert!(report.operations.min >= OPERATIONS_MIN);
    assert!(report.checkpoints.min >= CHECKPOINTS_MIN);
    report
}

#[test]
fn fixed_seeds_are_clean_in_mode_fab() {
    swarm(FaultModel::Fab, 1, 0, 40);
    swarm(FaultModel::Fab, 2, 0, 6);
    // A learner that votes had told a value asked for its body where it was pruned.
    swarm(FaultModel::Fab, 1, 236, 1);
    // Learners that took a snapshot up signed no checkpoint there, and the window never moved again.
    swarm(FaultModel::Fab, 1, 48_092_815_115_404, 1);
    // All stopped when one had written a decree down and nobody had delivered it.
    swarm(FaultModel::Fab, 1, 450, 1);
    // A node whose disk was lost and whose journal kept nothing never rested.
    swarm(FaultModel::Fab, 1, 561, 1);
    // The log had dropped what a mended learner was to execute again.
    swarm(FaultModel::Fab, 1, 3215, 1);
    // A proposer entered regencies while its journal was full, led one of them later, and did not start again.
    swarm(FaultModel::Fab, 1, 1851, 1);
}

#[test]
fn fixed_seeds_are_clean_in_mode_crash() {
    swarm(FaultModel::Crash, 1, 0, 60);
    swarm(FaultModel::Crash, 2, 0, 10);
    swarm(FaultModel::Crash, 3, 0, 5);
    // All stopped before anybody had executed a snapshot's decree: it was executed first when they started again.
    swarm(FaultModel::Crash, 1, 189, 1);
    // A node whose disk was lost and whose journal kept nothing never rested.
    swarm(FaultModel::Crash, 1, 599, 1);
    // The only holder of a snapshot did not know that it was certified, and dropped it.
    swarm(FaultModel::Crash, 1, 478_289_406_278_655, 1);
    // Whoever took a snapshot in began anew with the next one, for ever.
    swarm(FaultModel::Crash, 1, 2281, 1);
    swarm(FaultModel::Crash, 1, 2310, 1);
    // An acceptor without its disk asked a learner that was down, and a proposer without its disk waited for both.
    swarm(FaultModel::Crash, 1, 4976, 1);
    // A learner that came back without its disk was to be as far as the others at once.
    swarm(FaultModel::Crash, 1, 4134, 1);
    swarm(FaultModel::Crash, 1, 20_910, 1);
}

/// A node that had rejoined, voted, and started again rejoined once more, and forgot its votes.
#[test]
fn who_rejoined_keeps_its_votes_when_it_starts_again() {
    let options = SimOptions {
        faults: Faults::All,
        ..SimOptions::default()
    };
    checked(&options, 1307, 1);
}

#[test]
fn the_order_goes_on_under_another_leader() {
    swarm_without_its_leader(FaultModel::Fab, 1, 0, 25);
    // A snapshot that was offered was gone before anybody could ask for it.
    swarm_without_its_leader(FaultModel::Fab, 1, 9386, 1);
    // A mended node started again and said once more what its records hold of its damaged state.
    swarm_without_its_leader(FaultModel::Fab, 1, 12_591, 1);
    swarm_without_its_leader(FaultModel::Crash, 1, 0, 40);
}

#[test]
fn fresh_seeds_are_clean() {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock stands after 1970");
    let first = u64::from(since.subsec_nanos()) << 20 | since.as_secs() & 0xf_ffff;
    println!("fresh seeds from {first}");
    swarm(FaultModel::Fab, 1, first, 20);
    swarm(FaultModel::Crash, 1, first, 20);
}

#[test]
fn the_same_seed_is_the_same_run() {
    for model in [FaultModel::Fab, FaultModel::Crash] {
        let options = SimOptions {
            model: Some(model),
            ..SimOptions::default()
        };
        assert_eq!(run_seed(&options, 11), run_seed(&options, 11));
        assert_ne!(run_seed(&options, 11).trace, run_seed(&options, 12).trace);
    }
}
