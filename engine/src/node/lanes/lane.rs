//! A lane: one loop with links of its own. It takes messages off them, checks what needs no state, and sends what the order loop says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use tracing::{debug, info};
use twostep_net::pool::Pool;
use twostep_net::{LinkDown, LinkId, Net, SendOutcome, Service, queue};

use super::chunk::Chunk;
use super::output::Output;
use crate::machine::To;
use crate::node::control::Fault;
use crate::node::core::LineLimit;
use crate::node::effects::ClientLinks;
use crate::node::faults::set_fault;
use crate::node::refused_time::thread_time;
use crate::node::report::LinksReport;
use crate::prechecked::{Horizon, Precheck};
use crate::types::{Decree, NodeSet, Party, Regency};
use crate::wire::{self, Bounds};

/// What the order loop tells a lane.
#[derive(Debug)]
pub(super) enum ToLane {
    /// Send what is for links of this lane.
    Output(Arc<Output>),
    /// Close a link: the same node has a newer one at another lane.
    Close(LinkId),
    /// Say what the links have done, for this round of reports.
    Report(u64),
    /// Inject faults.
    Fault(Fault),
    /// Inject no more faults.
    Heal,
}

/// How far the order has come, for all lanes to see. The two numbers may be of different moments; see [`crate::prechecked`] for why that is good enough.
#[derive(Debug, Default)]
pub(super) struct SharedHorizon {
    regency: AtomicU64,
    low: AtomicU64,
}

impl SharedHorizon {
    pub fn publish(&self, horizon: Horizon) {
        self.regency.store(horizon.regency.0, Ordering::Relaxed);
        self.low.store(horizon.low.0, Ordering::Relaxed);
    }

    fn get(&self) -> Horizon {
        Horizon {
            regency: Regency(self.regency.load(Ordering::Relaxed)),
            low: Decree(self.low.load(Ordering::Relaxed)),
        }
    }
}

/// What serves the links of one lane.
pub(super) struct Lane {
    pub index: usize,
    pub precheck: Precheck,
    pub bounds: Bounds,
    pub pool: Pool,
    pub horizon: Arc<SharedHorizon>,
    pub to_order: queue::Sender<Chunk>,
    /// Chunks that the order loop gives back.
    pub spent: queue::Receiver<Chunk>,
    pub from_order: queue::Receiver<ToLane>,
    pub stopping: Arc<AtomicBool>,
    pub refusal_lines: LineLimit,
    pub state: LaneState,
}

/// What a lane begins without.
#[derive(Default)]
pub(super) struct LaneState {
    chunk: Chunk,
    /// The nodes that it has a link to.
    nodes: NodeSet,
    clients: ClientLinks,
    /// The order loop had no room for the chunk: nothing more is read until it has.
    stalled: bool,
    stalls: u64,
    chunks: u64,
    prechecked: u64,
}

#[cfg(test)]
impl LaneState {
    /// The messages that it checked.
    pub fn prechecked(&self) -> u64 {
        self.prechecked
    }
}

impl Lane {
    /// Takes a message off a link: it is in the chunk then.
    pub fn take(&mut self, from: Party, bytes: &[u8]) {
        let chunk = &mut self.state.chunk;
        if wire::carries_requests(bytes)
            && let Ok(message) = wire::decode(bytes, &self.pool, &self.bounds)
            && let Some(found) = self.precheck.check(self.horizon.get(), from, &message)
        {
            chunk.push_prechecked(found);
            self.state.prechecked += 1;
        } else {
            chunk.push_bytes(from, bytes);
        }
        if self.state.chunk.is_full() && !self.state.stalled {
            self.hand_over();
        }
    }

    /// Hands the chunk to the order loop, if it has room.
    pub fn hand_over(&mut self) {
        let state = &mut self.state;
        let was_stalled = std::mem::take(&mut state.stalled);
        if state.chunk.is_empty() {
            return;
        }
        let next = self.spent.receive().unwrap_or_default();
        match self
            .to_order
            .send(std::mem::replace(&mut state.chunk, next))
        {
            Ok(()) => state.chunks += 1,
            Err(queue::SendError::Full(chunk)) => {
                state.chunk = chunk;
                state.stalls += u64::from(!was_stalled);
                state.stalled = true;
            }
            // The node is ending.
            Err(queue::SendError::Closed(_)) => {}
        }
    }

    /// Tells the order loop what the links have done.
    pub fn say_report(&mut self, round: u64, report: LinksReport) {
        self.state.chunk.push_report(round, report);
        self.hand_over();
    }

    fn send(&self, net: &mut Net, output: &Output) {
        for message in output.messages() {
            match message.to {
                To::Nodes(nodes) => {
                    for node in nodes.minus(nodes.minus(self.state.nodes)).iter() {
                        if let Some(link) = net.link_to(node) {
                            let _: SendOutcome = message.send(net, link);
                        }
                    }
                }
                To::Client(client) => {
                    for link in self.state.clients.of(client) {
                        let _: SendOutcome = message.send(net, *link);
                    }
                }
            }
        }
    }

    fn report(&self, net: &Net) -> LinksReport {
        let mut report = LinksReport::of(net, self.state.clients.len());
        let cpu_us = u64::try_from(thread_time().as_micros()).unwrap_or(u64::MAX);
        let LaneState {
            stalls,
            chunks,
            prechecked,
            ..
        } = self.state;
        let counts = [
            ("turns", net.counters().turns),
            ("chunks", chunks),
            ("prechecked", prechecked),
            ("stalls", stalls),
            ("cpu_us", cpu_us),
        ];
        let index = self.index;
        let named = counts.map(|(name, count)| (format!("lane{index}.{name}"), count));
        report.lanes.extend(named);
        report
    }
}

impl Service for Lane {
    fn message(&mut self, _net: &mut Net, _link: LinkId, from: Party, bytes: &[u8]) {
        self.take(from, bytes);
    }

    fn link_up(&mut self, _net: &mut Net, link: LinkId, party: Party) {
        let state = &mut self.state;
        match party {
            Party::Node(node) => {
                info!("link to node {node} is up, at lane {}", self.index);
                state.nodes.insert(node);
            }
            Party::Client(client) => {
                debug!("link to client {client} is up, at lane {}", self.index);
                state.clients.add(client, link);
            }
        }
        state.chunk.push_up(link, party);
    }

    fn link_down(&mut self, net: &mut Net, link: LinkId, party: Option<Party>, why: &LinkDown) {
        let state = &mut self.state;
        match party {
            // Who only claimed to be a node may be told of as well: it has no link in the order loop's table.
            Some(Party::Node(node)) => {
                if net.link_to(node).is_none() {
                    state.nodes.remove(node);
                }
                state.chunk.push_down(link, Party::Node(node));
            }
            Some(Party::Client(client)) if state.clients.remove(client, link) => {
                state.chunk.push_down(link, Party::Client(client));
            }
            Some(Party::Client(_)) | None => {}
        }
        self.refusal_lines.log_down(net.now(), party, why);
    }

    fn turn(&mut self, net: &mut Net, _now: Instant) {
        self.hand_over();
        while let Some(told) = self.from_order.receive() {
            match told {
                ToLane::Output(output) => self.send(net, &output),
                ToLane::Close(link) => net.close(link),
                ToLane::Report(round) => {
                    let report = self.report(net);
                    self.say_report(round, report);
                }
                ToLane::Fault(fault) => set_fault(net, &fault),
                ToLane::Heal => net.faults().clear(),
            }
        }
    }

    fn takes_messages(&self) -> bool {
        !self.state.stalled
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}
