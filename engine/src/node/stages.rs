//! Where the time of a node goes, stage by stage, at next to no cost.
//!
//! ```text
//!  receive ─► check ─► batch ─► sync ─► quorum ─► execute ─► reply
//! ```
//!
//! | stage | from … to | clock | which |
//! |---|---|---|---|
//! | receive | the turn begins … its messages are read and their packets opened, without what handling them took | real | one turn in [`SAMPLE_EVERY`] |
//! | check | a Submit or Propose is handed over … it waits at the leader, or its vote is on its way | real | those of such a turn |
//! | batch | a bundle comes to the leader … it is proposed; the one of each batch that waited longest | of the turns | every decree |
//! | quorum | a proposal is made or arrives … enough votes for it are here | of the turns | every decree |
//! | sync | the journal turns to the disk … a group of records is durable | real | every group |
//! | execute | a batch is handed to the state machine … its replies are there | real | every decree |
//! | reply | they are there … they wait in the links of their clients | real | every decree |
//!
//! The clock of the turns is read once per turn, so what begins and ends in one turn took zero there. Real time is read
//! per decree and in the sampled turns only: about 0.1 µs per decree and 50 ns per message of such a turn.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::node::status::StageStatus;
use crate::types::{Decree, Time};

/// Prime, so that a pattern in the turns does not hide from it.
const SAMPLE_EVERY: u32 = 61;
/// The largest time that is told apart. Nanoseconds.
const NANOS_MAX: u64 = 60_000_000_000;

/// A stage. See the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Receive,
    Check,
    Batch,
    Quorum,
    Execute,
    Reply,
}

const NAMES: [&str; 6] = ["receive", "check", "batch", "quorum", "execute", "reply"];

/// The histograms of a node.
#[derive(Debug)]
pub(super) struct Stages {
    histograms: [Histogram<u64>; NAMES.len()],
    /// When the proposal of an open decree was first seen, by decree modulo the window.
    proposed: Vec<(Decree, Time)>,
    turns: u32,
    /// What the messages of a sampled turn took so far; none in other turns.
    handled: Option<Duration>,
}

impl Stages {
    /// Histograms for a window of so many decrees.
    pub fn new(window: u64) -> Stages {
        let window = usize::try_from(window).expect("a window fits into memory");
        let histogram =
            || Histogram::new_with_bounds(1, NANOS_MAX, 2).expect("bounds of a histogram");
        Stages {
            histograms: std::array::from_fn(|_| histogram()),
            proposed: vec![(Decree::NONE, Time(0)); window],
            turns: 0,
            handled: None,
        }
    }

    /// Notes that a stage took so long.
    pub fn record(&mut self, stage: Stage, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.histograms[stage as usize].saturating_record(nanos);
    }

    /// Whether the messages of this turn are to be measured.
    pub fn is_sampling(&self) -> bool {
        self.handled.is_some()
    }

    /// A message of a sampled turn took so long; a `proposal` is one that carries requests.
    pub fn handled(&mut self, took: Duration, proposal: bool) {
        if let Some(handled) = &mut self.handled {
            *handled += took;
            if proposal {
                self.record(Stage::Check, took);
            }
        }
    }

    /// All messages of a turn are handled, so long after it began.
    pub fn turn(&mut self, since: impl FnOnce() -> Duration) {
        if let Some(handled) = self.handled.take()
            && !handled.is_zero()
        {
            self.record(Stage::Receive, since().saturating_sub(handled));
        }
        self.turns = self.turns.wrapping_add(1);
        if self.turns.is_multiple_of(SAMPLE_EVERY) {
            self.handled = Some(Duration::ZERO);
        }
    }

    /// The proposal for a decree was made, or voted for.
    pub fn proposed(&mut self, decree: Decree, now: Time) {
        let slot = self.slot(decree);
        if slot.0 != decree {
            *slot = (decree, now);
        }
    }

    /// A decree is decided by votes.
    pub fn learned(&mut self, decree: Decree, now: Time) {
        let (proposed, at) = *self.slot(decree);
        if proposed == decree {
            self.record(Stage::Quorum, now.since(at));
        }
    }

    /// The summaries by name, for status; the journal keeps the one of its syncs itself.
    pub fn summaries(&self, syncs: Option<&Histogram<u64>>) -> BTreeMap<String, StageStatus> {
        let summaries = NAMES.iter().zip(&self.histograms);
        summaries
            .chain(syncs.map(|syncs| (&"sync", syncs)))
            .filter(|(_, histogram)| !histogram.is_empty())
            .map(|(name, histogram)| {
                let summary = StageStatus {
                    count: histogram.len(),
                    p50_ns: histogram.value_at_quantile(0.5),
                    p99_ns: histogram.value_at_quantile(0.99),
                    p999_ns: histogram.value_at_quantile(0.999),
                    max_ns: histogram.max(),
                };
                ((*name).to_owned(), summary)
            })
            .collect()
    }

    fn slot(&mut self, decree: Decree) -> &mut (Decree, Time) {
        let window = self.proposed.len() as u64;
        let place = usize::try_from(decree.0 % window).expect("below the window");
        &mut self.proposed[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_is_timed_from_the_first_sight_of_its_proposal() {
        let mut stages = Stages::new(8);
        stages.proposed(Decree(3), Time(1_000));
        stages.proposed(Decree(3), Time(5_000));
        stages.learned(Decree(3), Time(9_000));
        stages.learned(Decree(11), Time(9_000));
        let summary = &stages.summaries(None)["quorum"];
        assert_eq!(summary.count, 1, "decree 11 was never seen proposed");
        assert!((7_900..=8_100).contains(&summary.p50_ns), "{summary:?}");
    }

    #[test]
    fn what_handling_took_is_not_receiving() {
        let mut stages = Stages::new(8);
        for _ in 0..SAMPLE_EVERY {
            assert!(!stages.is_sampling());
            stages.handled(Duration::from_micros(1), true);
            stages.turn(|| unreachable!("this turn is no sample"));
        }
        assert!(stages.is_sampling());
        stages.handled(Duration::from_micros(30), true);
        stages.handled(Duration::from_micros(10), false);
        stages.turn(|| Duration::from_micros(100));
        let summaries = stages.summaries(None);
        let near = |name: &str, micros: u64| {
            let p50 = summaries[name].p50_ns;
            assert!(p50.abs_diff(micros * 1_000) < micros * 20, "{name}: {p50}");
        };
        near("receive", 60);
        near("check", 30);
        assert_eq!(summaries["check"].count, 1);
    }
}
