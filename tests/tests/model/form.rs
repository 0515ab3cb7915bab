//! Which form runs, and where its figures are printed.

use std::io::Write as _;

use twostep_engine::quorum::{FaultModel, Quorums};

/// Whether the full form runs: in a release build, unless `TWOSTEP_MODEL` says `full` or `small`.
pub fn full() -> bool {
    match std::env::var("TWOSTEP_MODEL").as_deref() {
        Ok("full") => true,
        Ok("small") => false,
        Ok(unknown) => panic!("TWOSTEP_MODEL is {unknown:?}; it must be \"full\" or \"small\""),
        Err(_) => !cfg!(debug_assertions),
    }
}

/// Prints figures and traces. The full form is run to be read, so there the test harness does not capture them.
pub fn say(text: &str) {
    if full() {
        writeln!(std::io::stdout().lock(), "{text}").expect("the figures are printed");
    } else {
        println!("{text}");
    }
}

/// Mode F.
pub fn fab(f: usize) -> Quorums {
    let model = FaultModel::Fab;
    let (acceptors, learners) = (model.acceptors(f), model.learners(f));
    Quorums::new(model, f, acceptors, learners, model.proposers(f)).expect("the sizes of the model")
}

/// Mode C.
pub fn crash(f: usize) -> Quorums {
    let model = FaultModel::Crash;
    let (acceptors, learners) = (model.acceptors(f), model.learners(f));
    Quorums::new(model, f, acceptors, learners, model.proposers(f)).expect("the sizes of the model")
}
