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

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tracing::{debug, error, info, warn};
use twostep_net::pool::Pool;
use twostep_net::{LinkDown, LinkId, Net, SendOutcome, Service, queue};

use crate::batch::{Batch, Bundle};
use crate::executor::Executor;
use crate::machine::{Again, Effects, Event, Input, Machine, Path, Record, To};
use crate::message::Message;
use crate::node::control::{Answer, Asked, Fault, FaultDirection, Request};
use crate::node::status::{Digests, MissingNode, NodeStatus, PeerStatus};
use crate::node::{Identification, roles_in_words};
use crate::replica::Replica;
use crate::state_machine::StateMachine;
use crate::types::{ClientId, Decree, NodeId, Party, RecordSeq, Time};
use crate::wire::{self, Bounds};

/// How often the node looks whether it is ready, to log a change.
const READINESS_EVERY: Duration = Duration::from_millis(250);
/// Lines about refused connections that are logged per second; the others are only counted.
const REFUSAL_LINES_PER_S: u32 = 5;

/// A machine that a node can run: a [`Replica`], or a strategy that wraps one.
pub trait Hosted: Machine + Send {
    /// The replica inside, for status.
    fn replica(&self) -> &Replica;
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
}

/// What the effects of a step leave to the host.
#[derive(Default)]
pub(super) struct Outbox {
    clients: BTreeMap<ClientId, Vec<LinkId>>,
    scratch: Vec<u8>,
    stored: Option<RecordSeq>,
    delivered: VecDeque<(Decree, Batch)>,
    lookups: VecDeque<Bundle>,
    refusals: BTreeMap<&'static str, u64>,
    counts: EventCounts,
}

#[derive(Default)]
struct EventCounts {
    decrees_by_votes: u64,
    decrees_by_pull: u64,
    votes: u64,
    proposals: u64,
    bundles_proposed: u64,
    records: u64,
    sent_again: [u64; 5],
}

/// The sink of one step.
struct Sink<'a> {
    net: &'a mut Net,
    outbox: &'a mut Outbox,
}

impl Effects for Sink<'_> {
    fn send(&mut self, to: To, message: &Message<'_>) {
        let Outbox {
            scratch, clients, ..
        } = &mut *self.outbox;
        scratch.clear();
        wire::encode(message, scratch);
        // A message that finds no link or no room is lost: the protocol says again what matters, and net counts it.
        match to {
            To::Nodes(nodes) => {
                for node in nodes.iter() {
                    if let Some(link) = self.net.link_to(node) {
                        let _: SendOutcome = self.net.send(link, scratch);
                    }
                }
            }
            To::Client(client) => {
                for link in clients.get(&client).into_iter().flatten() {
                    let _: SendOutcome = self.net.send(*link, scratch);
                }
            }
        }
    }

    fn store(&mut self, seq: RecordSeq, _record: &Record<'_>) {
        self.outbox.counts.records += 1;
        self.outbox.stored = Some(seq);
    }

    fn deliver(&mut self, decree: Decree, batch: &Batch) {
        self.outbox.delivered.push_back((decree, batch.clone()));
    }

    fn lookup(&mut self, bundle: &Bundle) {
        self.outbox.lookups.push_back(bundle.clone());
    }

    fn observe(&mut self, event: Event) {
        let counts = &mut self.outbox.counts;
        match event {
            Event::Proposed { bundles, .. } => {
                counts.proposals += 1;
                counts.bundles_proposed += u64::from(bundles);
            }
            Event::Voted { .. } => counts.votes += 1,
            Event::Learned {
                path: Path::Votes, ..
            } => counts.decrees_by_votes += 1,
            Event::Learned {
                path: Path::Pull, ..
            } => counts.decrees_by_pull += 1,
            Event::Low { .. } => {}
            Event::Refused { from, why } => {
                debug!("refused what {from} said: {why}");
                *self.outbox.refusals.entry(why.name()).or_default() += 1;
            }
            Event::SentAgain(again) => counts.sent_again[place(again)] += 1,
            Event::Diverged { decree } => error!(
                "DIVERGED at decree {decree}: the results differ from those of other learners; this node executes and \
                 answers no more. Its state machine is not deterministic, or its memory is damaged"
            ),
        }
    }
}

const SENT_AGAIN: [(&str, Again); 5] = [
    ("sent_again.propose", Again::Propose),
    ("sent_again.accepted", Again::Accepted),
    ("sent_again.checkpoint", Again::Checkpoint),
    ("sent_again.pull", Again::Pull),
    ("sent_again.fetch", Again::Fetch),
];

fn place(again: Again) -> usize {
    SENT_AGAIN
        .iter()
        .position(|(_, one)| *one == again)
        .expect("the table names every case")
}

impl<S: StateMachine> Host<S> {
    fn time(&self, now: Instant) -> Time {
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
            } else if let Some(bundle) = self.outbox.lookups.pop_front() {
                if let Some(found) = self.executor.lookup(&bundle) {
                    let sink = &mut Sink {
                        net,
                        outbox: &mut self.outbox,
                    };
                    self.machine.step(now, Input::Found(found), sink);
                }
            } else {
                return;
            }
        }
    }

    fn answer(&mut self, net: &mut Net, request: &Request) -> Answer {
        match request {
            Request::Status { digests } => Answer::Status(Box::new(self.status(net, *digests))),
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

    fn status(&mut self, net: &Net, digests: bool) -> NodeStatus {
        let now = self.time(net.now());
        let (replica, who) = (self.machine.replica(), &self.identification);
        let report = replica.report();
        let readiness = replica.readiness(now);
        let configuration = &who.cluster.configuration;
        let roles = configuration
            .member(who.node)
            .map(|member| member.roles)
            .unwrap_or_default();
        let executed = self.executor.executed();
        let digests = (roles.learner && digests).then(|| Digests {
            decree: executed.0,
            chain: (report.learned == executed).then(|| report.chain.to_string()),
            results: self.executor.results().to_string(),
            state: self.executor.state_digest().to_string(),
        });
        let peers = self.peers(net, now, &report.peers);
        let counters = net.counters();
        let mut refusals: BTreeMap<String, u64> = counters
            .refusals()
            .map(|(name, count)| (format!("link.{name}"), count))
            .collect();
        refusals.extend(
            self.outbox
                .refusals
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count)),
        );
        let refused_us = twostep_net::Refusal::ALL
            .iter()
            .map(|&why| (why.name().to_owned(), counters.refused_us(why)));
        NodeStatus {
            node: who.node.0,
            cluster: configuration.cluster().to_string(),
            mode: configuration.model().to_string(),
            f: configuration.f(),
            roles: roles_in_words(roles),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            listen: who.listen.to_string(),
            driver: format!("{} (the default)", net.driver_name()),
            uptime_s: net
                .now()
                .saturating_duration_since(self.started)
                .as_secs_f64(),
            cpu_s: cpu_seconds(),
            ready: readiness.ready,
            missing: missing(
                &peers,
                &readiness.missing.iter().collect::<Vec<_>>(),
                report.abstaining.then_some(who.node),
            ),
            abstaining: report.abstaining.then(|| "lost disk".to_owned()),
            regency: report.regency.0,
            leader: report.leader.0,
            low: report.low.0,
            learned: report.learned.0,
            executed: report.executed.0,
            proposed: report.proposed.0,
            waiting: report.waiting,
            diverged: report.diverged.map(|decree| decree.0),
            digests,
            peers,
            client_links: self.outbox.clients.values().map(Vec::len).sum(),
            refusals,
            refused_by_peers: refused_us.filter(|(_, count)| *count > 0).collect(),
            counters: self
                .outbox
                .counts
                .named()
                .chain(named(&counters))
                .map(|(name, count)| (name.to_owned(), count))
                .collect(),
        }
    }

    fn peers(
        &self,
        net: &Net,
        now: Time,
        heard: &[(NodeId, Option<(crate::message::Status, Time)>)],
    ) -> Vec<PeerStatus> {
        let links: BTreeMap<Party, twostep_net::PeerState> =
            net.peers().map(|peer| (peer.party, peer)).collect();
        let of = |(node, heard): &(NodeId, Option<(crate::message::Status, Time)>)| {
            let link = links.get(&Party::Node(*node));
            let up = link.is_some_and(|peer| peer.link.is_some());
            let why = link.and_then(|peer| peer.last_error.clone());
            let ms = |at: Time| u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX);
            PeerStatus {
                node: node.0,
                address: self.identification.cluster.addresses[usize::from(node.0)].clone(),
                up,
                why: why.or_else(|| (!up).then(|| "it has not connected yet".to_owned())),
                heard_ms_ago: heard.map(|(_, at)| ms(at)),
                low: heard.map(|(status, _)| status.low.0),
                learned: heard.map(|(status, _)| status.learned.0),
                abstaining: heard.is_some_and(|(status, _)| status.abstaining),
            }
        };
        heard.iter().map(of).collect()
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

/// Why each of these nodes does not serve, as this node sees it.
fn missing(peers: &[PeerStatus], nodes: &[NodeId], own: Option<NodeId>) -> Vec<MissingNode> {
    let why = |node: &NodeId| {
        let peer = peers.iter().find(|peer| peer.node == node.0);
        let why = match peer {
            _ if own == Some(*node) => "abstaining: lost disk".to_owned(),
            None => "unknown".to_owned(),
            Some(peer) if !peer.up => {
                let why = peer.why.as_deref().unwrap_or("no link");
                format!("not connected to {}: {why}", peer.address)
            }
            Some(peer) if peer.abstaining => "abstaining: lost disk".to_owned(),
            Some(peer) => match peer.heard_ms_ago {
                Some(ms) => format!("connected, but silent for {ms} ms"),
                None => "connected, but it has said nothing yet".to_owned(),
            },
        };
        MissingNode { node: node.0, why }
    };
    nodes.iter().map(why).collect()
}

impl<S: StateMachine> Service for Host<S> {
    fn message(&mut self, net: &mut Net, _link: LinkId, from: Party, bytes: &[u8]) {
        let now = self.time(net.now());
        // The message borrows `bytes` and takes its body from the pool; both outlive the step.
        match wire::decode(bytes, &self.pool, &self.bounds) {
            Ok(message) => self.step(net, now, Input::Message { from, message }),
            Err(why) => {
                debug!("what {from} sent is no message: {why}");
                *self.outbox.refusals.entry("wire").or_default() += 1;
            }
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

/// CPU time of this process, user and system. Seconds.
#[must_use]
pub fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default().as_secs_f64()
}

impl EventCounts {
    fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let again = SENT_AGAIN
            .iter()
            .map(|(name, again)| (*name, self.sent_again[place(*again)]));
        [
            ("decrees.by_votes", self.decrees_by_votes),
            ("decrees.by_pull", self.decrees_by_pull),
            ("votes", self.votes),
            ("proposals", self.proposals),
            ("proposals.bundles", self.bundles_proposed),
            ("records", self.records),
        ]
        .into_iter()
        .chain(again)
    }
}

fn named(counters: &twostep_net::Counters) -> impl Iterator<Item = (&'static str, u64)> + use<> {
    [
        ("net.turns", counters.turns),
        ("net.packets_in", counters.packets_in),
        ("net.packets_out", counters.packets_out),
        ("net.messages_in", counters.messages_in),
        ("net.messages_out", counters.messages_out),
        ("net.bytes_in", counters.bytes_in),
        ("net.bytes_out", counters.bytes_out),
        ("net.macs", counters.macs),
        ("net.reads", counters.syscalls.reads),
        ("net.writes", counters.syscalls.writes),
        ("net.polls", counters.syscalls.polls),
        ("net.dropped_full", counters.dropped_full),
        ("net.dropped_too_large", counters.dropped_too_large),
        ("net.links_up", counters.links_up),
        ("net.links_down", counters.links_down),
    ]
    .into_iter()
}
