//! What goes wrong in a world: nodes that stop and start again, cut links, messages lost, doubled or forged.

use std::time::Duration;

use twostep_engine::batch::{Batch, Bundle};
use twostep_engine::machine::{Input, JournalState};
use twostep_engine::message::Message;
use twostep_engine::record::OwnedRecord;
use twostep_engine::replica::Standing;
use twostep_engine::types::{Decree, NodeId, NodeSet, Time};
use twostep_engine::wire;
use twostep_net::pool::Body;

use super::queue::Happening;
use super::{Intercept, World};
use crate::checkers::{Finding, Property, Violation};
use crate::describe;
use crate::disk::Fate;
use crate::network::{Cut, End, Slow};
use crate::plan::{FaultKind, Trouble};
use crate::trace::Kind;

impl World<'_> {
    /// Ends all loss, doubling, lateness and cuts, and hanging syncs. Returns when the last sync ends that hangs
    /// already: until then more than f nodes may be silent.
    pub fn heal(&mut self) -> Time {
        self.trace.event(self.now, Kind::Fault, 0, b"heal");
        self.trace
            .line(self.now, || "the links and the disks heal".to_owned());
        self.network.heal();
        let now = self.now;
        let settled = self.hosts.iter_mut().map(|host| {
            host.disk.heal();
            host.disk.settled_at(now)
        });
        settled.max().unwrap_or(now)
    }

    /// Does something to single messages from now on.
    pub fn add_intercept(&mut self, intercept: Intercept) {
        self.intercepts.push(intercept);
    }

    /// Lets all messages alone again.
    pub fn clear_intercepts(&mut self) {
        self.intercepts.clear();
    }

    /// Cuts links for a while.
    pub fn cut(&mut self, from: NodeSet, to: NodeSet, lasting: Duration) {
        let until = self.now + lasting;
        self.network.cut(Cut { from, to, until });
    }

    /// Stops a node for good.
    ///
    /// # Errors
    /// If what its disk still got violates a property.
    pub fn stop(&mut self, node: NodeId) -> Result<(), Violation> {
        self.crash(node, Fate::TailLost)
            .map_err(|(property, what)| self.violation(property, what))
    }

    /// Stops a node, which starts again a while later with what this leaves of its disk.
    ///
    /// # Errors
    /// If what its disk still got violates a property.
    pub fn restart(&mut self, node: NodeId, fate: Fate, after: Duration) -> Result<(), Violation> {
        self.halt(node, fate, Some(after))
            .map_err(|(property, what)| self.violation(property, what))
    }

    /// A client made this bundle as well, by ways of its own: what it asks for may be ordered.
    ///
    /// # Panics
    /// If it is not a bundle.
    pub fn allow(&mut self, bundle: &[u8]) {
        let (scope, limits) = (self.configuration.scope(), self.configuration.limits());
        let bundle = Bundle::parse(self.pool.copy(bundle), &scope, limits).expect("a bundle");
        self.order.submitted(&bundle.view());
    }

    /// Sends a message in the name of a node, without asking the node.
    pub fn forge(&mut self, from: NodeId, to: NodeSet, message: &Message<'_>) {
        self.scratch.clear();
        wire::encode(message, &mut self.scratch);
        let bytes = self.pool.copy(&self.scratch);
        for to in to.iter() {
            self.send(End::Node(from), End::Node(to), &bytes);
        }
    }

    /// How many copies of a message an intercept lets through; none if nobody interferes.
    pub(super) fn intercept(&mut self, from: End, to: End, bytes: &Body) -> Option<usize> {
        if self.intercepts.is_empty() {
            return None;
        }
        let message = wire::decode(bytes, &self.pool, &self.bounds).ok()?;
        let kind = describe::kind(&message);
        let hit = |intercept: &&mut Intercept| {
            let path = intercept.from.contains(&from) && intercept.to.contains(&to);
            path && intercept.kind == kind && intercept.times > 0
        };
        let intercept = self.intercepts.iter_mut().find(hit)?;
        intercept.times -= 1;
        Some(intercept.copies)
    }

    /// Lets faults strike whose number of committed operations is reached.
    pub(super) fn strike(&mut self) -> Result<(), Finding> {
        while self
            .faults
            .first()
            .is_some_and(|fault| fault.at <= self.committed)
        {
            let fault = self.faults.remove(0);
            match fault.what {
                FaultKind::Crash {
                    node,
                    fate,
                    rejoin_after,
                } => self.halt(node, fate, rejoin_after)?,
                FaultKind::Journal {
                    node,
                    state,
                    lasting,
                } => self.trouble_journal(node, state, lasting)?,
                FaultKind::Loss { node, after } => {
                    if self.bears_one_more(node) {
                        self.halt(node, Fate::AllLost, Some(after))?;
                    }
                }
                FaultKind::Blackout { fate, after } => {
                    for node in self.configuration.nodes().minus(self.byzantine).iter() {
                        self.halt(node, fate, Some(after))?;
                    }
                }
                FaultKind::Corrupt { node } => {
                    self.trace
                        .event(self.now, Kind::Fault, u64::from(node.0), b"corrupt");
                    self.trace
                        .line(self.now, || format!("the state of n{} is damaged", node.0));
                    self.corrupt(node);
                }
                FaultKind::Cut { from, to, lasting } => {
                    self.trace.event(self.now, Kind::Fault, 0, b"cut");
                    self.trace.line(self.now, || {
                        format!("cut from {from:?} to {to:?} for {lasting:?}")
                    });
                    self.network.cut(Cut {
                        from,
                        to,
                        until: self.now + lasting,
                    });
                }
                FaultKind::Leader { trouble, lasting } => self.trouble_leader(trouble, lasting),
            }
        }
        Ok(())
    }

    fn trouble_leader(&mut self, trouble: Trouble, lasting: Duration) {
        let regency = self.regencies.last().copied().unwrap_or_default();
        let leader = self.configuration.leader(regency);
        self.trace
            .event(self.now, Kind::Fault, u64::from(leader.0), b"leader");
        self.trace.line(self.now, || {
            format!(
                "n{} leads {regency} and is {trouble:?} for {lasting:?}",
                leader.0
            )
        });
        let one = NodeSet::one(leader);
        let others = self.configuration.nodes().minus(one);
        match trouble {
            Trouble::Mute => self.cut(one, others, lasting),
            Trouble::Deaf => self.cut(others, one, lasting),
            Trouble::Alone => {
                self.cut(one, others, lasting);
                self.cut(others, one, lasting);
            }
            Trouble::Slow(by_ns) => {
                let until = self.now + lasting;
                self.network.slow(Slow {
                    from: leader,
                    by_ns,
                    until,
                });
            }
        }
    }

    /// A node's journal keeps nothing for a while, and says so, or just hangs.
    pub(super) fn trouble_journal(
        &mut self,
        node: NodeId,
        state: JournalState,
        lasting: Duration,
    ) -> Result<(), Finding> {
        let host = &mut self.hosts[usize::from(node.0)];
        if host.machine.is_none() || host.journal != JournalState::Ok {
            return Ok(());
        }
        host.disk.stick();
        host.journal = state;
        self.stuck += 1;
        let run = host.run;
        self.queue
            .push(self.now + lasting, Happening::Release { node, run });
        self.trace
            .event(self.now, Kind::Fault, u64::from(node.0), b"journal");
        self.trace.line(self.now, || {
            format!("the journal of n{} is {state:?}", node.0)
        });
        match state {
            // It hangs, and so says nothing.
            JournalState::Ok | JournalState::Slow => Ok(()),
            JournalState::Full | JournalState::Failed => self.drive(node, Input::Journal(state)),
        }
    }

    pub(super) fn release(&mut self, node: NodeId, run: u32) -> Result<(), Finding> {
        self.stuck -= 1;
        let host = &mut self.hosts[usize::from(node.0)];
        if host.run != run {
            return Ok(());
        }
        let told = matches!(host.journal, JournalState::Full | JournalState::Failed);
        host.journal = JournalState::Ok;
        let seq = host.disk.release(self.now);
        let at = host.disk.settled_at(self.now);
        self.queue.push(at, Happening::Stored { node, run, seq });
        self.trace.line(self.now, || {
            format!("the journal of n{} keeps records again", node.0)
        });
        if told {
            return self.drive(node, Input::Journal(JournalState::Ok));
        }
        Ok(())
    }

    /// Whether fewer than f nodes besides this one are faulty now.
    fn bears_one_more(&self, node: NodeId) -> bool {
        let faulty = |other: &NodeId| {
            let host = &self.hosts[usize::from(other.0)];
            *other != node && (host.faulty || self.byzantine.contains(*other))
        };
        self.configuration.nodes().iter().filter(faulty).count() < self.plan.f
    }

    /// A node stops, unless it is down already, and may start again.
    fn halt(
        &mut self,
        node: NodeId,
        fate: Fate,
        rejoin_after: Option<Duration>,
    ) -> Result<(), Finding> {
        if self.hosts[usize::from(node.0)].machine.is_none() {
            return Ok(());
        }
        self.trace
            .event(self.now, Kind::Fault, u64::from(node.0), b"crash");
        self.trace
            .line(self.now, || format!("n{} stops ({fate:?})", node.0));
        self.crash(node, fate)?;
        if let Some(after) = rejoin_after {
            self.rejoining += 1;
            self.queue
                .push(self.now + after, Happening::Rejoin { node });
        }
        Ok(())
    }

    pub(super) fn crash(&mut self, node: NodeId, fate: Fate) -> Result<(), Finding> {
        self.work.forgotten(node);
        let host = &mut self.hosts[usize::from(node.0)];
        host.journal = JournalState::Ok;
        let left = host.disk.crash(self.now, fate);
        if fate == Fate::AllLost {
            host.standing = Standing::LostDisk;
        }
        host.machine = None;
        host.backlog.clear();
        host.tick_at = None;
        host.run += 1;
        host.faulty = true;
        host.shelf.crash(fate);
        self.said.crashed(node, left)
    }

    /// A node starts again with what its disk kept, and executes again what it had learned.
    pub(super) fn rejoin(&mut self, node: NodeId) -> Result<(), Finding> {
        self.rejoining -= 1;
        self.trace
            .event(self.now, Kind::Fault, u64::from(node.0), b"rejoin");
        let host = &self.hosts[usize::from(node.0)];
        let (standing, records) = (host.standing, host.disk.records().to_vec());
        let sound = !host.corrupt && !self.byzantine.contains(node);
        self.trace.line(self.now, || {
            let count = records.len();
            format!(
                "n{} starts again with {count} records, {standing:?}",
                node.0
            )
        });
        if standing == Standing::LostDisk && records.is_empty() {
            self.said.lost_disk(node);
        }
        self.order.restarted(node);
        let mut executor = self.cast.executor(&self.configuration);
        let (mut keeper, base) = self.restart_keeper(node, &mut executor);
        let setup = self.setup(node, standing);
        let rejoined = |record: &OwnedRecord| matches!(record, OwnedRecord::Rejoined { .. });
        let faulty = standing == Standing::LostDisk && !records.iter().any(rejoined);
        let mut finding = None;
        let execute = &mut |decree, batch: &Batch| {
            let results = executor.execute(decree, batch).results;
            if let Some(image) = executor.take_image() {
                keeper.image(image);
                while keeper.has_work() {
                    keeper.work();
                }
                // All may have stopped before they executed it: then this is the first to have that state.
                let digest = executor.state_digest();
                if sound && *self.states.entry(decree).or_insert(digest) != digest {
                    let what = format!("n{} has another state at {decree} than before", node.0);
                    finding.get_or_insert((Property::Divergence, what));
                }
            }
            let again = self.order.deliver(node, decree, batch).and_then(|first| {
                // All may have stopped between writing it down and delivering it.
                if first {
                    self.work.ordered(batch);
                    self.history.apply(decree, batch);
                }
                self.history.executed(node, decree, results)
            });
            finding = finding.take().or(again.err());
            results
        };
        let restored = self.cast.restored(setup, base.as_ref(), records, execute);
        if let Some(finding) = finding {
            return Err(finding);
        }
        let machine = restored.map_err(|error| {
            let what = format!("n{} does not start again: {error}", node.0);
            (Property::Durability, what)
        })?;
        let host = &mut self.hosts[usize::from(node.0)];
        host.machine = Some(machine);
        host.executor = Some(executor);
        host.faulty = faulty || host.corrupt;
        host.keeper = keeper;
        host.low = Decree::NONE;
        self.schedule_tick(node, self.now);
        self.hear_keeper(node)
    }
}
