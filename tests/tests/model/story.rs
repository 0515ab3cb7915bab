//! A counterexample in readable words.
//!
//! The states of a path are bags, in which acceptors have no names. The story gives them names and follows each: the
//! acceptor that takes a step is any one whose state is the one that the step starts from.

use std::fmt::Write as _;

use stateright::Path;
use twostep_engine::quorum::FaultModel;
use twostep_engine::rules::Rules;

use super::acceptor::{Acceptor, Letter, Plan, Vote};
use super::decree::{Action, OneDecree, State, Step};

/// Tells a path step by step, and at its end who decided what.
pub fn tell<R: Rules>(model: &OneDecree<R>, path: Path<State, Action>) -> String {
    let mut story = String::new();
    let mut cast: Option<Vec<Acceptor>> = None;
    let mut shown_last = String::new();
    for (count, (state, action)) in path.into_vec().into_iter().enumerate() {
        let cast = cast.get_or_insert_with(|| state.acceptors.clone());
        let (what, why) = match action {
            Some(Action::Act(place, step)) => {
                let before = state.acceptors[place];
                let who = cast
                    .iter()
                    .position(|acceptor| *acceptor == before)
                    .expect("the bag and the cast hold the same acceptors");
                let said = act(model, cast, who, step);
                cast[who] = model.after(before, step).expect("the step was possible");
                said
            }
            Some(Action::Lead(regency, letter, plan)) => (
                format!("the leader of regency {regency} proposes {letter}"),
                shown(model, cast, regency, plan),
            ),
            None => {
                for letter in model.chosen(&state) {
                    let deciders = decision(model, cast, letter);
                    writeln!(story, "      A learner decides {letter}: {deciders}.")
                        .expect("a string takes it");
                }
                break;
            }
        };
        let why = match why {
            why if why.is_empty() => why,
            why if why == shown_last => "; the same voucher".to_owned(),
            why => {
                shown_last.clone_from(&why);
                why
            }
        };
        writeln!(story, "{:>4}. {what}{why}", count + 1).expect("a string takes it");
    }
    story
}

fn name(place: usize) -> String {
    format!("a{}", place + 1)
}

fn said(report: Option<Vote>) -> String {
    report.map_or_else(
        || "no vote".to_owned(),
        |vote| format!("{} in regency {}", vote.letter, vote.psn),
    )
}

/// What the acceptor does, and the voucher that allows it.
fn act<R: Rules>(
    model: &OneDecree<R>,
    cast: &[Acceptor],
    who: usize,
    step: Step,
) -> (String, String) {
    let (acceptor, name) = (cast[who], name(who));
    let name_entering = |regency: u8| {
        if regency > acceptor.promised {
            let report = said(acceptor.vote);
            format!("{name} enters regency {regency} (its report: {report}) and")
        } else {
            name.clone()
        }
    };
    match step {
        Step::Enter(regency) => {
            let report = said(acceptor.vote);
            let what = format!("{name} enters regency {regency} (its report: {report})");
            (what, String::new())
        }
        Step::Keep(regency, plan) => {
            let what = format!("{} keeps its plan", name_entering(regency));
            (what, shown(model, cast, regency, plan))
        }
        Step::Vote(regency, letter, plan) => {
            let mut what = format!(
                "{} votes {letter} in regency {regency}",
                name_entering(regency)
            );
            if regency < acceptor.promised {
                what += &format!(", although it promised regency {}", acceptor.promised);
            }
            // In mode C an acceptor sees no voucher: it believes the leader, whose own step shows it.
            let why = plan
                .filter(|_| model.quorums.model == FaultModel::Fab)
                .map_or_else(String::new, |plan| shown(model, cast, regency, plan));
            (what, why)
        }
    }
}

/// The voucher with the fewest lies that proves a plan, and its signers.
fn shown<R: Rules>(model: &OneDecree<R>, cast: &[Acceptor], regency: u8, plan: Plan) -> String {
    let signers = model.signers();
    if regency == 0 {
        return String::new();
    }
    let voucher = model.table(regency).simplest(cast, signers, plan);
    let mut entries = Vec::new();
    for (kind, needed) in voucher.counts.iter().enumerate() {
        let report = model.kinds().report(kind);
        let mut by = cast
            .iter()
            .enumerate()
            .filter(|(_, acceptor)| acceptor.reports[usize::from(regency)] == Some(report))
            .map(|(place, _)| name(place));
        let mut last = None;
        for _ in 0..*needed {
            let signer = by.next().inspect(|signer| last = Some(signer.clone()));
            let repeated = last.clone().filter(|_| signers.repeat);
            let signer = signer.or(repeated).unwrap_or_else(|| "a liar".to_owned());
            entries.push(format!("{signer}: {}", said(report)));
        }
    }
    let bound = match plan {
        Plan::Free => "leaves it free".to_owned(),
        Plan::Must(letter) => format!("binds {letter}"),
    };
    format!("; the voucher [{}] {bound}", entries.join(", "))
}

/// Whose votes make a learner decide this value.
fn decision<R: Rules>(model: &OneDecree<R>, cast: &[Acceptor], letter: Letter) -> String {
    let voters = |regency: u8| {
        let told = cast
            .iter()
            .enumerate()
            .filter(|(_, acceptor)| acceptor.has_told(regency, letter))
            .map(|(place, _)| name(place));
        told.collect::<Vec<_>>()
    };
    let counted: Vec<u8> = if model.adds_across_regencies() {
        (0..model.regencies).collect()
    } else {
        let most = (0..model.regencies).max_by_key(|regency| voters(*regency).len());
        most.into_iter().collect()
    };
    let mut said: Vec<String> = counted
        .into_iter()
        .filter(|regency| !voters(*regency).is_empty())
        .map(|regency| {
            format!(
                "{} voted it in regency {regency}",
                voters(regency).join(" ")
            )
        })
        .collect();
    match model.signers().liars {
        0 => {}
        1 => said.push("the liar says so, too".to_owned()),
        many => said.push(format!("{many} liars say so, too")),
    }
    said.join(", ")
}
