//! Collects the reports of all loops for whoever asks how the node is.
//!
//! One round at a time; who asks meanwhile gets the next one. A round ends when every loop has reported, or when nobody waits for it any longer: a lane
//! that hangs must not end all status for ever. What comes late is of an older round, and is not taken for an answer to a newer question.

use std::time::{Duration, Instant};

use crate::node::control::{ANSWER_TIME_MAX, Asked, REQUESTS_MAX};
use crate::node::report::{ExecutionReport, LinksReport};

/// How long a round may take: who asked shall hear who did not report, before it gives up itself.
pub(super) const ROUND_TIME_MAX: Duration = ANSWER_TIME_MAX.saturating_sub(Duration::from_secs(1));

/// For whom reports are collected.
pub(super) enum Purpose {
    /// Who asked for the status, with digests or without.
    Status { asked: Asked, digests: bool },
    /// The lines of the log about readiness.
    Readiness,
}

/// Reports of all loops on their way, for who asked.
#[derive(Default)]
pub(super) struct Gathering {
    /// Whom the reports that are under way are for; nobody if none are.
    for_whom: Vec<Purpose>,
    /// Who asked since: they get newer ones.
    waiting: Vec<Purpose>,
    round: u64,
    /// When the round ends, whatever is missing.
    until: Option<Instant>,
    /// The lanes that have not reported.
    missing: Vec<usize>,
    links: Option<LinksReport>,
    execution: Option<(ExecutionReport, u64)>,
}

/// What has become of a round.
pub(super) struct Gathered {
    pub for_whom: Vec<Purpose>,
    /// Those of the lanes that reported, together.
    pub links: Option<LinksReport>,
    /// With the CPU time of its loop, in microseconds.
    pub execution: Option<(ExecutionReport, u64)>,
    /// The lanes that did not report.
    pub missing: Vec<usize>,
}

impl Gathering {
    /// Somebody asks for the status. Gives the question back if too many wait.
    pub fn ask_status(&mut self, asked: Asked, digests: bool) -> Result<(), Asked> {
        if self.waiting.len() >= REQUESTS_MAX {
            return Err(asked);
        }
        self.waiting.push(Purpose::Status { asked, digests });
        Ok(())
    }

    /// The log has something to say about readiness: once, however often it is noticed until then.
    pub fn ask_readiness(&mut self) {
        let mut asked = self.for_whom.iter().chain(&self.waiting);
        if !asked.any(|one| matches!(one, Purpose::Readiness)) {
            self.waiting.push(Purpose::Readiness);
        }
    }

    /// Whether somebody waits for a round and none is under way.
    pub fn may_begin(&self) -> bool {
        self.for_whom.is_empty() && !self.waiting.is_empty()
    }

    /// Begins a round with so many lanes. Returns its number, and whether somebody wants digests.
    pub fn begin(&mut self, now: Instant, lanes: usize) -> (u64, bool) {
        assert!(self.may_begin(), "one round at a time, for somebody");
        *self = Gathering {
            for_whom: std::mem::take(&mut self.waiting),
            round: self.round + 1,
            until: Some(now + ROUND_TIME_MAX),
            missing: (0..lanes).collect(),
            ..Gathering::default()
        };
        let with = |one: &Purpose| matches!(one, Purpose::Status { digests: true, .. });
        (self.round, self.for_whom.iter().any(with))
    }

    /// When the round under way ends at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        self.until
    }

    /// A lane has reported.
    pub fn take_links(&mut self, lane: usize, round: u64, report: LinksReport) {
        let Some(at) = self.missing.iter().position(|one| *one == lane) else {
            return;
        };
        if round != self.round {
            return;
        }
        self.missing.swap_remove(at);
        match &mut self.links {
            Some(links) => links.add(report),
            None => self.links = Some(report),
        }
    }

    /// The execution loop has reported. It is asked again only after it has, so this needs no round.
    pub fn take_execution(&mut self, report: ExecutionReport, cpu_us: u64) {
        self.execution = Some((report, cpu_us));
    }

    /// The round, if it has ended.
    pub fn take(&mut self, now: Instant) -> Option<Gathered> {
        let complete = self.missing.is_empty() && self.execution.is_some();
        if !complete && now < self.until? {
            return None;
        }
        // Between rounds there is nothing to take.
        self.until.take()?;
        let mut missing = std::mem::take(&mut self.missing);
        missing.sort_unstable();
        Some(Gathered {
            for_whom: std::mem::take(&mut self.for_whom),
            links: self.links.take(),
            execution: self.execution.take(),
            missing,
        })
    }
}
