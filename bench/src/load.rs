//! The load itself: connect, open sessions, make calls, wait for the last, read back.
//!
//! ```text
//! connecting ─► opening ─► running ─► draining ─► reading ─► done
//! ```
//!
//! A *credit* is the right of one session to one more call. All credits lie in one queue; an ended call returns its own. A
//! closed loop spends every credit at once; an open loop spends one whenever a call is due, and a call that finds no
//! credit is made later but counts from when it was due.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use twostep_engine::client::host::{Application, ClientLoop, Turn, Voice};
use twostep_engine::client::{CallOutcome, CallRefused, ClientCore, OpenError, SessionHandle};
use twostep_engine::key_value::{KeyValueReply, Operation};
use twostep_engine::types::{NodeId, SessionId, Time};
use twostep_net::NetError;

use crate::config::{LoadConfig, PIPELINE_MAX};
use crate::ledger::Ledger;
use crate::recording::Recording;
use crate::report::{Latencies, LoadReport, Sample, micros, per_second, thread_cpu};
use crate::under_way::UnderWay;

/// How often the stop flag is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Why there is no report.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The load contradicts itself or the cluster.
    #[error("{0}")]
    Config(String),
    /// The loop failed.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The cluster could not be reached.
    #[error("the leader and f+1 learners could not be reached: {}", listed(.0))]
    Unreachable(Vec<(NodeId, String)>),
    /// A session could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The history could not be written.
    #[error("{path}: cannot write the history: {source}", path = path.display())]
    History {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It was stopped before a session was open.
    #[error("stopped before the first call")]
    Stopped,
}

fn listed(missing: &[(NodeId, String)]) -> String {
    let lines: Vec<String> = missing
        .iter()
        .map(|(node, why)| format!("node {node}: {why}"))
        .collect();
    lines.join("; ")
}

/// Makes the load and reports on it. Blocks the calling thread; `on_second` is called in it once a second.
///
/// # Errors
/// [`LoadError`] if no call could be made. Whatever happens to calls afterwards stands in the report.
pub fn run(config: LoadConfig, on_second: impl FnMut(&Sample)) -> Result<LoadReport, LoadError> {
    run_as(config, None, on_second)
}

/// The same; says with `voice` what it has to say: how a client that lies makes its load.
///
/// # Errors
/// As [`run`].
pub fn run_as(
    config: LoadConfig,
    voice: Option<Voice>,
    on_second: impl FnMut(&Sample),
) -> Result<LoadReport, LoadError> {
    config.check().map_err(LoadError::Config)?;
    let mut setup = config.setup.clone();
    setup.tuning.sessions_max = config.sessions;
    // Twice the pipeline, so that one late answer does not hold its session up.
    setup.tuning.window = (2 * config.pipeline).min(PIPELINE_MAX);
    let mut client = ClientLoop::new(setup, &config.nodes, config.tuning)?;
    let history = config.history.clone();
    let unwritten = |source| LoadError::History {
        path: history.clone().unwrap_or_default(),
        source,
    };
    let recording = match &history {
        Some(path) => Recording::begin(path).map_err(unwritten)?,
        None => Recording::default(),
    };
    if let Some(voice) = voice {
        client.speak_with(voice);
    }
    let mut load = Load::new(config, recording, on_second);
    client.run(&mut load)?;
    let calls = std::mem::replace(&mut load.calls, UnderWay::new(Recording::default()));
    calls.finish().map_err(unwritten)?;
    load.report(client.core())
}

/// What a call is for.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    /// To increment a worker's key; due at this time.
    Increment(usize, Time),
    /// To read a worker's key at the end.
    Read(usize),
}

/// One session with its key and what came back.
struct Worker {
    session: Option<(SessionHandle, SessionId)>,
    operation: Vec<u8>,
    key: Vec<u8>,
    ledger: Ledger,
    in_flight: usize,
    /// Credits that wait for the session's window to move.
    stalled: usize,
    /// What its key holds at the end.
    last: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Opening,
    Running,
    Draining,
    Reading,
    Done,
}

struct Load<F> {
    config: LoadConfig,
    on_second: F,
    phase: Phase,
    workers: Vec<Worker>,
    calls: UnderWay<Purpose>,
    credits: VecDeque<usize>,
    open: usize,
    in_flight: usize,
    /// Calls that were made.
    made: u64,
    now: Time,
    /// When the present phase has to end; in `Running`, if there is a limit.
    until: Option<Time>,
    started: Time,
    ended: Time,
    second_began: Time,
    seconds: u64,
    /// When something committed last.
    committed_at: Time,
    latencies: Latencies,
    /// CPU time of this thread when calls began.
    cpu_before: Duration,
    report: LoadReport,
    failed: Option<LoadError>,
}

impl<F: FnMut(&Sample)> Load<F> {
    fn new(config: LoadConfig, recording: Recording, on_second: F) -> Load<F> {
        let worker = || Worker {
            session: None,
            operation: Vec::new(),
            key: Vec::new(),
            ledger: Ledger::default(),
            in_flight: 0,
            stalled: 0,
            last: None,
        };
        let report = LoadReport {
            sessions: config.sessions,
            pipeline: config.pipeline,
            rate: config.rate,
            checked: config.checked,
            ..LoadReport::default()
        };
        Load {
            workers: (0..config.sessions).map(|_| worker()).collect(),
            calls: UnderWay::new(recording),
            credits: VecDeque::new(),
            open: 0,
            in_flight: 0,
            made: 0,
            now: Time(0),
            until: Some(Time(0) + config.connect_timeout),
            started: Time(0),
            ended: Time(0),
            second_began: Time(0),
            seconds: 0,
            committed_at: Time(0),
            latencies: Latencies::new(),
            cpu_before: Duration::ZERO,
            phase: Phase::Connecting,
            config,
            on_second,
            report,
            failed: None,
        }
    }

    fn fail(&mut self, why: LoadError) {
        self.failed.get_or_insert(why);
        self.phase = Phase::Done;
    }

    fn overdue(&self) -> bool {
        self.until.is_some_and(|until| until <= self.now)
    }

    fn connect(&mut self, turn: &mut Turn<'_>) {
        if turn.reachable() {
            for worker in 0..self.workers.len() {
                turn.core
                    .open_session(worker as u64, self.now)
                    .expect("as many as sessions_max");
            }
            self.phase = Phase::Opening;
            self.until = None;
        } else if self.overdue() {
            self.fail(LoadError::Unreachable(turn.unreachable()));
        }
    }

    fn start(&mut self) {
        self.phase = Phase::Running;
        self.cpu_before = thread_cpu();
        self.until = self.config.duration.map(|duration| self.now + duration);
        (self.started, self.second_began, self.committed_at) = (self.now, self.now, self.now);
        // Interleaved, so that an open loop spreads its calls over the sessions.
        for _ in 0..self.config.pipeline {
            self.credits.extend(0..self.workers.len());
        }
    }

    fn run(&mut self, core: &mut ClientCore) {
        let enough = self.config.operations.is_some_and(|most| self.made >= most);
        if self.overdue() || self.config.stop.is_set() || enough {
            self.phase = Phase::Draining;
            self.until = Some(self.now + self.config.drain);
            return self.drain(core);
        }
        let most = self.config.operations.unwrap_or(u64::MAX);
        while self.made < most {
            let intended = self.due().unwrap_or(self.now);
            if intended > self.now {
                return;
            }
            let Some(worker) = self.credits.pop_front() else {
                return;
            };
            self.call(core, worker, intended);
        }
    }

    /// When the next call of an open loop is due; none in a closed one.
    fn due(&self) -> Option<Time> {
        let nanos = u128::from(self.made) * 1_000_000_000 / u128::from(self.config.rate?);
        Some(self.started + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    fn call(&mut self, core: &mut ClientCore, index: usize, intended: Time) {
        let worker = &mut self.workers[index];
        let Some(session) = worker.session else {
            return;
        };
        let purpose = Purpose::Increment(index, intended);
        let made = self
            .calls
            .call(core, session, &worker.operation, purpose, self.now);
        match made {
            Ok(_) => {
                worker.in_flight += 1;
                self.in_flight += 1;
                self.made += 1;
            }
            Err(CallRefused::WouldBlock) => worker.stalled += 1,
            // The credit is gone with the session; what became of its calls was counted when they ended.
            Err(why) => self.error(format!("session of worker {index}: {why}")),
        }
    }

    fn drain(&mut self, core: &mut ClientCore) {
        if self.in_flight > 0 && !self.overdue() {
            return;
        }
        self.ended = self.now;
        self.report.client_cpu_s = thread_cpu().saturating_sub(self.cpu_before).as_secs_f64();
        if self.in_flight > 0 {
            // These calls waited in vain; a pause that lasts until the end is one as well.
            self.report.paused(self.now.since(self.committed_at));
        }
        self.phase = Phase::Reading;
        self.until = Some(self.now + self.config.drain);
        let mut operation = Vec::new();
        for index in 0..self.workers.len() {
            // What is still under way may or may not be executed before the key is read.
            let worker = &mut self.workers[index];
            self.report.unknown += worker.in_flight as u64;
            (0..worker.in_flight).for_each(|_| worker.ledger.unknown());
            if !self.config.checked {
                continue;
            }
            operation.clear();
            Operation::Get { key: &worker.key }.encode(&mut operation);
            let Some(session) = worker.session else {
                continue;
            };
            let purpose = Purpose::Read(index);
            let made = self
                .calls
                .call(core, session, &operation, purpose, self.now);
            self.open += usize::from(made.is_ok());
        }
        self.read();
    }

    fn read(&mut self) {
        if self.open == 0 || self.overdue() {
            self.phase = Phase::Done;
        }
    }

    fn error(&mut self, why: String) {
        self.report.errors += 1;
        self.report.first_error.get_or_insert(why);
    }

    fn ended(&mut self, index: usize, intended: Time, outcome: CallOutcome<'_>) {
        let worker = &mut self.workers[index];
        worker.in_flight -= 1;
        let credits = 1 + std::mem::take(&mut worker.stalled);
        self.credits.extend(std::iter::repeat_n(index, credits));
        self.in_flight -= 1;
        match outcome {
            CallOutcome::Committed {
                decree,
                reply: Some(reply),
            } => {
                self.latencies.record(self.now.since(intended));
                self.report.paused(self.now.since(self.committed_at));
                if self.report.first_commit_us == 0 {
                    // The loop's clock starts with it.
                    self.report.first_commit_us = micros(self.now.since(Time(0)));
                }
                self.committed_at = self.now;
                if !self.config.checked {
                    return;
                }
                match KeyValueReply::decode(reply) {
                    Ok(KeyValueReply::Number(value)) if value > 0 => {
                        worker.ledger.committed(value.unsigned_abs());
                    }
                    other => self.error(format!(
                        "decree {decree}: an increment was answered with {other:?}"
                    )),
                }
            }
            CallOutcome::Committed { reply: None, .. } | CallOutcome::Unknown { .. } => {
                worker.ledger.unknown();
                self.report.unknown += 1;
            }
            CallOutcome::Rejected(why) => self.error(format!("a call was rejected: {why}")),
            CallOutcome::Busy { .. } => self.report.busy += 1,
        }
    }

    fn read_back(&mut self, index: usize, outcome: CallOutcome<'_>) {
        self.open -= 1;
        let CallOutcome::Committed {
            decree,
            reply: Some(reply),
        } = outcome
        else {
            return;
        };
        let last = match KeyValueReply::decode(reply) {
            Ok(KeyValueReply::Absent) => Some(0),
            Ok(KeyValueReply::Value(text)) => std::str::from_utf8(text)
                .ok()
                .and_then(|text| text.parse().ok()),
            _ => None,
        };
        if last.is_none() {
            self.error(format!(
                "decree {decree}: a get was answered with {:?}",
                KeyValueReply::decode(reply)
            ));
        }
        self.workers[index].last = last;
    }

    fn sample(&mut self) {
        let length = self.now.since(self.second_began);
        if length < Duration::from_secs(1)
            || !matches!(self.phase, Phase::Running | Phase::Draining)
        {
            return;
        }
        self.seconds += 1;
        self.second_began = self.now;
        let (operations, p50_us, p99_us) = self.latencies.end_second();
        (self.on_second)(&Sample {
            second: self.seconds,
            operations,
            ops_per_s: per_second(operations, length),
            p50_us,
            p99_us,
            errors: self.report.errors,
            unknown: self.report.unknown,
            in_flight: self.in_flight as u64,
        });
    }

    fn report(mut self, core: &ClientCore) -> Result<LoadReport, LoadError> {
        if let Some(why) = self.failed {
            return Err(why);
        }
        let time = self.ended.since(self.started);
        self.latencies.finish(&mut self.report);
        for worker in self.workers.iter().filter(|_| self.config.checked) {
            let findings = worker.ledger.findings(worker.last);
            self.report.gaps += findings.gaps;
            self.report.duplicates += findings.duplicates;
            self.report.unverified += u32::from(worker.last.is_none());
        }
        self.report.op_bytes = self
            .workers
            .first()
            .map_or(0, |worker| worker.operation.len());
        self.report.seconds = time.as_secs_f64();
        self.report.ops_per_s = per_second(self.report.operations, time);
        self.report.bundles = core.counters().bundles;
        self.report.retries = core.counters().retries;
        Ok(self.report)
    }
}

impl<F: FnMut(&Sample)> Application for Load<F> {
    fn opened(
        &mut self,
        _: Time,
        session: SessionHandle,
        token: u64,
        result: Result<SessionId, OpenError>,
    ) {
        let id = match result {
            Ok(id) => id,
            Err(why) => return self.fail(why.into()),
        };
        let worker =
            &mut self.workers[usize::try_from(token).expect("tokens of Opens are workers")];
        worker.session = Some((session, id));
        // Session ids are never used twice, so the key is new and starts at 0.
        worker.key = format!("bench/{id}").into_bytes();
        let mut bare = Vec::new();
        Operation::Increment {
            key: &worker.key,
            by: 1,
            padding: &[],
        }
        .encode(&mut bare);
        let padding = vec![0; self.config.op_bytes.saturating_sub(bare.len())];
        Operation::Increment {
            key: &worker.key,
            by: 1,
            padding: &padding,
        }
        .encode(&mut worker.operation);
        self.open += 1;
    }

    fn done(&mut self, now: Time, _: SessionHandle, token: u64, outcome: CallOutcome<'_>) {
        self.now = now;
        match self.calls.ended(token, &outcome) {
            Purpose::Read(worker) => self.read_back(worker, outcome),
            Purpose::Increment(worker, intended) if self.phase != Phase::Reading => {
                self.ended(worker, intended, outcome);
            }
            // It was counted as unknown when draining ended.
            Purpose::Increment(..) => {}
        }
    }

    fn turn(&mut self, turn: &mut Turn<'_>) {
        self.now = turn.now;
        if self.config.stop.is_set() && matches!(self.phase, Phase::Connecting | Phase::Opening) {
            self.fail(LoadError::Stopped);
        }
        match self.phase {
            Phase::Connecting => self.connect(turn),
            Phase::Opening if self.open == self.workers.len() => {
                self.open = 0;
                self.start();
                self.run(turn.core);
            }
            Phase::Running => self.run(turn.core),
            Phase::Draining => self.drain(turn.core),
            Phase::Reading => self.read(),
            Phase::Opening | Phase::Done => {}
        }
        self.sample();
    }

    fn deadline(&self, core: &ClientCore) -> Option<Time> {
        let look = self.now + LOOK_EVERY;
        let next = match self.phase {
            // Calls that ended in the flush of this turn left their credits behind.
            Phase::Running if !self.credits.is_empty() => {
                self.due().unwrap_or(self.now).max(core.gathers_until())
            }
            _ => look,
        };
        Some(next.min(look).min(self.until.unwrap_or(look)))
    }

    fn stopping(&self) -> bool {
        self.phase == Phase::Done
    }
}
