//! Every reachable state, kept whole.
//!
//! stateright keeps 64-bit fingerprints, which may collide. This walk keeps the states themselves, so equal counts
//! say that no state was lost; and sets of states are what the reductions are judged by.

use std::collections::HashSet;

use stateright::Model;
use twostep_engine::rules::Rules;

use super::acceptor::{Acceptor, Letter, Plan, Vote};
use super::decree::{OneDecree, State};

/// All states of a model.
pub fn walk<R: Rules>(model: &OneDecree<R>) -> HashSet<State> {
    let mut seen: HashSet<State> = model.init_states().into_iter().collect();
    let mut waiting: Vec<State> = seen.iter().cloned().collect();
    let mut actions = Vec::new();
    while let Some(state) = waiting.pop() {
        model.actions(&state, &mut actions);
        for action in actions.drain(..) {
            if let Some(next) = model.next_state(&state, action)
                && !seen.contains(&next)
            {
                seen.insert(next.clone());
                waiting.push(next);
            }
        }
    }
    seen
}

/// The same state without the plans that acceptors keep.
pub fn without_plans(mut state: State) -> State {
    for acceptor in &mut state.acceptors {
        acceptor.plan = None;
    }
    state.acceptors.sort_unstable();
    state
}

/// How many states with named acceptors a bag stands for: its different orders.
pub fn orders(state: &State) -> usize {
    let mut orders = 1;
    let mut equal = 0;
    for (place, acceptor) in state.acceptors.iter().enumerate() {
        let again = place > 0 && state.acceptors[place - 1] == *acceptor;
        equal = if again { equal + 1 } else { 1 };
        // n! / (k1!·k2!·…), one factor at a time: before each division the product holds a binomial coefficient.
        orders = orders * (place + 1) / equal;
    }
    orders
}

/// The same state with A and B exchanged.
pub fn exchanged(mut state: State) -> State {
    for acceptor in &mut state.acceptors {
        *acceptor = exchanged_acceptor(*acceptor);
    }
    state.acceptors.sort_unstable();
    state.proposed = state.proposed.map(|letter| letter.map(other));
    state
}

fn exchanged_acceptor(acceptor: Acceptor) -> Acceptor {
    let vote = |vote: Vote| Vote {
        letter: other(vote.letter),
        ..vote
    };
    Acceptor {
        promised: acceptor.promised,
        plan: acceptor.plan.map(|plan| match plan {
            Plan::Free => Plan::Free,
            Plan::Must(letter) => Plan::Must(other(letter)),
        }),
        vote: acceptor.vote.map(vote),
        reports: acceptor
            .reports
            .map(|report| report.map(|said| said.map(vote))),
        told: acceptor.told.map(|told| (told & 1) << 1 | told >> 1),
    }
}

fn other(letter: Letter) -> Letter {
    assert!(letter.0 < 2, "only two values can be exchanged");
    Letter(1 - letter.0)
}
