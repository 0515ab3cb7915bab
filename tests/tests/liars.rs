//! Byzantine nodes, each strategy alone and all of them mixed: nothing is violated and nothing stalls.

use twostep_engine::quorum::FaultModel;
use twostep_engine::types::NodeId;
use twostep_tests::actors::STRATEGIES;
use twostep_tests::actors::troupe::{Actor, Troupe};
use twostep_tests::plan::{FaultKind, Faults, Plan, SimOptions};
use twostep_tests::runner::{run_plan, run_range, run_seed};
use twostep_tests::topology::Topology;

/// Seeds per strategy.
const SEEDS: u64 = 2;

#[test]
fn every_strategy_alone_is_borne_and_finds_an_occasion() {
    let options = SimOptions {
        topology: Some(Topology::Shared),
        ..SimOptions::default()
    };
    for entry in &STRATEGIES {
        let mut received = 0;
        for seed in 0..SEEDS {
            let mut plan = Plan::draw(&options, seed);
            plan.faults
                .retain(|fault| matches!(fault.what, FaultKind::Cut { .. }));
            // Two faces make the first leader fall, and with it begins what these lie about.
            let strategies = match entry.name {
                "voucher-forger" | "lying-reporter" | "proof-hoarder" => {
                    vec![entry.name, "two-faced"]
                }
                name => vec![name],
            };
            plan.actors = vec![Actor {
                node: NodeId(0),
                strategies,
            }];
            let troupe = Troupe::new(plan.actors.clone(), seed);
            let report = run_plan(plan, seed, &troupe);
            assert!(
                report.is_clean(),
                "{} at seed {seed}: {report:?}",
                entry.name
            );
            received += report.lies[entry.name].received;
        }
        // They lie in a leader change only, and two seeds may have none in which it is their turn.
        let rare = matches!(entry.name, "voucher-forger" | "lying-reporter");
        assert!(
            received > 0 || rare,
            "{} found no occasion to lie",
            entry.name
        );
    }
}

#[test]
fn mixed_liars_are_borne() {
    for (model, f, first, count) in [
        (FaultModel::Fab, 1, 0, 60),
        (FaultModel::Fab, 2, 0, 6),
        (FaultModel::Crash, 1, 0, 20),
    ] {
        let options = SimOptions {
            model: Some(model),
            f: Some(f),
            faults: Faults::All,
            ..SimOptions::default()
        };
        let report = run_range(&options, first..first + count, |_| true);
        for failure in &report.failures {
            let what = failure.violation.as_ref().or(failure.stall.as_ref());
            let seed = failure.seed;
            eprintln!(
                "twostep sim --mode {model} --f {f} --faults all --trace --seed {seed}: {what:?}"
            );
        }
        assert_eq!((report.violations, report.stalls), (0, 0));
        assert!(report.seeds_with_regency_change > 0);
    }
}

#[test]
fn who_was_asked_in_vain_once_is_asked_again() {
    // Of three nodes one has stopped, and an answer of the other one was lost.
    let options = SimOptions {
        model: Some(FaultModel::Crash),
        f: Some(1),
        faults: Faults::All,
        ..SimOptions::default()
    };
    let report = run_seed(&options, 40_159);
    assert!(report.is_clean(), "{report:?}");
}

#[test]
fn the_same_seed_is_the_same_run_with_liars() {
    let options = SimOptions {
        faults: Faults::All,
        ..SimOptions::default()
    };
    assert_eq!(run_seed(&options, 11), run_seed(&options, 11));
}
