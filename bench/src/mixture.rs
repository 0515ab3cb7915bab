//! A load for hard times: many kinds of operations on few keys, recorded, that goes on whatever happens to the cluster.
//!
//! | what | where | why |
//! |---|---|---|
//! | add 1 | a counter of each worker's own | what was acknowledged and is gone, or was done twice, can be counted |
//! | get, put, delete, add, compare and swap | keys that all workers share | orders that do not fit show; every put has a value of its own |
//! | the same again, under its number | whatever ended as unknown, now and then | exactly once |
//! | get | a worker's counter, when a [`Watch`] asks for a round of reads | what was acknowledged before must be there |
//!
//! Calls are due at a rate; those that find no worker free are left out, so that nothing piles up while the cluster is away. A
//! worker whose session the cluster has dropped, or that is exhausted, opens another one and keeps its counter. At the end
//! everybody reads everything. *Bounds*: [`PIPELINE`] calls of each worker under way.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use twostep_engine::client::host::{Application, ClientLoop, Turn};
use twostep_engine::client::{
    CallOutcome, CallRefused, ClientCore, OpenError, Rejection, SessionHandle,
};
use twostep_engine::key_value::{KeyValueReply, Operation};
use twostep_engine::types::{Seq, SessionId, Time};

use crate::config::LoadConfig;
use crate::load::LoadError;
use crate::recording::Recording;
use crate::report::micros;
use crate::under_way::UnderWay;

/// Calls that each worker keeps under way at most.
pub const PIPELINE: usize = 4;
/// How often flags are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a worker waits after it could not open a session.
const OPEN_AGAIN: Duration = Duration::from_millis(200);
/// How often a call is made again that ended as unknown.
const AGAIN_MAX: u8 = 3;
/// Sessions that a worker may use up.
const SESSIONS_OF_A_WORKER: u32 = 64;

/// What mixture to make.
#[derive(Clone, Debug)]
pub struct MixtureConfig {
    /// Cluster, client, workers (`sessions`), rate, drain, stop flag and history; the rest of it says nothing here.
    pub load: LoadConfig,
    /// Keys that all workers share.
    pub keys: u64,
    /// Where the draws begin.
    pub seed: u64,
    /// What watches it.
    pub watch: Watch,
}

/// What is seen of a mixture from other threads, and what it is asked. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Watch(Arc<Watched>);

#[derive(Debug, Default)]
struct Watched {
    /// Rounds of reads that were asked for.
    rounds: AtomicU64,
    /// Rounds that every worker has done.
    done: AtomicU64,
    committed: AtomicU64,
}

impl Watch {
    /// Calls that committed so far.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.0.committed.load(Ordering::Acquire)
    }

    /// Asks every worker to read its counter; the number of the round.
    #[must_use]
    pub fn ask_round(&self) -> u64 {
        self.0.rounds.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Whether every worker has done the round with this number.
    #[must_use]
    pub fn is_done(&self, round: u64) -> bool {
        self.0.done.load(Ordering::Acquire) >= round
    }
}

/// What a mixture comes to, apart from its history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MixtureReport {
    /// Calls that committed.
    pub committed: u64,
    /// Calls that ended as unknown.
    pub unknown: u64,
    /// Of those, calls that were made again under their number.
    pub called_again: u64,
    /// Calls that were refused for good.
    pub rejected: u64,
    /// Calls that were never sent.
    pub busy: u64,
    /// Sessions that were opened.
    pub sessions: u64,
    /// Workers whose reads at the end did not all commit.
    pub unread: u64,
    /// The longest time in which nothing committed. Microseconds.
    pub longest_pause_us: u64,
}

/// Makes the load until it is told to stop. Blocks the calling thread.
///
/// # Errors
/// [`LoadError`], if the loop or the history fails. What happens to calls stands in report and history.
pub fn run_mixture(config: MixtureConfig) -> Result<MixtureReport, LoadError> {
    let mut setup = config.load.setup.clone();
    let limits = *setup.configuration.limits();
    setup.tuning.sessions_max =
        (config.load.sessions * SESSIONS_OF_A_WORKER).min(limits.sessions_per_client_max);
    let mut client = ClientLoop::new(setup, &config.load.nodes, config.load.tuning)?;
    let path = config.load.history.clone().unwrap_or_default();
    let unwritten = |source: io::Error| LoadError::History {
        path: PathBuf::clone(&path),
        source,
    };
    let recording = match &config.load.history {
        Some(path) => Recording::begin(path).map_err(unwritten)?,
        None => Recording::default(),
    };
    let mut mixture = Mixture::new(config, recording);
    client.run(&mut mixture)?;
    let calls = std::mem::replace(&mut mixture.calls, UnderWay::new(Recording::default()));
    calls.finish().map_err(unwritten)?;
    Ok(mixture.report)
}

/// One session after another, and one counter.
struct Worker {
    state: State,
    counter: Vec<u8>,
    in_flight: usize,
    /// The round of reads that it did last, and whether a read is under way.
    round: u64,
    reading: bool,
    /// What ended as unknown and is to be made again: its number, how often it was made, and what it is.
    again: Vec<(Seq, u8, Vec<u8>)>,
    /// At the end: reads that are to be made, as places of keys; its counter is the last one.
    to_read: usize,
}

enum State {
    /// Without a session until then.
    Closed(Time),
    Opening,
    Open(SessionHandle, SessionId),
}

/// What a call is for.
struct Purpose {
    worker: usize,
    kind: Kind,
    seq: Seq,
    session: SessionId,
    times: u8,
    operation: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Mixed,
    /// A read of the counter for the round with this number.
    Round(u64),
    /// A read at the end.
    Last,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Draining,
    Reading,
    Done,
}

struct Mixture {
    config: MixtureConfig,
    calls: UnderWay<Purpose>,
    workers: Vec<Worker>,
    in_flight: usize,
    next: usize,
    phase: Phase,
    now: Time,
    due: Time,
    until: Time,
    committed_at: Option<Time>,
    /// The values that were last seen of the shared keys, for swaps.
    seen: Vec<Option<Vec<u8>>>,
    values: u64,
    draws: u64,
    report: MixtureReport,
}

impl Mixture {
    fn new(config: MixtureConfig, recording: Recording) -> Mixture {
        let worker = |number: u32| Worker {
            state: State::Closed(Time(0)),
            counter: format!("counter {number}").into_bytes(),
            in_flight: 0,
            round: 0,
            reading: false,
            again: Vec::new(),
            to_read: 0,
        };
        Mixture {
            calls: UnderWay::new(recording),
            workers: (0..config.load.sessions).map(worker).collect(),
            in_flight: 0,
            next: 0,
            phase: Phase::Running,
            now: Time(0),
            due: Time(0),
            until: Time(0),
            committed_at: None,
            seen: vec![None; usize::try_from(config.keys).expect("few keys")],
            values: 0,
            draws: config.seed,
            report: MixtureReport::default(),
            config,
        }
    }

    /// A number below `bound` that looks random (SplitMix64).
    fn draw(&mut self, bound: u64) -> u64 {
        self.draws = self.draws.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.draws;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    fn open_sessions(&mut self, core: &mut ClientCore) {
        for (place, worker) in self.workers.iter_mut().enumerate() {
            if matches!(worker.state, State::Closed(at) if at <= self.now) {
                // A client with too many sessions goes on with those workers that have one.
                worker.state = match core.open_session(place as u64, self.now) {
                    Ok(_) => State::Opening,
                    Err(_) => State::Closed(self.now + OPEN_AGAIN),
                };
            }
        }
    }

    fn run(&mut self, core: &mut ClientCore) {
        if self.config.load.stop.is_set() {
            self.phase = Phase::Draining;
            self.until = self.now + self.config.load.drain;
            return;
        }
        let rounds = self.config.watch.0.rounds.load(Ordering::Acquire);
        for place in 0..self.workers.len() {
            let worker = &self.workers[place];
            if worker.round < rounds && !worker.reading {
                let mut operation = Vec::new();
                Operation::Get {
                    key: &worker.counter,
                }
                .encode(&mut operation);
                self.workers[place].reading =
                    self.call(core, place, Kind::Round(rounds), &operation);
            }
        }
        // What was due while nothing could be done is left out.
        let interval =
            Duration::from_nanos(1_000_000_000 / self.config.load.rate.unwrap_or(1000).max(1));
        if self.now.since(self.due) > Duration::from_millis(50) {
            self.due = self.now;
        }
        while self.due <= self.now {
            self.due = self.due + interval;
            let count = self.workers.len();
            let free = |place: &usize| {
                let worker = &self.workers[*place];
                worker.in_flight < PIPELINE && matches!(worker.state, State::Open(..))
            };
            let order = (0..count).map(|step| (self.next + step) % count);
            let Some(place) = order.into_iter().find(free) else {
                break;
            };
            self.next = place + 1;
            match self.workers[place].again.pop() {
                Some((seq, times, operation)) => {
                    self.call_again(core, place, seq, times, &operation);
                }
                None => {
                    let operation = self.mixed(place);
                    self.call(core, place, Kind::Mixed, &operation);
                }
            }
        }
    }

    /// Something to do for a worker.
    fn mixed(&mut self, place: usize) -> Vec<u8> {
        let shared = usize::try_from(self.draw(self.config.keys)).expect("few keys");
        let kind = self.draw(100);
        let name = format!("key {shared}");
        let key = name.as_bytes();
        self.values += 1;
        let value = format!("value {}", self.values);
        let number = format!("number {}", shared % 2);
        let mut bytes = Vec::new();
        let operation = match kind {
            0..40 => Operation::Increment {
                key: &self.workers[place].counter,
                by: 1,
                padding: &[],
            },
            40..62 => Operation::Get { key },
            62..78 => Operation::Put {
                key,
                value: value.as_bytes(),
            },
            78..82 => Operation::Delete { key },
            82..88 => Operation::Increment {
                key: number.as_bytes(),
                by: 1,
                padding: &[],
            },
            _ => Operation::CompareAndSwap {
                key,
                expected: self.seen[shared].as_deref(),
                value: value.as_bytes(),
            },
        };
        operation.encode(&mut bytes);
        bytes
    }

    /// Makes a call; false if the worker cannot now.
    fn call(&mut self, core: &mut ClientCore, place: usize, kind: Kind, operation: &[u8]) -> bool {
        let State::Open(handle, session) = self.workers[place].state else {
            return false;
        };
        let now = self.now;
        let made = self.calls.call_with(
            |token| core.call(handle, operation, token, now),
            session,
            operation,
            |seq| Purpose {
                worker: place,
                kind,
                seq,
                session,
                times: 1,
                operation: operation.to_vec(),
            },
        );
        self.made(place, made)
    }

    fn call_again(
        &mut self,
        core: &mut ClientCore,
        place: usize,
        seq: Seq,
        times: u8,
        operation: &[u8],
    ) {
        let State::Open(handle, session) = self.workers[place].state else {
            return;
        };
        let now = self.now;
        let made = self.calls.call_with(
            |token| core.call_again(handle, seq, operation, token, now),
            session,
            operation,
            |seq| Purpose {
                worker: place,
                kind: Kind::Mixed,
                seq,
                session,
                times: times + 1,
                operation: operation.to_vec(),
            },
        );
        self.report.called_again += u64::from(made.is_ok());
        self.made(place, made);
    }

    fn made(&mut self, place: usize, made: Result<Seq, CallRefused>) -> bool {
        match made {
            Ok(_) => {
                self.workers[place].in_flight += 1;
                self.in_flight += 1;
                return true;
            }
            Err(CallRefused::WouldBlock | CallRefused::NotAgain(_)) => {}
            // The session has no more numbers, or the cluster has dropped it.
            Err(_) => self.close(place),
        }
        false
    }

    fn close(&mut self, place: usize) {
        let worker = &mut self.workers[place];
        worker.state = State::Closed(self.now);
        worker.again.clear();
    }

    fn drain(&mut self) {
        if self.in_flight > 0 && self.now < self.until {
            return;
        }
        self.pause_ends();
        self.phase = Phase::Reading;
        self.until = self.now + self.config.load.drain;
        let keys = self.seen.len();
        self.workers
            .iter_mut()
            .for_each(|worker| worker.to_read = keys + 1);
    }

    fn read(&mut self, core: &mut ClientCore) {
        for place in 0..self.workers.len() {
            let (left, in_flight) = (self.workers[place].to_read, self.workers[place].in_flight);
            if left == 0 || in_flight >= PIPELINE {
                continue;
            }
            let mut operation = Vec::new();
            let name = format!("key {}", left.saturating_sub(2));
            let key = match left {
                1 => &self.workers[place].counter,
                _ => name.as_bytes(),
            };
            Operation::Get { key }.encode(&mut operation);
            if self.call(core, place, Kind::Last, &operation) {
                self.workers[place].to_read -= 1;
            }
        }
        let done = self.in_flight == 0 && self.workers.iter().all(|worker| worker.to_read == 0);
        if done || self.now >= self.until {
            let unread = self
                .workers
                .iter()
                .filter(|worker| worker.to_read > 0 || worker.in_flight > 0);
            self.report.unread += unread.count() as u64;
            self.phase = Phase::Done;
        }
    }

    /// Something committed, or the load ends: how long nothing did.
    fn pause_ends(&mut self) {
        if let Some(before) = self.committed_at {
            let pause = micros(self.now.since(before));
            self.report.longest_pause_us = self.report.longest_pause_us.max(pause);
        }
    }

    fn committed(&mut self, purpose: &Purpose, reply: Option<&[u8]>) {
        if self.phase == Phase::Running {
            self.pause_ends();
            self.committed_at = Some(self.now);
        }
        self.report.committed += 1;
        self.config.watch.0.committed.fetch_add(1, Ordering::AcqRel);
        let worker = &mut self.workers[purpose.worker];
        if let Kind::Round(round) = purpose.kind {
            worker.round = round;
            let done = self.workers.iter().map(|worker| worker.round).min();
            self.config
                .watch
                .0
                .done
                .store(done.unwrap_or(0), Ordering::Release);
        }
        self.notice(purpose, reply);
    }

    /// Remembers the values of shared keys.
    fn notice(&mut self, purpose: &Purpose, reply: Option<&[u8]>) {
        let Ok(operation) = Operation::decode(&purpose.operation) else {
            return;
        };
        let (key, value) = match operation {
            Operation::Get { key } => (key, None),
            Operation::Put { key, value } | Operation::CompareAndSwap { key, value, .. } => {
                (key, Some(value))
            }
            Operation::Delete { .. } | Operation::Increment { .. } => return,
        };
        let number = key
            .strip_prefix(b"key ")
            .and_then(|number| std::str::from_utf8(number).ok());
        let place = number.and_then(|number| number.parse::<usize>().ok());
        let Some(seen) = place.and_then(|place| self.seen.get_mut(place)) else {
            return;
        };
        match reply.map(KeyValueReply::decode) {
            Some(Ok(KeyValueReply::Done)) => *seen = value.map(<[u8]>::to_vec),
            Some(Ok(KeyValueReply::Value(found))) => *seen = Some(found.to_vec()),
            Some(Ok(KeyValueReply::Absent)) => *seen = None,
            Some(Ok(KeyValueReply::Mismatch(found))) => *seen = found.map(<[u8]>::to_vec),
            _ => {}
        }
    }

    fn unknown(&mut self, purpose: Purpose) {
        self.report.unknown += 1;
        let still = matches!(self.workers[purpose.worker].state, State::Open(_, session) if session == purpose.session);
        // Half of them stay unknown.
        if still && purpose.times <= AGAIN_MAX && self.draw(2) == 0 {
            let Purpose {
                worker,
                seq,
                times,
                operation,
                ..
            } = purpose;
            self.workers[worker].again.push((seq, times, operation));
        }
    }
}

impl Application for Mixture {
    fn opened(
        &mut self,
        now: Time,
        session: SessionHandle,
        token: u64,
        result: Result<SessionId, OpenError>,
    ) {
        self.now = now;
        let place = usize::try_from(token).expect("tokens of Opens are workers");
        self.workers[place].state = match result {
            Ok(id) => {
                self.report.sessions += 1;
                State::Open(session, id)
            }
            Err(_) => State::Closed(now + OPEN_AGAIN),
        };
    }

    fn done(&mut self, now: Time, _: SessionHandle, token: u64, outcome: CallOutcome<'_>) {
        self.now = now;
        let purpose = self.calls.ended(token, &outcome);
        self.in_flight -= 1;
        let worker = &mut self.workers[purpose.worker];
        worker.in_flight -= 1;
        if let Kind::Round(_) = purpose.kind {
            worker.reading = false;
        }
        match outcome {
            CallOutcome::Committed { reply, .. } => return self.committed(&purpose, reply),
            // A read at the end that failed is made once more, as far as time allows.
            _ if purpose.kind == Kind::Last => worker.to_read = self.seen.len() + 1,
            _ => {}
        }
        match outcome {
            CallOutcome::Committed { .. } => {}
            CallOutcome::Unknown { .. } => self.unknown(purpose),
            CallOutcome::Busy { .. } => self.report.busy += 1,
            CallOutcome::Rejected(why) => {
                self.report.rejected += 1;
                let same =
                    matches!(worker.state, State::Open(_, session) if session == purpose.session);
                // A number that is too far means that the cluster has forgotten what the session did: what it lost is counted,
                // if its worker goes on to read.
                if same && matches!(why, Rejection::SessionLapsed | Rejection::TooFar) {
                    self.close(purpose.worker);
                }
            }
        }
    }

    fn turn(&mut self, turn: &mut Turn<'_>) {
        self.now = turn.now;
        self.open_sessions(turn.core);
        match self.phase {
            Phase::Running => self.run(turn.core),
            Phase::Draining => self.drain(),
            Phase::Reading => self.read(turn.core),
            Phase::Done => {}
        }
    }

    fn deadline(&self, core: &ClientCore) -> Option<Time> {
        let look = self.now + LOOK_EVERY;
        Some(match self.phase {
            Phase::Running => self.due.max(core.gathers_until()).min(look),
            _ => look,
        })
    }

    fn stopping(&self) -> bool {
        self.phase == Phase::Done
    }
}
