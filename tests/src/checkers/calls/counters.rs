//! Counters lose nothing and count nothing twice: how many increments are missing, and how many too many.
//!
//! A counter is a key to which calls add 1 and which nothing else changes. Each answered increment tells a value, and no two the
//! same. So, of each counter:
//!
//! - *lost*: an increment or a read that was made after value `v` had been told finds less than `v`. The largest such
//!   difference counts: so many acknowledged increments are gone;
//! - *duplicates*: a value that was told twice although nothing was lost, and what the counter stands at beyond the
//!   increments that were made.
//!
//! *Cost*: a sort and one pass for each counter.

use super::register::{Asked, Held, Told};
use super::search::Step;

/// What is wrong with a counter; both are 0 if nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Acknowledged increments that are gone.
    pub lost: u64,
    /// Increments that were counted without having been made.
    pub duplicates: u64,
}

/// Judges the calls of one key; none if it is no counter.
pub fn count(steps: &[Step]) -> Option<Counted> {
    let is_count = |step: &Step| matches!(step.asked, Asked::Add(1) | Asked::Get);
    if !steps.iter().all(is_count) || !steps.iter().any(|step| step.asked == Asked::Add(1)) {
        return None;
    }
    let mut told: Vec<(u64, i64)> = steps.iter().filter_map(acknowledged).collect();
    told.sort_unstable();
    let mut told = told.into_iter().peekable();
    let mut by_invocation: Vec<&Step> = steps.iter().collect();
    by_invocation.sort_by_key(|step| step.invoked);
    let (mut floor, mut highest) = (0, 0);
    let mut counted = Counted::default();
    let mut values = Vec::new();
    for step in by_invocation {
        while let Some((_, value)) = told.next_if(|(answered, _)| *answered < step.invoked) {
            floor = floor.max(value);
        }
        let Some(found) = found(step) else { continue };
        counted.lost = counted.lost.max(floor.abs_diff(found.min(floor)));
        let reached = found.saturating_add(i64::from(step.asked != Asked::Get));
        highest = highest.max(reached);
        if step.asked != Asked::Get && found >= floor {
            values.push(reached);
        }
    }
    values.sort_unstable();
    let repeated = values.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64;
    let made = steps.iter().filter(|step| step.asked != Asked::Get).count() as u64;
    counted.duplicates = repeated + highest.unsigned_abs().saturating_sub(made);
    Some(counted)
}

/// When an increment was answered with which value.
fn acknowledged(step: &Step) -> Option<(u64, i64)> {
    match (step.asked, step.told) {
        (Asked::Add(_), Some(Told::Number(value))) => Some((step.answered, value)),
        _ => None,
    }
}

/// What the counter stood at before the step, as far as its answer says.
fn found(step: &Step) -> Option<i64> {
    match step.told? {
        Told::Number(value) => value.checked_sub(1),
        Told::Value(Held::Number(value)) => Some(value),
        Told::Absent => Some(0),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(invoked: u64, answered: u64, value: i64) -> Step {
        Step::new(
            invoked,
            Some(answered),
            Asked::Add(1),
            Some(Told::Number(value)),
        )
    }

    fn get(invoked: u64, answered: u64, value: i64) -> Step {
        let told = match value {
            0 => Told::Absent,
            value => Told::Value(Held::Number(value)),
        };
        Step::new(invoked, Some(answered), Asked::Get, Some(told))
    }

    fn counted(steps: &[Step]) -> (u64, u64) {
        let counted = count(steps).expect("it is a counter");
        (counted.lost, counted.duplicates)
    }

    #[test]
    fn one_after_the_other_or_together_is_clean() {
        assert_eq!(counted(&[add(1, 2, 1), add(3, 4, 2), get(5, 6, 2)]), (0, 0));
        assert_eq!(counted(&[add(1, 5, 2), add(2, 6, 1), get(3, 4, 1)]), (0, 0));
        let open = Step::new(1, None, Asked::Add(1), None);
        assert_eq!(counted(&[open, add(3, 4, 2), get(5, 6, 2)]), (0, 0));
        assert_eq!(counted(&[open, get(5, 6, 0), get(7, 8, 1)]), (0, 0));
    }

    #[test]
    fn what_was_told_and_is_gone_is_lost() {
        assert_eq!(counted(&[add(1, 2, 1), add(3, 4, 2), get(5, 6, 0)]), (2, 0));
        // The next increment begins anew: 3 are lost, and its old value is not a second execution.
        assert_eq!(
            counted(&[add(1, 2, 1), add(3, 4, 2), add(5, 6, 3), add(7, 8, 1)]),
            (3, 0)
        );
    }

    #[test]
    fn what_was_not_called_is_a_duplicate() {
        assert_eq!(counted(&[add(1, 2, 1), get(3, 4, 2)]), (0, 1));
        assert_eq!(counted(&[add(1, 2, 1), add(3, 4, 3)]), (0, 1));
        assert_eq!(counted(&[add(1, 5, 1), add(2, 6, 1)]), (0, 1));
    }

    #[test]
    fn other_keys_are_no_counters() {
        let put = Step::new(1, Some(2), Asked::Put(Held::Number(1)), Some(Told::Done));
        assert_eq!(count(&[add(3, 4, 2), put]), None);
        assert_eq!(count(&[get(3, 4, 2)]), None);
    }
}
