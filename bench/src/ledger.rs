//! What one session was told, held against exactly once.
//!
//! All calls of a session increment one key that nobody else touches. Executed exactly once each, they get the values
//! 1, 2, 3, …, each value once, in some order close to that. So
//!
//! - a value that came twice is a *duplicate*: two calls were answered from one execution;
//! - a value that nobody got is a *gap*, unless a call ended as unknown and may have got it;
//! - a final value above committed + unknown calls is a *duplicate* as well: something was executed that was not called;
//! - a final value below the largest one seen is a *gap*: something was taken back.

use std::collections::BTreeSet;

/// Values that may be above the lowest missing one before that one is taken for missing. A session has at most 64
/// calls under way, so this many pass only an answer that will never come.
const AHEAD_MAX: usize = 1024;
/// Missing values that are remembered one by one, in case their answer does come.
const HOLES_MAX: usize = 65_536;

/// The values of one session.
#[derive(Debug)]
pub struct Ledger {
    /// The lowest value that has not come and is not taken for missing.
    next: u64,
    /// Values above `next` that have come.
    ahead: BTreeSet<u64>,
    /// Values below `next` that have not come.
    holes: BTreeSet<u64>,
    /// Different values that have come.
    distinct: u64,
    /// The largest value that has come.
    highest: u64,
    committed: u64,
    unknown: u64,
    repeated: u64,
}

/// What a ledger says at the end. Both are 0 if every call was executed exactly once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Values that no call got although no call ended unknown, and values that were taken back.
    pub gaps: u64,
    /// Values that came more than once, and executions beyond the calls that were made.
    pub duplicates: u64,
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger {
            next: 1,
            ahead: BTreeSet::new(),
            holes: BTreeSet::new(),
            distinct: 0,
            highest: 0,
            committed: 0,
            unknown: 0,
            repeated: 0,
        }
    }
}

impl Ledger {
    /// A call was answered with this value, at least 1.
    pub fn committed(&mut self, value: u64) {
        self.committed += 1;
        self.highest = self.highest.max(value);
        if value == self.next {
            self.next += 1;
            self.follow();
        } else if value < self.next {
            if !self.holes.remove(&value) {
                self.repeated += 1;
                return;
            }
        } else if !self.ahead.insert(value) {
            self.repeated += 1;
            return;
        }
        self.distinct += 1;
        if self.ahead.len() > AHEAD_MAX {
            self.skip();
        }
    }

    /// A call ended as unknown, or was executed and its value is not known.
    pub fn unknown(&mut self) {
        self.unknown += 1;
    }

    /// The calls that were answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.committed
    }

    /// What is wrong, given what the key holds at the end (0 if it does not exist); `None` if that could not be read.
    #[must_use]
    pub fn findings(&self, last: Option<u64>) -> Findings {
        let end = last.unwrap_or(self.highest);
        let taken_back = self.highest.saturating_sub(end);
        let never_seen = end.max(self.highest) - self.distinct;
        let never_called = end.saturating_sub(self.committed + self.unknown);
        Findings {
            gaps: taken_back + never_seen.saturating_sub(self.unknown),
            duplicates: self.repeated + never_called,
        }
    }

    /// Moves `next` past values that have come already.
    fn follow(&mut self) {
        while self.ahead.first() == Some(&self.next) {
            self.ahead.pop_first();
            self.next += 1;
        }
    }

    /// Takes the values up to the next one that has come for missing.
    fn skip(&mut self) {
        let Some(first) = self.ahead.first().copied() else {
            return;
        };
        for value in self.next..first {
            // Beyond the bound an answer that does come counts as repeated: such a run is broken anyway.
            if self.holes.len() < HOLES_MAX {
                self.holes.insert(value);
            } else {
                break;
            }
        }
        self.next = first;
        self.follow();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(values: impl IntoIterator<Item = u64>) -> Ledger {
        let mut ledger = Ledger::default();
        values.into_iter().for_each(|value| ledger.committed(value));
        ledger
    }

    const CLEAN: Findings = Findings {
        gaps: 0,
        duplicates: 0,
    };

    #[test]
    fn every_value_once_in_any_order_is_clean() {
        assert_eq!(ledger([]).findings(Some(0)), CLEAN);
        assert_eq!(ledger(1..=1000).findings(Some(1000)), CLEAN);
        assert_eq!(ledger([3, 1, 2, 5, 4]).findings(Some(5)), CLEAN);
        assert_eq!(ledger((1..=64).rev()).findings(Some(64)), CLEAN);
        assert_eq!(ledger(1..=10).findings(None), CLEAN);
    }

    #[test]
    fn repeated_values_are_duplicates() {
        assert_eq!(ledger([1, 2, 2]).findings(Some(2)).duplicates, 1);
        assert_eq!(ledger([1, 3, 3, 2]).findings(Some(3)).duplicates, 1);
        assert_eq!(ledger([1, 1, 1]).findings(Some(1)).duplicates, 2);
    }

    #[test]
    fn missing_values_are_gaps_unless_a_call_is_unknown() {
        assert_eq!(
            ledger([1, 2, 4]).findings(Some(4)),
            Findings {
                gaps: 1,
                duplicates: 1
            }
        );
        let mut doubtful = ledger([1, 2, 4]);
        doubtful.unknown();
        assert_eq!(doubtful.findings(Some(4)), CLEAN);
        assert_eq!(
            doubtful.findings(Some(5)),
            Findings {
                gaps: 1,
                duplicates: 1
            }
        );
        doubtful.committed(3);
        assert_eq!(
            doubtful.findings(Some(5)),
            CLEAN,
            "the unknown one may be the last"
        );
        assert_eq!(doubtful.findings(Some(4)), CLEAN, "or not executed");
    }

    #[test]
    fn an_execution_that_nobody_was_told_of_is_found_at_the_end() {
        assert_eq!(
            ledger(1..=5).findings(Some(6)),
            Findings {
                gaps: 1,
                duplicates: 1
            }
        );
        assert_eq!(ledger(1..=5).findings(Some(4)).gaps, 1, "taken back");
        assert_eq!(
            ledger(1..=5).findings(None),
            CLEAN,
            "cannot be found without reading back"
        );
    }

    #[test]
    fn a_hole_takes_bounded_memory_and_may_still_be_filled() {
        let mut holed = ledger(2..=100_000);
        assert!(holed.ahead.len() <= AHEAD_MAX);
        assert_eq!(holed.findings(Some(100_000)).gaps, 1);
        holed.committed(1);
        assert_eq!(holed.findings(Some(100_000)), CLEAN);
        holed.committed(1);
        assert_eq!(holed.findings(Some(100_000)).duplicates, 1);
        let absurd = ledger((0..5000).map(|step| 1 + (step << 50)));
        assert!(absurd.holes.len() <= HOLES_MAX && absurd.findings(None).gaps > 1 << 50);
    }
}
