//! Wrong rules and wrong thresholds: each must be found, or the model checks nothing.
//!
//! The search is breadth first, so each trace is a shortest one; those of S1 and S3 have the 12 and 8 steps that
//! PROTOCOL.md section 6 names. Mutants are found with two regencies, except S7 and the lowest psn of mode C, which do
//! not exist below three: that, too, is checked. The full form runs all with three regencies as well.

use std::collections::BTreeSet;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};
use twostep_engine::quorum::Quorums;
use twostep_engine::rules::{Rules, Standard};
use twostep_tests::rules::{
    AcceptBelowPromise, LearnQuorumLessOne, S1Literal, S3RepeatedSigner, S6AnyRegency, S7Pairs,
};

use super::decree::{AGREEMENT, NEVER_STUCK, OneDecree, REDUCED, Reduction};
use super::form::{crash, fab, full, say};
use super::rules::{LowestPsn, SecondVote, Stubborn, WithoutPlan};
use super::story::tell;

/// A trace that was found.
struct Found {
    steps: usize,
    story: String,
}

/// Searches until the property is violated, and tells the trace.
fn search<R: Rules + Send + Sync + 'static>(
    name: &str,
    model: OneDecree<R>,
    property: &'static str,
) -> Option<Found> {
    let start = Instant::now();
    let (acceptors, regencies) = (model.quorums.acceptors, model.regencies);
    let checker = model
        .checker()
        .finish_when(HasDiscoveries::AnyOf(BTreeSet::from([property])))
        .spawn_bfs()
        .join();
    let path = checker.discovery(property)?;
    let steps = path.clone().into_actions().len();
    let story = tell(checker.model(), path);
    let (states, took) = (checker.unique_state_count(), start.elapsed());
    say(&format!(
        "violated: {property}: {name}, n={acceptors}, {regencies} regencies: {steps} steps; {states} states, {took:.1?}\n{story}"
    ));
    Some(Found { steps, story })
}

/// The property must be violated in this model; gives the number of steps.
#[track_caller]
fn must_find<R: Rules + Send + Sync + 'static>(
    name: &str,
    model: OneDecree<R>,
    property: &'static str,
) -> usize {
    let regencies = model.regencies;
    let found = search(name, model, property)
        .unwrap_or_else(|| panic!("{name} survived {regencies} regencies"));
    if property == AGREEMENT {
        for decided in ["A learner decides A", "A learner decides B"] {
            assert!(found.story.contains(decided), "{}", found.story);
        }
    }
    found.steps
}

/// The property must be violated with two regencies, and in the full form also with three.
#[track_caller]
fn is_found<R: Rules + Send + Sync + 'static>(
    name: &str,
    quorums: Quorums,
    rules: fn() -> R,
    property: &'static str,
) -> usize {
    if full() {
        must_find(name, OneDecree::new(quorums, rules(), 3), property);
    }
    must_find(name, OneDecree::new(quorums, rules(), 2), property)
}

#[test]
fn s1_a_report_of_no_vote_that_does_not_promise() {
    let name = "S1, the literal rule (i)";
    assert_eq!(is_found(name, fab(1), || S1Literal, AGREEMENT), 12);
}

#[test]
fn s3_a_voucher_with_a_repeated_signer() {
    let name = "S3, repeated signers";
    assert_eq!(is_found(name, fab(1), || S3RepeatedSigner, AGREEMENT), 8);
}

#[test]
fn s6_a_learner_that_adds_across_regencies() {
    is_found(
        "S6, votes of different psn added",
        fab(1),
        || S6AnyRegency,
        AGREEMENT,
    );
}

#[test]
fn s7_a_voucher_that_counts_pairs() {
    let model = |regencies| OneDecree::new(fab(1), S7Pairs, regencies);
    let name = "S7, pairs of value and psn counted";
    assert!(
        search(name, model(2), AGREEMENT).is_none(),
        "two are too few"
    );
    if full() {
        must_find(name, model(3), AGREEMENT);
    }
}

#[test]
fn votes_below_the_promise() {
    is_found(
        "votes below the promise",
        fab(1),
        || AcceptBelowPromise,
        AGREEMENT,
    );
    is_found(
        "mode C, votes below the promise",
        crash(1),
        || AcceptBelowPromise,
        AGREEMENT,
    );
}

#[test]
fn votes_against_the_plan() {
    is_found("votes against the plan", fab(1), || WithoutPlan, AGREEMENT);
}

#[test]
fn two_votes_in_one_regency() {
    is_found("two votes in one regency", fab(1), || SecondVote, AGREEMENT);
}

/// With the binding number kept and with the one that m − 2f would give: neither is safe.
#[test]
fn vouchers_of_4f_reports() {
    for must in [3, 2] {
        let quorums = Quorums {
            report: 4,
            must,
            ..fab(1)
        };
        let name = format!("vouchers of 4f reports, where {must} equal ones bind");
        is_found(&name, quorums, || Standard, AGREEMENT);
    }
}

#[test]
fn one_more_or_one_less_to_bind() {
    for must in [2, 4] {
        let quorums = Quorums { must, ..fab(1) };
        let name = format!("{must} equal reports bind instead of 3");
        is_found(&name, quorums, || Standard, AGREEMENT);
    }
}

#[test]
fn learners_that_believe_one_vote_less() {
    is_found(
        "one vote less decides",
        fab(1),
        || LearnQuorumLessOne,
        AGREEMENT,
    );
    is_found(
        "mode C, one vote less decides",
        crash(1),
        || LearnQuorumLessOne,
        AGREEMENT,
    );
}

/// n = 5f: no number of equal reports that bind makes five acceptors safe, so 5f+1 is tight.
#[test]
fn five_acceptors() {
    for must in 1..=4 {
        let quorums = Quorums {
            acceptors: 5,
            learn: 4,
            report: 4,
            must,
            ..fab(1)
        };
        let name = format!("five acceptors, where {must} equal reports bind");
        is_found(&name, quorums, || Standard, AGREEMENT);
    }
}

#[test]
fn five_acceptors_with_plans_kept() {
    let apart = Reduction {
        merged: false,
        ..REDUCED
    };
    let quorums = Quorums {
        acceptors: 5,
        learn: 4,
        report: 4,
        must: 2,
        ..fab(1)
    };
    let model = OneDecree::with(quorums, Standard, 2, 2, apart);
    must_find("five acceptors, plans kept", model, AGREEMENT);
}

/// The search for stuck states finds one too.
#[test]
fn acceptors_that_never_change_their_mind() {
    is_found(
        "acceptors that stay with their first vote",
        fab(1),
        || Stubborn,
        NEVER_STUCK,
    );
}

#[test]
fn crash_with_vouchers_of_f_reports() {
    let quorums = Quorums {
        report: 1,
        ..crash(1)
    };
    is_found(
        "mode C, vouchers of f reports",
        quorums,
        || Standard,
        AGREEMENT,
    );
}

#[test]
fn crash_that_selects_the_lowest_psn() {
    let model = |regencies| OneDecree::new(crash(1), LowestPsn, regencies);
    let name = "mode C, the lowest psn selected";
    assert!(
        search(name, model(2), AGREEMENT).is_none(),
        "two are too few"
    );
    must_find(name, model(3), AGREEMENT);
}
