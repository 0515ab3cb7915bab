//! What every host of a replica does, whatever threads it has: steps, and what they leave.
//!
//! ```text
//!  bytes ──► decode ──► step ──► effects ─┬─ send ────► Links
//!                        ▲                ├─ store ───► journal ──► Stored in a later turn; at once without a journal
//!                        │                ├─ deliver ─► Executing ──► Executed, at once or later
//!                        └── fed back ◄───┴─ lookup ──► Executing ──► Found, at once or later
//! ```

use std::time::{Duration, Instant};

use tracing::{debug, info, warn};
use twostep_net::pool::Pool;
use twostep_net::{LinkDown, PeerState};

use crate::batch::Batch;
use crate::executor::Executed;
use crate::journal::Recorder;
use crate::machine::{Effects, Input, JournalState, Machine, Question, Refusal};
use crate::node::Identification;
use crate::node::control::Answer;
use crate::node::effects::{Links, Outbox, Sink};
use crate::node::refused_time::RefusedTime;
use crate::node::stages::Stage;
use crate::node::status::{Misbehaviour, missing};
use crate::prechecked::Prechecked;
use crate::replica::Replica;
use crate::types::{Decree, NodeId, Party, Time};
use crate::wire::{self, Bounds};

/// How often the node looks whether it is ready, to log a change.
const READINESS_EVERY: Duration = Duration::from_millis(250);
/// Lines about refused connections that are logged per second; the others are only counted.
const REFUSAL_LINES_PER_S: u32 = 5;

/// A machine that a node can run: a [`Replica`], or a strategy that wraps one.
pub trait Hosted: Machine + Send {
    /// The replica inside, for status.
    fn replica(&self) -> &Replica;

    /// Takes a message that another loop has checked; one that may lie checks for itself.
    fn take_prechecked(&mut self, now: Time, message: Prechecked, fx: &mut dyn Effects) {
        message.with_plain(|from, message| self.step(now, Input::Message { from, message }, fx));
    }

    /// Lies from now on as `strategy` says; none makes it truthful again.
    ///
    /// # Errors
    /// Says why not, and what to do. A plain replica never lies.
    fn misbehave(&mut self, _strategy: Option<&str>) -> Result<(), String> {
        Err(
            "this node does not lie; nodes of a cluster made with `twostep testnet --allow-misbehaviour` can be told to"
                .to_owned(),
        )
    }

    /// What it lies; none for a machine that cannot be told to.
    fn misbehaviour(&self) -> Option<Misbehaviour> {
        None
    }
}

impl Hosted for Replica {
    fn replica(&self) -> &Replica {
        self
    }

    fn take_prechecked(&mut self, now: Time, message: Prechecked, fx: &mut dyn Effects) {
        Replica::take_prechecked(self, now, message, fx);
    }
}

/// What executes the order and knows the sessions: at once, or a loop of its own, whose host then feeds the outcome back.
pub(super) trait Executing {
    /// Executes the next decree; none if the outcome comes later.
    fn execute(&mut self, decree: Decree, batch: Batch) -> Option<Executed<'_>>;

    /// Answers a question; none if there is nothing to tell, or not yet. A lookup sees every decree that was given to `execute` before.
    fn answer(&mut self, question: Question) -> Option<Input<'_>>;
}

/// A machine with what its steps leave to do.
pub(super) struct Core {
    pub identification: Identification,
    pub machine: Box<dyn Hosted>,
    pub bounds: Bounds,
    pub pool: Pool,
    /// When the node started: the zero of the replica's time.
    pub started: Instant,
    pub outbox: Outbox,
    pub readiness: ReadinessLog,
    pub refused: RefusedTime,
}

impl Core {
    pub fn new(
        identification: Identification,
        machine: Box<dyn Hosted>,
        pool: Pool,
        started: Instant,
    ) -> Core {
        let window = identification.cluster.configuration.limits().window;
        Core {
            bounds: Bounds::of(&identification.cluster.configuration),
            identification,
            machine,
            pool,
            started,
            outbox: Outbox::new(window),
            readiness: ReadinessLog::new(started),
            refused: RefusedTime::default(),
        }
    }

    pub fn time(&self, now: Instant) -> Time {
        Time(0) + now.saturating_duration_since(self.started)
    }

    /// When the machine wants a turn at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        let deadline = self.machine.deadline()?;
        self.started.checked_add(Duration::from_nanos(deadline.0))
    }

    /// One input with everything that follows from it.
    pub fn step(
        &mut self,
        links: &mut impl Links,
        executing: &mut impl Executing,
        now: Time,
        input: Input<'_>,
    ) {
        let outbox = &mut self.outbox;
        self.machine
            .step(now, input, &mut Sink { now, links, outbox });
        self.settle(links, executing, now);
    }

    /// What a step left is done at once and fed back, until nothing is left: each feeds at most what it was given.
    fn settle(&mut self, links: &mut impl Links, executing: &mut impl Executing, now: Time) {
        let Core {
            machine, outbox, ..
        } = self;
        loop {
            if let Some(seq) = outbox.stored.take() {
                machine.step(now, Input::Stored(seq), &mut Sink { now, links, outbox });
            } else if let Some((decree, batch)) = outbox.delivered.pop_front() {
                let begun = Instant::now();
                if let Some(executed) = executing.execute(decree, batch) {
                    let input = Input::Executed {
                        decree,
                        replies: executed.replies,
                        results: executed.results,
                    };
                    let done = Instant::now();
                    machine.step(now, input, &mut Sink { now, links, outbox });
                    outbox.stages.record(Stage::Execute, done - begun);
                    outbox.stages.record(Stage::Reply, done.elapsed());
                }
            } else if let Some(question) = outbox.questions.pop_front() {
                if let Some(answer) = executing.answer(question) {
                    machine.step(now, answer, &mut Sink { now, links, outbox });
                }
            } else {
                return;
            }
        }
    }

    /// What the journal has to tell: how it fares, and what is durable. Whether there was anything.
    pub fn hear_journal(
        &mut self,
        links: &mut impl Links,
        executing: &mut impl Executing,
        now: Instant,
    ) -> bool {
        let Some(recorder) = &mut self.outbox.recorder else {
            return false;
        };
        // The writer's thread has the machine's time, which nobody moves.
        let (stored, changed) = (recorder.stored(), recorder.changed(Instant::now()));
        let time = self.time(now);
        if let Some(state) = changed {
            match state {
                JournalState::Ok => info!("the journal keeps up again"),
                JournalState::Slow => warn!("the journal is slow"),
                JournalState::Full | JournalState::Failed => warn!(
                    "the journal is {}: this node promises nothing until that is over",
                    if state == JournalState::Full {
                        "full"
                    } else {
                        "failing"
                    }
                ),
            }
            self.step(links, executing, time, Input::Journal(state));
        }
        if let Some(seq) = stored {
            self.step(links, executing, time, Input::Stored(seq));
        }
        stored.is_some() || changed.is_some()
    }

    /// The turn ends: the journal gets what was stored in it.
    pub fn hand_over(&mut self) {
        if let Some(recorder) = &mut self.outbox.recorder {
            let prunable = self.machine.replica().prunable();
            recorder.prune(prunable);
            recorder.hand_over();
        }
    }

    /// Whether there is room for what comes of further messages.
    pub fn takes_messages(&self) -> bool {
        let recorder = self.outbox.recorder.as_ref();
        recorder.is_none_or(Recorder::takes_more)
    }

    /// A message as it came over a link.
    pub fn message(
        &mut self,
        links: &mut impl Links,
        executing: &mut impl Executing,
        now: Time,
        from: Party,
        bytes: &[u8],
    ) {
        let spent = |node| self.machine.replica().has_spent_checks(node, now);
        let dear = wire::shows_signatures(bytes);
        let unread = dear && from.node().is_some_and(spent);
        let refused = self.outbox.refused;
        let begun = self.refused.begin(dear && !unread);
        let handling = self.outbox.stages.is_sampling().then(Instant::now);
        if unread {
            self.outbox.refuse(Refusal::Share.name());
        } else {
            // The message borrows `bytes` and takes its body from the pool; both outlive the step.
            let pool = self.pool.clone();
            match wire::decode(bytes, &pool, &self.bounds) {
                Ok(message) => self.step(links, executing, now, Input::Message { from, message }),
                Err(why) => {
                    debug!("what {from} sent is no message: {why}");
                    self.outbox.refuse("wire");
                }
            }
        }
        if self.outbox.refused > refused {
            self.refused.end(begun);
        }
        if let Some(handling) = handling {
            let carries_requests = wire::carries_requests(bytes);
            let stages = &mut self.outbox.stages;
            stages.handled(handling.elapsed(), carries_requests);
        }
    }

    /// All messages of the turn that began at `now` have been handed over.
    pub fn end_of_messages(&mut self, now: Instant) {
        self.outbox.stages.turn(|| now.elapsed());
    }

    /// A message that another loop has checked.
    pub fn prechecked(
        &mut self,
        links: &mut impl Links,
        executing: &mut impl Executing,
        now: Time,
        message: Prechecked,
    ) {
        let refused = self.outbox.refused;
        let begun = self.refused.begin(false);
        let handling = self.outbox.stages.is_sampling().then(Instant::now);
        let outbox = &mut self.outbox;
        self.machine
            .take_prechecked(now, message, &mut Sink { now, links, outbox });
        self.settle(links, executing, now);
        if self.outbox.refused > refused {
            self.refused.end(begun);
        }
        if let Some(handling) = handling {
            self.outbox.stages.handled(handling.elapsed(), true);
        }
    }

    pub fn misbehave(&mut self, strategy: Option<&str>) -> Answer {
        match self.machine.misbehave(strategy) {
            Ok(()) => {
                match strategy {
                    Some(strategy) => warn!("lying from now on: {strategy}"),
                    None => info!("truthful again"),
                }
                Answer::Done
            }
            Err(why) => Answer::Error(why),
        }
    }

    /// Whether the node has become ready, or is no more: true if [`Core::log_readiness`] has something to say.
    pub fn readiness_changed(&mut self, now: Instant) -> bool {
        if now < self.readiness.look_at {
            return false;
        }
        self.readiness.look_at = now + READINESS_EVERY;
        let ready = self.machine.replica().readiness(self.time(now)).ready;
        self.readiness.said != Some(ready)
    }

    /// Logs whether the node is ready, and if not, who is missing and why.
    pub fn log_readiness(&mut self, now: Instant, links: impl Iterator<Item = PeerState>) {
        let now = self.time(now);
        let readiness = self.machine.replica().readiness(now);
        self.readiness.said = Some(readiness.ready);
        if readiness.ready {
            info!("READY: every quorum answers");
            return;
        }
        let report = self.machine.replica().report();
        let missing_nodes: Vec<NodeId> = readiness.missing.iter().collect();
        let own = report.abstaining.then_some(self.identification.node);
        for missing in missing(&self.peers(links, now, &report.peers), &missing_nodes, own) {
            info!("waiting for node {}: {}", missing.node, missing.why);
        }
    }
}

/// What was last said about readiness, and when to look again.
pub(super) struct ReadinessLog {
    said: Option<bool>,
    look_at: Instant,
}

impl ReadinessLog {
    /// Looks for the first time soon after `now`: peers need a moment to meet.
    pub fn new(now: Instant) -> ReadinessLog {
        ReadinessLog {
            said: None,
            look_at: now + 4 * READINESS_EVERY,
        }
    }
}

/// Lets a few lines a second through, so that strangers at the port cannot fill the log.
pub(super) struct LineLimit {
    since: Instant,
    lines: u32,
}

impl LineLimit {
    /// Nothing said yet.
    pub fn new(now: Instant) -> LineLimit {
        LineLimit {
            since: now,
            lines: 0,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            (self.since, self.lines) = (now, 0);
        }
        self.lines = self.lines.saturating_add(1);
        self.lines <= REFUSAL_LINES_PER_S
    }

    /// Logs the end of a connection, if another line may be.
    pub fn log_down(&mut self, now: Instant, party: Option<Party>, why: &LinkDown) {
        if self.take(now) {
            match party {
                Some(party) => info!("link to {party} is down: {why}"),
                None => info!("a connection ended: {why}"),
            }
        }
    }
}
