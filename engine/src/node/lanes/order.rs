//! The order loop: the one thread that runs the replica of a node with lanes.
//!
//! A turn takes at most one chunk of every lane and whatever was executed, lets the replica end its turn, and gives the lanes the messages that
//! came of it. The clock is read once. Everything that the replica is told comes through here, so the chunks in the order in which they are taken *are*
//! the arrival log: whatever lanes made them, the same log gives the same order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tracing::{info, warn};
use twostep_net::{Sleeper, queue};

use super::chunk::{Chunk, Item};
use super::execution::{Outcome, Remote};
use super::lane::{SharedHorizon, ToLane};
use super::output::{LinkTable, Outputs};
use crate::machine::Input;
use crate::node::control::{Answer, Asked, Request};
use crate::node::core::Core;
use crate::node::faults::FAULTS_FORBIDDEN;
use crate::node::refused_time::thread_time;
use crate::node::report::{ExecutionReport, LinksReport};
use crate::node::stages::Stage;
use crate::types::Time;

/// A lane, as the order loop has it.
pub(super) struct LaneEnd {
    pub chunks: queue::Receiver<Chunk>,
    /// Takes empty chunks back.
    pub spent: queue::Sender<Chunk>,
    pub told: queue::Sender<ToLane>,
}

/// The replica with its lanes and its execution.
pub(super) struct OrderLoop {
    pub core: Core,
    pub remote: Remote,
    pub lanes: Vec<LaneEnd>,
    pub table: LinkTable,
    pub outputs: Outputs,
    pub horizon: Arc<SharedHorizon>,
    pub requests: queue::Receiver<Asked>,
    pub stopping: Arc<AtomicBool>,
    pub faults_allowed: bool,
    pub sleeper: Sleeper,
    pub gathering: Gathering,
    pub turns: u64,
    /// Outputs that a lane had no room for.
    pub dropped: u64,
}

/// Reports of all loops on their way, for who asked.
#[derive(Default)]
pub(super) struct Gathering {
    /// Whom the reports that are under way are for; nobody if none are.
    for_whom: Vec<Purpose>,
    /// Who asked since: they get newer ones.
    waiting: Vec<Purpose>,
    missing: usize,
    links: Option<LinksReport>,
    execution: Option<(ExecutionReport, u64)>,
}

enum Purpose {
    Status { asked: Asked, digests: bool },
    Readiness,
}

impl OrderLoop {
    /// Works until the node ends.
    pub fn run(mut self) {
        let mut now = Instant::now();
        while !self.stopping.load(Ordering::Acquire) {
            let worked = self.turn(now);
            let more =
                self.remote.has_outcome() || self.lanes.iter().any(|lane| !lane.chunks.is_empty());
            if !more {
                self.sleeper.wait(now, worked, self.core.deadline());
            }
            now = Instant::now();
        }
    }

    /// One turn; whether there was anything to do.
    pub fn turn(&mut self, now: Instant) -> bool {
        let time = self.core.time(now);
        let mut worked = self.take_outcomes(time);
        for lane in 0..self.lanes.len() {
            if let Some(mut chunk) = self.lanes[lane].chunks.receive() {
                self.take(lane, &mut chunk, time);
                // A lane that has enough of them lets it go.
                let _ = self.lanes[lane].spent.send(chunk);
                worked = true;
            }
        }
        self.end_turn(now);
        worked
    }

    /// Takes a chunk of a lane: the next entries of the arrival log. It is empty afterwards.
    pub fn take(&mut self, lane: usize, chunk: &mut Chunk, time: Time) {
        for item in chunk.drain() {
            match item {
                Item::Bytes { from, bytes } => {
                    let links = &mut self.outputs.router(&self.table);
                    self.core
                        .message(links, &mut self.remote, time, from, bytes);
                }
                Item::Prechecked(message) => {
                    let links = &mut self.outputs.router(&self.table);
                    self.core.prechecked(links, &mut self.remote, time, message);
                }
                Item::Up { link, party } => {
                    for (lane, older) in self.table.up(lane, link, party) {
                        self.tell(lane, ToLane::Close(older));
                    }
                }
                Item::Down { link, party } => self.table.down(lane, link, party),
                Item::Report(report) => self.gathering.take(*report),
            }
        }
        chunk.clear();
    }

    /// Takes what was executed and answered meanwhile; whether there was anything.
    pub fn take_outcomes(&mut self, time: Time) -> bool {
        let mut worked = false;
        while let Some(outcome) = self.remote.outcome() {
            worked = true;
            if let Outcome::Report(report, cpu_us) = outcome {
                self.gathering.execution = Some((report, cpu_us));
                continue;
            }
            let begun = Instant::now();
            if let Some(input) = outcome.input() {
                let links = &mut self.outputs.router(&self.table);
                self.core.step(links, &mut self.remote, time, input);
            }
            if let Outcome::Executed { replies, took, .. } = outcome {
                let stages = &mut self.core.outbox.stages;
                stages.record(Stage::Execute, took);
                stages.record(Stage::Reply, begun.elapsed());
                self.remote.give_back(replies);
            }
        }
        worked
    }

    /// Ends the turn: what can be coalesced is said, and the lanes get what was said.
    pub fn end_turn(&mut self, now: Instant) {
        self.turns += 1;
        self.core.end_of_messages(now);
        let time = self.core.time(now);
        let links = &mut self.outputs.router(&self.table);
        self.core.step(links, &mut self.remote, time, Input::Tick);
        if let Some((output, lanes)) = self.outputs.take() {
            for lane in (0..self.lanes.len()).filter(|lane| lanes & (1 << lane) != 0) {
                self.tell(lane, ToLane::Output(Arc::clone(&output)));
            }
        }
        self.horizon.publish(self.core.machine.replica().horizon());
        while let Some(asked) = self.requests.receive() {
            self.answer(asked);
        }
        if self.core.readiness_changed(now) {
            self.gathering.waiting.push(Purpose::Readiness);
        }
        self.gather(now);
    }

    /// Puts something into a lane's queue. A lane that does not keep up loses it, which is what a full link does, and the protocol repairs it.
    fn tell(&mut self, lane: usize, told: ToLane) {
        if self.lanes[lane].told.send(told).is_err() {
            self.dropped += 1;
        }
    }

    fn tell_all(&mut self, told: impl Fn() -> ToLane) {
        for lane in 0..self.lanes.len() {
            self.tell(lane, told());
        }
    }

    fn answer(&mut self, asked: Asked) {
        let answer = match &asked.request {
            Request::Status { digests } => {
                let digests = *digests;
                self.gathering
                    .waiting
                    .push(Purpose::Status { asked, digests });
                return;
            }
            Request::Misbehave { strategy } => self.core.misbehave(strategy.as_deref()),
            _ if !self.faults_allowed => Answer::Error(FAULTS_FORBIDDEN.to_owned()),
            Request::Fault(fault) => {
                let fault = fault.clone();
                self.tell_all(|| ToLane::Fault(fault.clone()));
                warn!("injecting {fault:?}");
                Answer::Done
            }
            Request::Heal {} => {
                self.tell_all(|| ToLane::Heal);
                info!("injecting no more faults");
                Answer::Done
            }
        };
        // Who asked may have given up.
        let _ = asked.answer.try_send(answer);
    }

    /// Begins to collect reports if somebody waits for them, and answers when all are there.
    fn gather(&mut self, now: Instant) {
        if self.gathering.for_whom.is_empty() && !self.gathering.waiting.is_empty() {
            let gathering = &mut self.gathering;
            gathering.for_whom = std::mem::take(&mut gathering.waiting);
            let with = |one: &Purpose| matches!(one, Purpose::Status { digests: true, .. });
            let digests = gathering.for_whom.iter().any(with);
            gathering.missing = self.lanes.len();
            self.remote.ask_report(digests);
            self.tell_all(|| ToLane::Report);
        }
        if self.gathering.for_whom.is_empty() || self.gathering.missing > 0 {
            return;
        }
        let Some((execution, execution_cpu_us)) = self.gathering.execution.take() else {
            return;
        };
        let mut links = self.gathering.links.take().expect("every lane reported");
        let cpu_us = u64::try_from(thread_time().as_micros()).unwrap_or(u64::MAX);
        let counts = [
            ("order.turns", self.turns),
            ("order.cpu_us", cpu_us),
            ("order.outputs_dropped", self.dropped),
            ("execution.cpu_us", execution_cpu_us),
            (
                "execution.questions_dropped",
                self.remote.questions_dropped(),
            ),
        ];
        let counts = counts.map(|(name, count)| (name.to_owned(), count));
        links.lanes.extend(counts);
        let mut readiness = false;
        for purpose in std::mem::take(&mut self.gathering.for_whom) {
            match purpose {
                Purpose::Readiness => readiness = true,
                Purpose::Status { asked, digests } => {
                    let state = execution.state.filter(|_| digests);
                    let execution = ExecutionReport { state, ..execution };
                    let status = self.core.status(now, links.clone(), &execution);
                    // Who asked may have given up.
                    let _ = asked.answer.try_send(Answer::Status(Box::new(status)));
                }
            }
        }
        if readiness {
            self.core.log_readiness(now, links.peers.into_iter());
        }
    }
}

impl Gathering {
    fn take(&mut self, report: LinksReport) {
        self.missing = self.missing.saturating_sub(1);
        match &mut self.links {
            Some(links) => links.add(report),
            None => self.links = Some(report),
        }
    }
}
