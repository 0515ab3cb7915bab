//! The production rules: no state breaks agreement, none is stuck.
//!
//! | model | states |
//! |---|---|
//! | mode F, n = 6, two regencies | 2,464 |
//! | mode F, n = 6, three regencies | 703,700; 352,289 when A and B are exchanged freely |
//! | mode C, n = 3, three and four regencies | 4,146 and 114,720 |
//!
//! The numbers are pinned: a change of the rules or of the model that loses or adds a state is a decision.

use std::collections::HashSet;
use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};
use twostep_engine::quorum::Quorums;
use twostep_engine::rules::Standard;

use super::decree::{AGREEMENT, ANCHORED, NEVER_STUCK, OneDecree, REDUCED, Reduction, State};
use super::form::{crash, fab, full, say};
use super::story::tell;
use super::walk::{exchanged, orders, walk, without_plans};

/// Checks every property in every state, and says how many states there are.
#[track_caller]
fn holds(name: &str, model: OneDecree<Standard>) -> usize {
    let start = Instant::now();
    let checker = model
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    for property in [AGREEMENT, ANCHORED, NEVER_STUCK] {
        if let Some(path) = checker.discovery(property) {
            let story = tell(checker.model(), path);
            panic!("{name}, violated: {property}\n{story}");
        }
    }
    checker.assert_properties();
    let states = checker.unique_state_count();
    let steps = checker.max_depth() - 1;
    say(&format!(
        "{name}: {states} states, at most {steps} steps deep: safe, never stuck ({:.1?})",
        start.elapsed()
    ));
    states
}

fn standard(quorums: Quorums, regencies: u8) -> OneDecree<Standard> {
    OneDecree::new(quorums, Standard, regencies)
}

/// PROTOCOL.md section 3 counts 352,289 states with three regencies. Its count takes a state and the same state with A
/// and B exchanged for one: of 703,700 states, those that equal their own exchange (878) are counted whole and all
/// others in pairs.
#[test]
fn fab_with_two_and_three_regencies() {
    agree("mode F, n=6, two regencies", 2, 2_464, 1_254);
    if full() {
        agree("mode F, n=6, three regencies", 3, 703_700, 352_289);
    }
}

#[track_caller]
fn agree(name: &str, regencies: u8, states: usize, classes: usize) {
    assert_eq!(holds(name, standard(fab(1), regencies)), states);
    let walked = walk(&standard(fab(1), regencies));
    assert_eq!(walked.len(), states, "no fingerprints collided");
    let own = |state: &&State| exchanged((**state).clone()) == **state;
    let counted = (states + walked.iter().filter(own).count()) / 2;
    say(&format!(
        "{name}: {counted} states up to exchange of A and B"
    ));
    assert_eq!(counted, classes);
}

#[test]
fn fab_with_two_faults() {
    holds("mode F, f=2, n=11, two regencies", standard(fab(2), 2));
}

#[test]
fn fab_with_three_values() {
    let model = OneDecree::with(fab(1), Standard, 2, 3, REDUCED);
    holds("mode F, n=6, two regencies, three values", model);
}

#[test]
fn crash_with_three_and_four_regencies() {
    assert_eq!(
        holds("mode C, n=3, three regencies", standard(crash(1), 3)),
        4_146
    );
    if full() {
        assert_eq!(
            holds("mode C, n=3, four regencies", standard(crash(1), 4)),
            114_720
        );
    }
}

#[test]
fn crash_with_two_faults() {
    holds("mode C, f=2, n=5, three regencies", standard(crash(2), 3));
}

/// Bags of acceptors stand for exactly the states with named acceptors.
#[test]
fn symmetry_loses_nothing() {
    let named = Reduction {
        symmetric: false,
        ..REDUCED
    };
    for (quorums, regencies) in [(fab(1), 2), (crash(1), 3)] {
        let bags = walk(&standard(quorums, regencies));
        let named = walk(&OneDecree::with(quorums, Standard, regencies, 2, named));
        assert_eq!(bags.iter().map(orders).sum::<usize>(), named.len());
        let sorted: HashSet<State> = named.into_iter().map(without_plans).collect();
        assert_eq!(sorted, bags);
    }
}

/// A leader that shows its voucher first and proposes later reaches no state that one who does both at once does not.
#[test]
fn merging_voucher_and_proposal_loses_nothing() {
    let apart = Reduction {
        merged: false,
        ..REDUCED
    };
    let model = || OneDecree::with(fab(1), Standard, 2, 2, apart);
    holds("mode F, n=6, two regencies, plans kept", model());
    let apart: HashSet<State> = walk(&model()).into_iter().map(without_plans).collect();
    assert_eq!(apart, walk(&standard(fab(1), 2)));
}
