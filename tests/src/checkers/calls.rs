//! What clients saw, judged: nothing but their calls and answers is known here, so that simulated and real clusters are judged alike.
//!
//! | judgement | in one sentence | where |
//! |---|---|---|
//! | linearizable | each key gave the answers of one that did the calls one by one, each between its making and its answer | [`search`] |
//! | as told | one of these orders is that of the decrees that answers tell | [`layers`] |
//! | in order | what was made after an answer is executed behind it, by the decrees that answers tell | [`decrees`] |
//! | one answer | a number of a session has one operation, one decree and one reply, however often it was called | [`merged`] |
//! | lost, duplicates | how many acknowledged increments of counters are gone, and how many were counted and not made | [`counters`] |
//!
//! Keys are independent of each other, so each is searched alone; all begin without a value. What was rejected or never sent
//! has no place in the order, so an effect of it shows as a value from nowhere.
//!
//! *Cost*: sorts, and for each key a search that is linear in practice. *Memory*: a few words for each call, and what [`search`]
//! says.

pub mod counters;
pub mod decrees;
pub mod layers;
pub mod merged;
pub mod register;
pub mod search;
mod under_way;

use std::collections::BTreeMap;

use serde::Serialize;
use twostep_engine::client::history::{Call, End};

use self::merged::Effect;
use self::register::{Texts, Told};
use self::search::{Found, Furthest, Step};

/// Violations that are told one by one; all are counted.
pub const TOLD_MAX: usize = 20;

/// What the calls of a run come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// Calls that were made.
    pub calls: u64,
    /// Those that were executed.
    pub committed: u64,
    /// Those of which nobody knows.
    pub unknown: u64,
    /// Those that were refused for good.
    pub rejected: u64,
    /// Those that were never sent.
    pub busy: u64,
    /// Keys that were called.
    pub keys: usize,
    /// Whether every key is known to be linearizable.
    pub linearizable: bool,
    /// Keys of which it could not be decided within the bound.
    pub undecided: usize,
    /// Acknowledged increments that are gone.
    pub lost: u64,
    /// Increments that were counted and not made.
    pub duplicates: u64,
    /// Everything that is wrong, counted.
    pub violations: u64,
    /// The first of them, in words.
    pub told: Vec<String>,
}

impl Judgement {
    /// Whether everything is as it should be, and decided.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.linearizable && self.undecided == 0 && self.violations == 0
    }

    fn violated(&mut self, what: String) {
        self.violations += 1;
        if self.told.len() < TOLD_MAX {
            self.told.push(what);
        }
    }
}

/// Judges the calls of all clients of a cluster whose key-value store was empty.
#[must_use]
pub fn judge(calls: &[Call]) -> Judgement {
    let mut judgement = Judgement {
        calls: calls.len() as u64,
        linearizable: true,
        ..Judgement::default()
    };
    for call in calls {
        *match call.end {
            End::Committed { .. } => &mut judgement.committed,
            End::Unknown => &mut judgement.unknown,
            End::Rejected(_) => &mut judgement.rejected,
            End::Busy => &mut judgement.busy,
        } += 1;
    }
    let (effects, contradictions) = merged::merge(calls);
    contradictions
        .into_iter()
        .for_each(|what| judgement.violated(what));
    let disorder = decrees::disorder(&effects);
    let disordered = !disorder.is_empty();
    disorder
        .into_iter()
        .for_each(|what| judgement.violated(what));
    let mut texts = Texts::default();
    let by_key = by_key(&effects, &mut texts, &mut judgement);
    judgement.keys = by_key.len();
    for (key, steps) in &by_key {
        judge_key(key, steps, &texts, &effects, disordered, &mut judgement);
    }
    judgement
}

/// The steps of each key. Bytes that are no operation have no effect, and must be answered with an error.
fn by_key<'a>(
    effects: &[Effect<'a>],
    texts: &mut Texts,
    judgement: &mut Judgement,
) -> BTreeMap<&'a [u8], Vec<Step>> {
    let mut by_key: BTreeMap<&[u8], Vec<Step>> = BTreeMap::new();
    for (call, effect) in effects.iter().enumerate() {
        let told = effect.reply.map(|reply| texts.told(reply));
        let (session, seq) = effect.name;
        match texts.asked(effect.operation) {
            Some((key, asked)) => by_key.entry(key).or_default().push(Step {
                invoked: effect.invoked,
                answered: effect.answered.unwrap_or(u64::MAX),
                asked,
                told,
                hint: effect.decree.map_or(u64::MAX, |decree| decree.0),
                call,
            }),
            None if told.is_none_or(|told| told == Told::Nonsense) => {}
            None => judgement.violated(format!(
                "number {seq} of session {session} is no operation and was answered \"{}\"",
                texts.answer(told)
            )),
        }
    }
    by_key
}

fn judge_key(
    key: &[u8],
    steps: &[Step],
    texts: &Texts,
    effects: &[Effect<'_>],
    disorder: bool,
    judgement: &mut Judgement,
) {
    let name = String::from_utf8_lossy(key);
    let claimed = layers::search_by_decrees(texts, steps);
    if claimed != Found::Linearizable {
        // Either no order explains the answers, or not the one that they tell.
        let found = search::search(texts, steps);
        judgement.linearizable &= found == Found::Linearizable;
        judgement.undecided += usize::from(found == Found::Undecided);
        let what = match (found, claimed) {
            (Found::Violated(furthest), _) => {
                Some(unexplained(&name, steps, furthest, texts, effects))
            }
            // What is wrong was said already where the decrees contradict the times.
            (_, Found::Violated(furthest)) if !disorder => Some(format!(
                "by the decrees that answers tell: {}",
                unexplained(&name, steps, furthest, texts, effects)
            )),
            _ => None,
        };
        what.into_iter().for_each(|what| judgement.violated(what));
    }
    if let Some(counted) = counters::count(steps) {
        judgement.lost += counted.lost;
        judgement.duplicates += counted.duplicates;
        for (what, count) in [
            ("acknowledged increments are gone", counted.lost),
            ("increments were counted and not made", counted.duplicates),
        ] {
            if count > 0 {
                judgement.violated(format!("key \"{name:.80}\": {count} {what}"));
            }
        }
    }
}

/// A step that no order explains, in words.
fn unexplained(
    key: &str,
    steps: &[Step],
    furthest: Furthest,
    texts: &Texts,
    effects: &[Effect<'_>],
) -> String {
    let step = steps[furthest.step];
    let effect = &effects[step.call];
    let (session, seq) = effect.name;
    let decree = effect
        .decree
        .map_or("unknown".to_owned(), |decree| decree.to_string());
    format!(
        "key \"{key:.80}\": {} (number {seq} of session {session}, decree {decree}, from {} to {} ns) was answered \"{}\"; no order of \
         the calls explains it, and after the furthest one the key holds {}",
        texts.question(step.asked),
        step.invoked,
        step.answered,
        texts.answer(step.told),
        texts.words(furthest.held),
    )
}

#[cfg(test)]
pub(crate) mod testing {
    //! Calls for the tests of the modules here.

    use super::*;
    use twostep_engine::types::{Decree, Seq, SessionId};

    /// A call of the session 1.0.
    pub fn call(invoked: u64, answered: Option<u64>, seq: u64, operation: &[u8], end: End) -> Call {
        Call {
            invoked,
            answered,
            session: SessionId {
                decree: Decree(1),
                index: 0,
            },
            seq: Seq(seq),
            operation: operation.to_vec(),
            end,
        }
    }

    /// It was executed.
    pub fn committed(decree: u64, reply: &[u8]) -> End {
        End::Committed {
            decree: Decree(decree),
            reply: Some(reply.to_vec()),
        }
    }
}
