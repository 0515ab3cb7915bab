//! The host of a replica: what arrives on links becomes inputs, effects become messages, execution and answers.
//!
//! ```text
//!  link ── bytes ──► decode ──► step ──► effects ─┬─ send ────► encode once ──► every link it is for
//!                                ▲                ├─ store ───► Stored at once (memory mode)
//!                                │                ├─ deliver ─► execute ──► Executed
//!                                └── fed back ◄───┴─ lookup ──► Found
//! ```
//!
//! Everything runs to completion on the loop's thread (DESIGN section 3): a message has had all its effects before
//! the next one is looked at. Output leaves at the end of the turn, one packet or more per link.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};
use twostep_net::pool::Pool;
use twostep_net::{LinkDown, LinkId, Net, Service, queue};

use crate::executor::Executor;
use crate::machine::{Input, Machine, Refusal};
use crate::node::Identification;
use crate::node::control::{Answer, Asked, Fault, FaultDirection, Request};
use crate::node::effects::{Outbox, Sink};
use crate::node::refused_time::RefusedTime;
use crate::node::status::{Misbehaviour, missing};
use crate::replica::Replica;
use crate::state_machine::StateMachine;
use crate::types::{NodeId, Party, Time};
use crate::wire::{self, Bounds};

/// How often the node looks whether it is ready, to log a change.
const READINESS_EVERY: Duration = Duration::from_millis(250);
/// Lines about refused connections that are logged per second; the others are only counted.
const REFUSAL_LINES_PER_S: u32 = 5;

/// A machine that a node can run: a [`Replica`], or a strategy that wraps one.
pub trait Hosted: Machine + Send {
    /// The replica inside, for status.
    fn replica(&self) -> &Replica;

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
}

/// What serves the links of one node.
pub(super) struct Host<S: StateMachine> {
    pub identification: Identification,
    pub machine: Box<dyn Hosted>,
    pub executor: Executor<S>,
    pub bounds: Bounds,
    pub pool: Pool,
    pub requests: queue::Receiver<Asked>,
    pub stopping: Arc<AtomicBool>,
    pub faults_allowed: bool,
    /// When the node started: the zero of the replica's time.
    pub started: Instant,
    pub outbox: Outbox,
    pub readiness: ReadinessLog,
    pub refusal_lines: LineLimit,
    pub refused: RefusedTime,
}

impl<S: StateMachine> Host<S> {
    pub fn time(&self, now: Instant) -> Time {
        Time(0) + now.saturating_duration_since(self.started)
    }

    fn step(&mut self, net: &mut Net, now: Time, input: Input<'_>) {
        self.machine.step(
            now,
            input,
            &mut Sink {
                net,
                outbox: &mut self.outbox,
            },
        );
        // What the step left is done at once and fed back, until nothing is left: each feeds at most what it was given.
        loop {
            if let Some(seq) = self.outbox.stored.take() {
                let sink = &mut Sink {
                    net,
                    outbox: &mut self.outbox,
                };
                self.machine.step(now, Input::Stored(seq), sink);
            } else if let Some((decree, batch)) = self.outbox.delivered.pop_front() {
                let executed = self.executor.execute(decree, &batch);
                let input = Input::Executed {
                    decree,
                    replies: executed.replies,
                    results: executed.results,
                };
                self.machine.step(
                    now,
                    input,
                    &mut Sink {
                        net,
                        outbox: &mut self.outbox,
                    },
                );
            } else if let Some(question) = self.outbox.questions.pop_front() {
                if let Some(answer) = self.executor.answer(&question) {
                    let sink = &mut Sink {
                        net,
                        outbox: &mut self.outbox,
                    };
                    self.machine.step(now, answer, sink);
                }
            } else {
                return;
            }
        }
    }

    fn answer(&mut self, net: &mut Net, request: &Request) -> Answer {
        match request {
            Request::Status { digests } => Answer::Status(Box::new(self.status(net, *digests))),
            Request::Misbehave { strategy } => match self.machine.misbehave(strategy.as_deref()) {
                Ok(()) => {
                    match strategy {
                        Some(strategy) => warn!("lying from now on: {strategy}"),
                        None => info!("truthful again"),
                    }
                    Answer::Done
                }
                Err(why) => Answer::Error(why),
            },
            _ if !self.faults_allowed => {
                Answer::Error("this node takes no faults; start it with --faults true".to_owned())
            }
            Request::Fault(fault) => {
                set_fault(net, fault);
                warn!("injecting {fault:?}");
                Answer::Done
            }
            Request::Heal {} => {
                net.faults().clear();
                info!("injecting no more faults");
                Answer::Done
            }
        }
    }

    fn log_readiness(&mut self, net: &Net) {
        if net.now() < self.readiness.look_at {
            return;
        }
        self.readiness.look_at = net.now() + READINESS_EVERY;
        let now = self.time(net.now());
        let readiness = self.machine.replica().readiness(now);
        if self.readiness.said == Some(readiness.ready) {
            return;
        }
        self.readiness.said = Some(readiness.ready);
        if readiness.ready {
            info!("READY: every quorum answers");
            return;
        }
        let report = self.machine.replica().report();
        let missing_nodes: Vec<NodeId> = readiness.missing.iter().collect();
        let own = report.abstaining.then_some(self.identification.node);
        for missing in missing(&self.peers(net, now, &report.peers), &missing_nodes, own) {
            info!("waiting for node {}: {}", missing.node, missing.why);
        }
    }
}

impl<S: StateMachine> Service for Host<S> {
    fn message(&mut self, net: &mut Net, _link: LinkId, from: Party, bytes: &[u8]) {
        let now = self.time(net.now());
        let spent = |node| self.machine.replica().has_spent_checks(node, now);
        let dear = wire::shows_signatures(bytes);
        let unread = dear && from.node().is_some_and(spent);
        let refused = self.outbox.refused;
        let begun = self.refused.begin(dear && !unread);
        if unread {
            self.outbox.refuse(Refusal::Share.name());
        } else {
            // The message borrows `bytes` and takes its body from the pool; both outlive the step.
            match wire::decode(bytes, &self.pool, &self.bounds) {
                Ok(message) => self.step(net, now, Input::Message { from, message }),
                Err(why) => {
                    debug!("what {from} sent is no message: {why}");
                    self.outbox.refuse("wire");
                }
            }
        }
        if self.outbox.refused > refused {
            self.refused.end(begun);
        }
    }

    fn link_up(&mut self, _net: &mut Net, link: LinkId, party: Party) {
        match party {
            Party::Node(node) => info!("link to node {node} is up"),
            Party::Client(client) => {
                debug!("link to client {client} is up");
                self.outbox.clients.entry(client).or_default().push(link);
            }
        }
    }

    fn link_down(&mut self, net: &mut Net, link: LinkId, party: Option<Party>, why: &LinkDown) {
        if let Some(Party::Client(client)) = party
            && let Some(links) = self.outbox.clients.get_mut(&client)
        {
            links.retain(|one| *one != link);
            if links.is_empty() {
                self.outbox.clients.remove(&client);
            }
        }
        if self.refusal_lines.take(net.now()) {
            match party {
                Some(party) => info!("link to {party} is down: {why}"),
                None => info!("a connection ended: {why}"),
            }
        }
    }

    fn turn(&mut self, net: &mut Net, now: Instant) {
        let time = self.time(now);
        self.step(net, time, Input::Tick);
        while let Some(asked) = self.requests.receive() {
            let answer = self.answer(net, &asked.request);
            // Who asked may have given up.
            let _ = asked.answer.try_send(answer);
        }
        self.log_readiness(net);
    }

    fn deadline(&self) -> Option<Instant> {
        let deadline = self.machine.deadline()?;
        self.started.checked_add(Duration::from_nanos(deadline.0))
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
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
}

fn set_fault(net: &mut Net, fault: &Fault) {
    let rule = twostep_net::FaultRule {
        cut: fault.cut,
        loss_ppm: fault.loss_ppm,
        duplicate_ppm: fault.duplicate_ppm,
        delay_min: Duration::from_micros(fault.delay_min_us),
        delay_max: Duration::from_micros(fault.delay_max_us.max(fault.delay_min_us)),
    };
    let directions: &[twostep_net::Direction] = match fault.direction {
        Some(FaultDirection::In) => &[twostep_net::Direction::In],
        Some(FaultDirection::Out) => &[twostep_net::Direction::Out],
        None => &[twostep_net::Direction::In, twostep_net::Direction::Out],
    };
    for direction in directions {
        match fault.peer {
            Some(peer) => net
                .faults()
                .set_peer(Party::Node(NodeId(peer)), *direction, rule),
            None => net.faults().set_everyone(*direction, rule),
        }
    }
}
