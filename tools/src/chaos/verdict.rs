//! What a run of `chaos` comes to.

use std::collections::BTreeMap;

use serde::Serialize;
use twostep_bench::mixture::MixtureReport;
use twostep_tests::checkers::calls::Judgement;

use crate::check;
use crate::load::{grouped, time};

/// The last line of `chaos --json`.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// What to say to have the same troubles again.
    pub seed: u64,
    /// The fault model, `fab` or `crash`.
    pub mode: String,
    /// How many faulty nodes the cluster bears.
    pub f: usize,
    /// How long it lasted, from the first call to the last. Seconds.
    pub seconds: f64,
    /// Rounds of trouble.
    pub rounds: u64,
    /// Which trouble was made, how often, and how long service took to come back.
    pub troubles: BTreeMap<String, Suffered>,
    /// How often a node was ended.
    pub kills: u64,
    /// The nodes that were faulty.
    pub faulty: Vec<u16>,
    /// Calls that committed.
    pub operations: u64,
    /// Everything that is wrong: with the history, with progress, with nodes.
    pub violations: u64,
    /// Acknowledged increments that are gone.
    pub lost: u64,
    /// Increments that were counted and not made.
    pub duplicates: u64,
    /// Whether every key is known to be linearizable.
    pub linearizable: bool,
    /// The longest time in which nothing committed. Milliseconds.
    pub longest_unavailability_ms: u64,
    /// The longest time from the end of a trouble until every worker had read its counter. Milliseconds.
    pub longest_recovery_ms: u64,
    /// Whether all learners that tell the truth came to the same decree and have equal digests.
    pub learners_agree: bool,
    /// What is wrong besides the history, in words.
    pub wrong: Vec<String>,
    /// What the load counted.
    pub load: MixtureReport,
    /// What the history comes to.
    pub history: Judgement,
}

/// One kind of trouble.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Suffered {
    /// How often it was made.
    pub times: u64,
    /// The longest time from its end until every worker had read its counter. Milliseconds.
    pub longest_recovery_ms: u64,
}

impl Verdict {
    /// Whether everything is as it should be.
    pub fn is_clean(&self) -> bool {
        self.violations == 0 && self.linearizable && self.learners_agree && self.history.is_clean()
    }

    /// It in words.
    pub fn lines(&self) -> Vec<String> {
        let word = if self.is_clean() {
            "CLEAN"
        } else {
            "NOT CLEAN"
        };
        let suffered = |(kind, suffered): (&String, &Suffered)| {
            let recovery = time(suffered.longest_recovery_ms * 1000);
            format!("{kind} {} ({recovery})", suffered.times)
        };
        let troubles: Vec<String> = self.troubles.iter().map(suffered).collect();
        let mut lines = vec![
            format!("verdict: {word}"),
            format!(
                "  {} rounds of trouble in {:.0} s, {} processes ended; how often, and the longest until service was back: {}",
                self.rounds,
                self.seconds,
                self.kills,
                troubles.join(", "),
            ),
            format!(
                "  longest unavailability {}, longest recovery {}; {} calls made again under their numbers, {} sessions",
                time(self.longest_unavailability_ms * 1000),
                time(self.longest_recovery_ms * 1000),
                grouped(self.load.called_again),
                self.load.sessions
            ),
        ];
        let judgement = check::lines(&self.history);
        lines.extend(judgement.iter().map(|line| format!("  {line}")));
        let agree = if self.learners_agree {
            "agree"
        } else {
            "DO NOT AGREE"
        };
        lines.push(format!("  the learners that tell the truth {agree}"));
        lines.extend(self.wrong.iter().map(|what| format!("  WRONG: {what}")));
        lines.push(format!("  repeat with --seed {}", self.seed));
        lines
    }
}
