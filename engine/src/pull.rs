//! When a learner with a gap asks for what it lacks.
//!
//! ```text
//!  pull, a range ──► values ──► fetch ──► bodies, executed ──► rest ──► pull, the next range …     while it is ranges behind
//!  pull          ──► values ──► fetch ──► bodies, executed ──► pull …                              at the end
//! ```
//!
//! *Rest.* A learner far behind takes all that its machine can give, and much of what those that serve it can, from the order of what
//! is new. So it rests after each range, up to [`REST_MAX`] times as long as the range took. The others go faster meanwhile,
//! up to twice as fast: it rests so little that it gains on them all the same. Whoever is nearly there, or had to ask twice, does not
//! rest.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::types::{Decree, NodeId, NodeSet, Time};

/// The most values in one answer to a pull, and the most bodies asked for at once: a range.
pub const PULL_MAX: u64 = 256;

/// How many times as long as a range took a learner rests at most.
pub const REST_MAX: u32 = 3;

/// How many times as fast as meanwhile others may order while it rests.
const FASTER: u32 = 2;

/// The pulls of a learner with a gap.
#[derive(Debug, Default)]
pub struct Pull {
    /// When to ask next; none while there is no gap.
    pub at: Option<Time>,
    /// Up to where values were asked for last.
    pub up_to: Decree,
    /// When they were.
    pub said: Time,
    /// What was known to be learned elsewhere at that time, and how far behind it this learner was.
    known: Decree,
    behind: u64,
    /// How many values that were.
    range: u64,
    /// How often they were asked for.
    pub times: u32,
    /// What was learned when the time was set: progress postpones a pull.
    pub learned: Decree,
    /// When that was.
    pub since: Time,
    /// Who was asked for which body, and when. At most W entries.
    pub asked: BTreeMap<Decree, (NodeId, Time)>,
    /// Those that were asked for a body in vain since the gap opened: others are asked first.
    pub shy: NodeSet,
}

impl Pull {
    /// `count` values above `learned` are asked for; if there is no answer, again after `wait`.
    pub fn ask(&mut self, now: Time, known: Decree, learned: Decree, count: u64, wait: Duration) {
        self.up_to = learned.plus(count);
        self.range = count;
        self.said = now;
        (self.known, self.behind) = (known, known.since(learned));
        self.learned = learned;
        self.times = self.times.saturating_add(1);
        self.at = Some(now + wait);
    }

    /// The last question is answered in full, and up to `known` there is more to catch up with: asks on after a rest.
    pub fn ask_on(&mut self, now: Time, known: Decree, learned: Decree) {
        let rest = self.rest(now, known, known.since(learned));
        self.at = Some(now + rest);
        self.since = now;
        self.learned = learned;
        self.times = 0;
    }

    fn rest(&self, now: Time, known: Decree, behind: u64) -> Duration {
        if behind <= self.range || self.times > 1 {
            return Duration::ZERO;
        }
        let short = |decrees: u64| u32::try_from(decrees).unwrap_or(u32::MAX);
        let gained = short(self.behind.saturating_sub(behind));
        let ordered = short(known.since(self.known).max(1));
        let took = now.since(self.said);
        let bearable = took.saturating_mul(gained) / ordered.saturating_mul(FASTER + 1);
        bearable.min(took.saturating_mul(REST_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// How long a learner rests that was 10,000 behind, took a range in 100 ms, and saw the others order so many decrees meanwhile.
    fn rest(ordered: u64) -> Duration {
        let mut pull = Pull::default();
        let (known, learned) = (Decree(11_000), Decree(1_000));
        pull.ask(Time(0), known, learned, PULL_MAX, Duration::from_secs(1));
        pull.ask_on(Time(100 * MS), known.plus(ordered), learned.plus(PULL_MAX));
        pull.at.unwrap().since(Time(100 * MS))
    }

    #[test]
    fn it_rests_as_long_as_it_gains_on_the_others() {
        assert_eq!(rest(0), Duration::from_millis(300), "not for ever");
        for ordered in [20, 50, 100, 200] {
            let rest = rest(ordered).as_millis();
            // While it rests the others order up to twice as fast.
            let lost = u128::from(FASTER * u32::try_from(ordered).unwrap()) * rest / 100;
            let gained = u128::from(PULL_MAX - ordered);
            assert!(rest > 0 && lost < gained, "{ordered}: rests {rest} ms");
        }
        assert_eq!(rest(256), Duration::ZERO, "it gains nothing");
        assert_eq!(rest(1_000), Duration::ZERO, "it falls back");
    }

    #[test]
    fn it_does_not_rest_if_nearly_there_or_not_answered_at_once() {
        for (known, times, what) in [(512, 1, "nearly there"), (9_000, 2, "asked twice")] {
            let (known, learned) = (Decree(known), Decree(0));
            let mut pull = Pull::default();
            for _ in 0..times {
                pull.ask(Time(0), known, learned, PULL_MAX, Duration::from_secs(1));
            }
            pull.ask_on(Time(100 * MS), known, learned.plus(PULL_MAX));
            assert_eq!(pull.at, Some(Time(100 * MS)), "{what}");
        }
    }
}
