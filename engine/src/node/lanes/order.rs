//! The order loop: the one thread that runs the replica of a node with lanes.
//!
//! A turn takes at most one chunk of every lane and whatever was executed, lets the replica end its turn, and gives the lanes the messages that
//! came of it. The clock is read once. Everything that the replica is told comes through here, so the chunks in the order in which they are taken *are*
//! the arrival log: whatever lanes made them, the same log gives the same order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tracing::{info, warn};
use twostep_net::{Clock, ClockOffset, Sleeper, queue};

use super::chunk::{Chunk, Item};
use super::execution::{Outcome, Remote};
use super::gathering::{Gathered, Gathering, Purpose, ROUND_TIME_MAX};
use super::lane::SharedHorizon;
use super::output::{LinkTable, Outputs};
use super::teller::Teller;
use crate::journal::faults::DiskFaultHandle;
use crate::machine::Input;
use crate::node::control::{Answer, Asked, Request};
use crate::node::core::Core;
use crate::node::faults::{FAULTS_FORBIDDEN, set_clock_offset, set_disk_faults};
use crate::node::refused_time::thread_time;
use crate::node::report::ExecutionReport;
use crate::node::stages::Stage;
use crate::types::Time;

/// A lane, as the order loop has it.
pub(super) struct LaneEnd {
    pub chunks: queue::Receiver<Chunk>,
    /// Takes empty chunks back.
    pub spent: queue::Sender<Chunk>,
    pub teller: Teller,
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
    pub disk_faults: Option<DiskFaultHandle>,
    pub clock: ClockOffset,
    pub sleeper: Sleeper,
    pub gathering: Gathering,
    pub turns: u64,
    /// Outputs that a lane had no room for.
    pub dropped: u64,
}

impl OrderLoop {
    /// Works until the node ends.
    pub fn run(mut self) {
        let mut clock = Clock::new(self.clock.clone());
        let mut now = clock.read();
        while !self.stopping.load(Ordering::Acquire) {
            let worked = self.turn(now);
            let waiting = self.lanes.iter().any(|lane| !lane.chunks.is_empty());
            let more = self.remote.has_outcome() || (waiting && self.core.takes_messages());
            if !more {
                let deadlines = [self.core.deadline(), self.gathering.deadline()];
                let deadline = deadlines.into_iter().flatten().min();
                let deadline = deadline.map(|deadline| clock.real_at(deadline));
                self.sleeper.wait(clock.real(), worked, deadline);
            }
            now = clock.read();
        }
    }

    /// One turn; whether there was anything to do.
    pub fn turn(&mut self, now: Instant) -> bool {
        let time = self.core.time(now);
        for lane in &mut self.lanes {
            lane.teller.retry();
        }
        let mut worked = self.take_outcomes(time);
        for lane in 0..self.lanes.len() {
            // What is not taken now fills the queues, and then the lanes read no more.
            if !self.core.takes_messages() {
                break;
            }
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
                        self.lanes[lane].teller.close(older);
                    }
                }
                Item::Down { link, party } => {
                    self.table.down(lane, link, party);
                    self.lanes[lane].teller.closed(link);
                }
                Item::Report(round, report) => self.gathering.take_links(lane, round, *report),
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
                self.gathering.take_execution(report, cpu_us);
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
        while let Some(news) = self.remote.news() {
            worked = true;
            let links = &mut self.outputs.router(&self.table);
            self.core.step(links, &mut self.remote, time, news.input());
        }
        worked
    }

    /// Ends the turn: what can be coalesced is said, and the lanes get what was said.
    pub fn end_turn(&mut self, now: Instant) {
        self.turns += 1;
        self.core.end_of_messages(now);
        let time = self.core.time(now);
        let links = &mut self.outputs.router(&self.table);
        self.core.hear_journal(links, &mut self.remote, now);
        self.core.step(links, &mut self.remote, time, Input::Tick);
        self.core.hand_over();
        if let Some((output, lanes)) = self.outputs.take() {
            for lane in (0..self.lanes.len()).filter(|lane| lanes & (1 << lane) != 0) {
                let taken = self.lanes[lane].teller.output(&output);
                self.dropped += u64::from(!taken);
            }
        }
        self.horizon.publish(self.core.machine.replica().horizon());
        while let Some(asked) = self.requests.receive() {
            self.answer(asked);
        }
        if self.core.readiness_changed(now) {
            self.gathering.ask_readiness();
        }
        self.gather(now);
    }

    fn answer(&mut self, asked: Asked) {
        let answer = match &asked.request {
            Request::Status { digests } => {
                let digests = *digests;
                if let Err(asked) = self.gathering.ask_status(asked, digests) {
                    let why = "too many requests wait for reports; try again".to_owned();
                    // Who asked may have given up.
                    let _ = asked.answer.try_send(Answer::Error(why));
                }
                return;
            }
            Request::Misbehave { strategy } => self.core.misbehave(strategy.as_deref()),
            _ if !self.faults_allowed => Answer::Error(FAULTS_FORBIDDEN.to_owned()),
            Request::Fault(fault) => {
                if let Some(full) = self.lanes.iter().position(|lane| !lane.teller.may_fault()) {
                    Answer::Error(format!(
                        "lane {full} has not taken the faults before; try again"
                    ))
                } else {
                    for lane in &mut self.lanes {
                        lane.teller.fault(fault.clone());
                    }
                    warn!("injecting {fault:?}");
                    Answer::Done
                }
            }
            Request::ClockOffset { ms } => set_clock_offset(&self.clock, *ms),
            Request::DiskFault(faults) => set_disk_faults(self.disk_faults.as_ref(), *faults),
            Request::Heal {} => {
                for lane in &mut self.lanes {
                    lane.teller.heal();
                }
                info!("injecting no more faults");
                Answer::Done
            }
        };
        // Who asked may have given up.
        let _ = asked.answer.try_send(answer);
    }

    /// Begins to collect reports if somebody waits for them, and answers when all are there or their time has passed.
    fn gather(&mut self, now: Instant) {
        // The execution loop may still be at the report of a round that was given up.
        if self.gathering.may_begin() && !self.remote.reports() {
            let (round, digests) = self.gathering.begin(now, self.lanes.len());
            self.remote.ask_report(digests);
            for lane in &mut self.lanes {
                lane.teller.ask_report(round);
            }
        }
        let Some(gathered) = self.gathering.take(now) else {
            return;
        };
        let Gathered {
            for_whom,
            links,
            execution,
            missing,
        } = gathered;
        let found = match (links, execution) {
            (Some(mut links), Some((execution, execution_cpu_us))) if missing.is_empty() => {
                links.lanes.extend(self.counts(execution_cpu_us));
                Ok((links, execution))
            }
            (links, execution) => {
                let late = late(&missing, execution.is_none());
                warn!("{late}");
                Err((links, late))
            }
        };
        let mut readiness = false;
        for purpose in for_whom {
            match purpose {
                Purpose::Readiness => readiness = true,
                Purpose::Status { asked, digests } => {
                    let answer = match &found {
                        Ok((links, execution)) => {
                            let state = execution.state.filter(|_| digests);
                            let execution = ExecutionReport {
                                state,
                                ..*execution
                            };
                            let status = self.core.status(now, links.clone(), &execution);
                            Answer::Status(Box::new(status))
                        }
                        Err((_, late)) => Answer::Error(late.clone()),
                    };
                    // Who asked may have given up.
                    let _ = asked.answer.try_send(answer);
                }
            }
        }
        if readiness {
            let links = found.map_or_else(|(links, _)| links, |(links, _)| Some(links));
            let peers = links.map(|links| links.peers).unwrap_or_default();
            self.core.log_readiness(now, peers.into_iter());
        }
    }

    /// What this loop and the execution loop have done, by name.
    fn counts(&self, execution_cpu_us: u64) -> impl Iterator<Item = (String, u64)> {
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
        counts
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count))
    }
}

/// Who did not report in time.
fn late(lanes: &[usize], execution: bool) -> String {
    let lanes = lanes.iter().map(|lane| format!("lane {lane}"));
    let loops: Vec<String> = lanes
        .chain(execution.then(|| "the execution loop".to_owned()))
        .collect();
    format!(
        "no report within {} s from: {}; is the machine overloaded?",
        ROUND_TIME_MAX.as_secs(),
        loops.join(", ")
    )
}
