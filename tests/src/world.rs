//! The world: virtual time, one queue of events, nodes, clients, links, disks, and the checkers that watch.
//!
//! ```text
//! queue ─► next event ─► machine or client core ─► wishes ─► links, disk, execution ─► queue
//!                                      └─► checkers (after every step)
//! ```
//!
//! One thread. Events of one moment happen in the order in which they were put into the queue, so a run is a
//! function of its plan and seed; [`World::trace_hash`] tells whether two runs were the same.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use twostep_engine::admission::ClientDirectory;
use twostep_engine::configuration::Configuration;
use twostep_engine::executor::Executor;
use twostep_engine::key_value::KeyValue;
use twostep_engine::machine::{Event, Input, Machine, To};
use twostep_engine::message::Message;
use twostep_engine::replica::{Replica, Setup, Standing};
use twostep_engine::types::{ClientId, Decree, NodeId, NodeSet, Party, RecordSeq, Time};
use twostep_engine::wire::{self, Bounds};
use twostep_net::pool::{Body, Pool};

use crate::checkers::history::HistoryChecker;
use crate::checkers::order::OrderChecker;
use crate::checkers::said::SaidChecker;
use crate::checkers::{Finding, Property, Violation};
use crate::client::{Act, SimClient, Tallies};
use crate::describe;
use crate::disk::{Disk, Fate};
use crate::host::{Collector, Host, Wish};
use crate::network::{Cut, End, Network};
use crate::plan::{Fault, FaultKind, Plan};
use crate::random::Random;
use crate::topology::{Classes, client_identity, configuration, node_identity, roles};
use crate::trace::{Kind, Line, Trace};
use crate::workload;

/// A machine that ends so many turns at one moment never rests.
const TICKS_AT_ONCE_MAX: u32 = 1000;

/// Who plays the nodes: real replicas, unless a test puts something else in their place.
pub trait Cast {
    /// The machine of a node.
    fn machine(&self, setup: Setup) -> Box<dyn Machine> {
        Box::new(Replica::new(setup).expect("the simulator's keys are sound"))
    }

    /// The executor of a node.
    fn executor(&self, configuration: &Configuration) -> Executor<KeyValue> {
        Executor::new(configuration, KeyValue::default())
    }

    /// The nodes that may say anything: the checkers do not hold them to their word.
    fn byzantine(&self) -> NodeSet {
        NodeSet::EMPTY
    }
}

/// Everybody is what they should be.
#[derive(Clone, Copy, Debug, Default)]
pub struct Honest;

impl Cast for Honest {}

/// One simulated cluster with its clients.
pub struct World<'c> {
    plan: Plan,
    cast: &'c dyn Cast,
    configuration: Arc<Configuration>,
    directory: Arc<ClientDirectory>,
    bounds: Bounds,
    pool: Pool,
    now: Time,
    queue: BinaryHeap<Reverse<Entry>>,
    entries: u64,
    hosts: Vec<Host>,
    clients: Vec<SimClient>,
    turns_at: Vec<Option<Time>>,
    client_places: BTreeMap<ClientId, usize>,
    network: Network,
    execution: Random,
    faults: Vec<Fault>,
    intercepts: Vec<Intercept>,
    rejoining: usize,
    ticks_at_once: u32,
    trace: Trace,
    order: OrderChecker,
    said: SaidChecker,
    history: HistoryChecker,
    certified: Decree,
    committed: u64,
    observed: Vec<Observed>,
    keeps_observed: bool,
    // Reused from step to step.
    wishes: Vec<Wish>,
    acts: Vec<Act>,
    scratch: Vec<u8>,
}

/// Something that tests look at: when which node saw what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// When.
    pub at: Time,
    /// What.
    pub what: Sight,
}

/// Something that a test does to single messages on their way.
#[derive(Clone, Debug)]
pub struct Intercept {
    /// Of these senders,
    pub from: Vec<End>,
    /// to these receivers,
    pub to: Vec<End>,
    /// messages of this kind, by its name,
    pub kind: String,
    /// so many of them;
    pub times: u32,
    /// how many copies arrive: 0 loses, 2 doubles.
    pub copies: usize,
}

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// A node observed an event.
    Event(NodeId, Event),
    /// A client's call, made at this moment, was committed in this decree.
    Committed {
        /// The client's place.
        client: usize,
        /// The decree.
        decree: Decree,
        /// When the call was made.
        called: Time,
    },
}

struct Entry {
    at: Time,
    number: u64,
    what: Happening,
}

enum Happening {
    Arrive {
        from: End,
        to: End,
        bytes: Body,
    },
    Stored {
        node: NodeId,
        run: u32,
        seq: RecordSeq,
    },
    Execute {
        node: NodeId,
        run: u32,
    },
    Found {
        node: NodeId,
        run: u32,
        bundle: twostep_engine::batch::Bundle,
    },
    Tick {
        node: NodeId,
        run: u32,
    },
    Turn {
        client: usize,
    },
    Rejoin {
        node: NodeId,
    },
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl<'c> World<'c> {
    /// The world of a plan. `transcript` keeps a line for everything that happens.
    ///
    /// # Panics
    /// If the plan's configuration is refused: a plan is made from numbers that fit each other.
    #[must_use]
    pub fn new(plan: Plan, seed: u64, cast: &'c dyn Cast, transcript: bool) -> World<'c> {
        let configuration = configuration(plan.model, plan.f, plan.topology, plan.limits);
        let configuration = Arc::new(configuration.expect("a plan's numbers fit each other"));
        let directory = (0..plan.clients.count).map(|client| client_identity(client).public());
        let directory = Arc::new(ClientDirectory::new(directory));
        let roles = roles(plan.model, plan.f, plan.topology);
        let classes = Classes::of(plan.model, plan.f);
        let pool = Pool::default();
        let clients: Vec<SimClient> = (0..plan.clients.count)
            .map(|place| SimClient::new(&configuration, plan.clients, place, &pool, seed))
            .collect();
        let mut history = HistoryChecker::default();
        for (operation, counter) in clients.iter().flat_map(SimClient::operations) {
            history.counts(&operation, counter);
        }
        let mut world = World {
            cast,
            bounds: Bounds::of(&configuration),
            now: Time(0),
            queue: BinaryHeap::new(),
            entries: 0,
            hosts: Vec::new(),
            turns_at: vec![None; clients.len()],
            client_places: clients
                .iter()
                .enumerate()
                .map(|(place, client)| (client.id(), place))
                .collect(),
            clients,
            network: Network::new(plan.links, Random::fork(seed, "network")),
            execution: Random::fork(seed, "execution"),
            faults: plan.faults.clone(),
            intercepts: Vec::new(),
            rejoining: 0,
            ticks_at_once: 0,
            trace: Trace::new(transcript),
            order: OrderChecker::new(roles.len()),
            said: SaidChecker::new(&roles, classes, plan.limits.window, cast.byzantine()),
            history,
            certified: Decree::NONE,
            committed: 0,
            observed: Vec::new(),
            keeps_observed: false,
            wishes: Vec::new(),
            acts: Vec::new(),
            scratch: Vec::new(),
            configuration,
            directory,
            pool,
            plan,
        };
        for node in world.configuration.nodes().iter() {
            let disk = Disk::new(
                world.plan.syncs,
                Random::fork(seed, &format!("disk {}", node.0)),
            );
            let host = Host {
                machine: Some(world.machine(node, Standing::Born)),
                executor: Some(cast.executor(&world.configuration)),
                disk,
                backlog: std::collections::VecDeque::new(),
                tick_at: None,
                run: 0,
                low: Decree::NONE,
                faulty: false,
            };
            world.hosts.push(host);
            world.schedule_tick(node, Time(0));
        }
        for client in 0..world.clients.len() {
            world.schedule_turn(client, Time(0));
        }
        world
    }

    /// Does the next thing that happens; false if nothing is left to happen.
    ///
    /// # Errors
    /// The property that it violated.
    pub fn step(&mut self) -> Result<bool, Violation> {
        let Some(Reverse(entry)) = self.queue.pop() else {
            return Ok(false);
        };
        assert!(entry.at >= self.now, "time does not go back");
        if entry.at > self.now {
            self.ticks_at_once = 0;
        }
        self.now = entry.at;
        let at = self.now;
        self.happen(entry.what)
            .map_err(|(property, what)| Violation { property, at, what })?;
        self.strike()
            .map_err(|(property, what)| Violation { property, at, what })?;
        Ok(true)
    }

    /// Steps until `done` says so or `until` has passed; true if `done` did.
    ///
    /// # Errors
    /// As [`World::step`].
    pub fn run(
        &mut self,
        until: Time,
        mut done: impl FnMut(&World<'c>) -> bool,
    ) -> Result<bool, Violation> {
        while !done(self) {
            if self.next_at().is_none_or(|next| next > until) {
                self.now = self.now.max(until);
                return Ok(false);
            }
            self.step()?;
        }
        Ok(true)
    }

    /// When the next thing happens.
    #[must_use]
    pub fn next_at(&self) -> Option<Time> {
        self.queue.peek().map(|Reverse(entry)| entry.at)
    }

    /// Ends all loss, doubling, lateness and cuts.
    pub fn heal(&mut self) {
        self.trace.event(self.now, Kind::Fault, 0, b"heal");
        self.trace.line(self.now, || "the links heal".to_owned());
        self.network.heal();
    }

    /// Clients make no calls of their own accord any more, or do again.
    pub fn set_clients_busy(&mut self, busy: bool) {
        for client in 0..self.clients.len() {
            self.clients[client].set_busy(busy);
            self.schedule_turn(client, self.now);
        }
    }

    /// Makes a client call so many times as soon as it can.
    pub fn ask(&mut self, client: usize, calls: u64) {
        self.clients[client].ask(calls);
        self.schedule_turn(client, self.now);
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

    /// Sends a message in the name of a node, without asking the node.
    pub fn forge(&mut self, from: NodeId, to: NodeSet, message: &Message<'_>) {
        self.scratch.clear();
        wire::encode(message, &mut self.scratch);
        let bytes = self.pool.copy(&self.scratch);
        for to in to.iter() {
            self.send(End::Node(from), End::Node(to), &bytes);
        }
    }

    /// How far each node is: id, newest certified checkpoint, delivered, executed; none if it is down.
    pub fn progress(
        &self,
    ) -> impl Iterator<Item = (NodeId, Option<(Decree, Decree, Decree)>)> + use<'_, 'c> {
        self.configuration.nodes().iter().map(|node| {
            let host = &self.hosts[usize::from(node.0)];
            let far = (host.low, self.delivered_by(node), self.executed_by(node));
            (node, host.machine.as_ref().map(|_| far))
        })
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The configuration.
    #[must_use]
    pub fn configuration(&self) -> &Arc<Configuration> {
        &self.configuration
    }

    /// Calls that clients know to be committed.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// The highest decree that any learner delivered.
    #[must_use]
    pub fn decrees(&self) -> Decree {
        self.order.top()
    }

    /// The newest certified checkpoint that any node knows of.
    #[must_use]
    pub fn certified(&self) -> Decree {
        self.certified
    }

    /// How far a node delivered.
    #[must_use]
    pub fn delivered_by(&self, node: NodeId) -> Decree {
        self.order.delivered_by(node)
    }

    /// How far a node executed.
    #[must_use]
    pub fn executed_by(&self, node: NodeId) -> Decree {
        self.executor(node).executed()
    }

    /// Whether some fault has not struck yet, lasts still, or a node is about to start again.
    #[must_use]
    pub fn trouble_ahead(&self) -> bool {
        !self.faults.is_empty() || self.rejoining > 0 || self.network.is_cut_anywhere(self.now)
    }

    /// The learners that never stopped.
    #[must_use]
    pub fn correct_learners(&self) -> NodeSet {
        let correct = |node: &NodeId| !self.hosts[usize::from(node.0)].faulty;
        self.configuration
            .learners()
            .iter()
            .filter(correct)
            .collect()
    }

    /// The learners that are up, also those that had stopped.
    #[must_use]
    pub fn live_learners(&self) -> NodeSet {
        let live = |node: &NodeId| self.hosts[usize::from(node.0)].machine.is_some();
        self.configuration.learners().iter().filter(live).collect()
    }

    /// Calls and Opens of all clients that have not ended.
    #[must_use]
    pub fn unresolved(&self) -> usize {
        self.clients.iter().map(SimClient::unresolved).sum()
    }

    /// Whether all sessions of all clients are open.
    #[must_use]
    pub fn sessions_open(&self) -> bool {
        self.clients.iter().all(SimClient::is_open)
    }

    /// How the calls of all clients ended.
    #[must_use]
    pub fn tallies(&self) -> Tallies {
        let add = |sum: Tallies, one: Tallies| Tallies {
            committed: sum.committed + one.committed,
            unknown: sum.unknown + one.unknown,
            busy: sum.busy + one.busy,
            rejected: sum.rejected + one.rejected,
        };
        self.clients
            .iter()
            .map(SimClient::tallies)
            .fold(Tallies::default(), add)
    }

    /// How many events happened.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.trace.events()
    }

    /// The hash of everything that happened.
    #[must_use]
    pub fn trace_hash(&self) -> String {
        self.trace.hash()
    }

    /// Takes the lines of the transcript so far.
    pub fn take_lines(&mut self) -> Vec<Line> {
        self.trace.take_lines()
    }

    /// Keeps what nodes and clients observe from now on, for [`World::take_observed`].
    pub fn keep_observed(&mut self) {
        self.keeps_observed = true;
    }

    /// Takes what was observed so far.
    pub fn take_observed(&mut self) -> Vec<Observed> {
        std::mem::take(&mut self.observed)
    }

    /// Compares the states of all live learners that executed everything, with each other and with what the log
    /// says; the final check of a run.
    ///
    /// # Errors
    /// If they differ.
    pub fn compare_states(&self) -> Result<(), Violation> {
        let top = self.decrees();
        let mut first = None;
        for node in self.live_learners().iter() {
            let executor = self.executor(node);
            if executor.executed() != top {
                continue;
            }
            let digest = executor.state_digest();
            let (other, expected) = *first.get_or_insert((node, digest));
            if digest != expected {
                let what = format!(
                    "n{} and n{} differ in their states at decree {top}",
                    node.0, other.0
                );
                return Err(self.violation(Property::Divergence, what));
            }
            for (counter, expected) in self.history.counters() {
                let found = workload::counter_in(executor.machine(), counter);
                if found != Some(expected) {
                    let what = format!(
                        "counter {counter} stands at {found:?} at n{}, {expected} operations count",
                        node.0
                    );
                    return Err(self.violation(Property::ExactlyOnce, what));
                }
            }
        }
        Ok(())
    }

    fn violation(&self, property: Property, what: String) -> Violation {
        Violation {
            property,
            at: self.now,
            what,
        }
    }

    fn machine(&self, node: NodeId, standing: Standing) -> Box<dyn Machine> {
        self.cast.machine(Setup {
            configuration: Arc::clone(&self.configuration),
            me: node,
            identity: node_identity(usize::from(node.0)),
            clients: Arc::clone(&self.directory),
            tuning: self.plan.tuning,
            pool: self.pool.clone(),
            standing,
        })
    }

    fn push(&mut self, at: Time, what: Happening) {
        self.entries += 1;
        self.queue.push(Reverse(Entry {
            at,
            number: self.entries,
            what,
        }));
    }

    fn schedule_tick(&mut self, node: NodeId, at: Time) {
        let host = &mut self.hosts[usize::from(node.0)];
        if host.tick_at.is_none_or(|tick_at| at < tick_at) {
            host.tick_at = Some(at);
            let run = host.run;
            self.push(at, Happening::Tick { node, run });
        }
    }

    fn schedule_turn(&mut self, client: usize, at: Time) {
        if self.turns_at[client].is_none_or(|turn_at| at < turn_at) {
            self.turns_at[client] = Some(at);
            self.push(at, Happening::Turn { client });
        }
    }

    fn happen(&mut self, what: Happening) -> Result<(), Finding> {
        match what {
            Happening::Arrive {
                from,
                to: End::Node(node),
                bytes,
            } => self.arrive_at_node(from, node, &bytes),
            Happening::Arrive {
                from,
                to: End::Client(client),
                bytes,
            } => self.arrive_at_client(from, client, &bytes),
            Happening::Stored { node, run, seq } => {
                if self.hosts[usize::from(node.0)].run != run {
                    return Ok(());
                }
                self.trace.event(
                    self.now,
                    Kind::Stored,
                    u64::from(node.0),
                    &seq.0.to_le_bytes(),
                );
                self.trace.line(self.now, || {
                    format!("n{} has #{} on its disk", node.0, seq.0)
                });
                let durable = self.hosts[usize::from(node.0)].disk.durable(self.now);
                self.said.durable(node, durable)?;
                self.drive(node, Input::Stored(seq))
            }
            Happening::Execute { node, run } => self.execute(node, run),
            Happening::Found { node, run, bundle } => self.look_up(node, run, &bundle),
            Happening::Tick { node, run } => {
                let host = &mut self.hosts[usize::from(node.0)];
                if host.run != run || host.tick_at != Some(self.now) {
                    return Ok(());
                }
                host.tick_at = None;
                self.ticks_at_once += 1;
                if self.ticks_at_once
                    > TICKS_AT_ONCE_MAX * u32::try_from(self.hosts.len()).expect("few nodes")
                {
                    return Err((Property::Conduct, format!("n{} never rests", node.0)));
                }
                self.trace
                    .event(self.now, Kind::Tick, u64::from(node.0), &[]);
                self.drive(node, Input::Tick)
            }
            Happening::Turn { client } => {
                if self.turns_at[client] != Some(self.now) {
                    return Ok(());
                }
                self.turns_at[client] = None;
                self.trace.event(self.now, Kind::Turn, client as u64, &[]);
                self.clients[client].turn(self.now);
                self.serve(client)
            }
            Happening::Rejoin { node } => {
                self.rejoining -= 1;
                self.trace
                    .event(self.now, Kind::Fault, u64::from(node.0), b"rejoin");
                self.trace.line(self.now, || {
                    format!("n{} starts again without its disk", node.0)
                });
                self.said.lost_disk(node);
                self.order.restarted(node);
                let machine = self.machine(node, Standing::LostDisk);
                let executor = self.cast.executor(&self.configuration);
                let host = &mut self.hosts[usize::from(node.0)];
                host.disk.crash(self.now, Fate::AllLost);
                host.machine = Some(machine);
                host.executor = Some(executor);
                host.low = Decree::NONE;
                self.schedule_tick(node, self.now);
                Ok(())
            }
        }
    }

    fn arrive_at_node(&mut self, from: End, node: NodeId, bytes: &Body) -> Result<(), Finding> {
        if self.hosts[usize::from(node.0)].machine.is_none() {
            return Ok(());
        }
        let party = match from {
            End::Node(node) => Party::Node(node),
            End::Client(client) => Party::Client(self.clients[client].id()),
        };
        self.trace
            .event(self.now, Kind::Arrived, u64::from(node.0), bytes);
        let pool = self.pool.clone();
        let message = wire::decode(bytes, &pool, &self.bounds).map_err(|error| {
            (
                Property::Conduct,
                format!("{from} sent n{} what is no message: {error}", node.0),
            )
        })?;
        self.trace.line(self.now, || {
            format!("{from} → n{}: {}", node.0, describe::message(&message))
        });
        self.drive(
            node,
            Input::Message {
                from: party,
                message,
            },
        )
    }

    fn arrive_at_client(&mut self, from: End, client: usize, bytes: &Body) -> Result<(), Finding> {
        let End::Node(node) = from else {
            unreachable!("clients have links to nodes only");
        };
        self.trace
            .event(self.now, Kind::Arrived, 1 << 32 | client as u64, bytes);
        let pool = self.pool.clone();
        let message = wire::decode(bytes, &pool, &self.bounds).map_err(|error| {
            (
                Property::Conduct,
                format!("{from} sent c{client} what is no message: {error}"),
            )
        })?;
        self.trace.line(self.now, || {
            format!("{from} → c{client}: {}", describe::message(&message))
        });
        self.clients[client].hear(self.now, node, &message);
        self.serve(client)
    }

    /// Gives a machine one input, carries out what it wants, and sees to its next turn.
    fn drive(&mut self, node: NodeId, input: Input<'_>) -> Result<(), Finding> {
        let host = &mut self.hosts[usize::from(node.0)];
        let Some(machine) = host.machine.as_mut() else {
            return Ok(());
        };
        let turn = !matches!(input, Input::Tick);
        let mut finding = None;
        let mut lines = self.trace.wants_lines().then(Vec::new);
        let mut wishes = std::mem::take(&mut self.wishes);
        machine.step(
            self.now,
            input,
            &mut Collector {
                node,
                wishes: &mut wishes,
                said: &mut self.said,
                finding: &mut finding,
                pool: &self.pool,
                scratch: &mut self.scratch,
                lines: lines.as_mut(),
            },
        );
        let deadline = machine.deadline();
        for line in lines.into_iter().flatten() {
            self.trace.line(self.now, || line);
        }
        if let Some(finding) = finding {
            return Err(finding);
        }
        for wish in wishes.drain(..) {
            self.grant(node, wish)?;
        }
        self.wishes = wishes;
        if turn {
            self.schedule_tick(node, Time(self.now.0 + self.plan.turn_ns));
        }
        if let Some(deadline) = deadline {
            self.schedule_tick(node, deadline.max(self.now));
        }
        Ok(())
    }

    fn grant(&mut self, node: NodeId, wish: Wish) -> Result<(), Finding> {
        match wish {
            Wish::Send {
                to: To::Nodes(nodes),
                bytes,
            } => {
                if nodes.contains(node) {
                    return Err((
                        Property::Conduct,
                        format!("n{} sends to itself over a link", node.0),
                    ));
                }
                for to in nodes.iter() {
                    self.send(End::Node(node), End::Node(to), &bytes);
                }
            }
            Wish::Send {
                to: To::Client(client),
                bytes,
            } => {
                if let Some(place) = self.client_places.get(&client) {
                    self.send(End::Node(node), End::Client(*place), &bytes);
                }
            }
            Wish::Store(seq) => {
                let host = &mut self.hosts[usize::from(node.0)];
                let at = host.disk.write(self.now, seq);
                let run = host.run;
                self.push(at, Happening::Stored { node, run, seq });
            }
            Wish::Deliver(decree, batch) => {
                self.said.delivered(node, decree, batch.value())?;
                if self.order.deliver(node, decree, &batch)? {
                    self.history.apply(decree, &batch);
                }
                let idle = self.hosts[usize::from(node.0)].backlog.is_empty();
                self.hosts[usize::from(node.0)]
                    .backlog
                    .push_back((decree, batch));
                if idle {
                    self.schedule_execution(node);
                }
            }
            Wish::Lookup(bundle) => {
                let run = self.hosts[usize::from(node.0)].run;
                self.push(self.now, Happening::Found { node, run, bundle });
            }
            Wish::Observe(event) => {
                if let Event::Low { decree } = event {
                    self.certified = self.certified.max(decree);
                    let low = &mut self.hosts[usize::from(node.0)].low;
                    *low = (*low).max(decree);
                }
                if let Event::Diverged { decree } = event {
                    return Err((
                        Property::Divergence,
                        format!("n{} says that it diverged at {decree}", node.0),
                    ));
                }
                if self.keeps_observed {
                    self.observed.push(Observed {
                        at: self.now,
                        what: Sight::Event(node, event),
                    });
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, from: End, to: End, bytes: &Body) {
        let copies = self.intercept(from, to, bytes).unwrap_or(1);
        let mut lost = true;
        for _ in 0..copies {
            for at in self.network.arrivals(self.now, from, to) {
                lost = false;
                let bytes = bytes.clone();
                self.push(at, Happening::Arrive { from, to, bytes });
            }
        }
        if lost {
            self.trace.line(self.now, || format!("{from} → {to}: lost"));
        }
    }

    fn executor(&self, node: NodeId) -> &Executor<KeyValue> {
        self.hosts[usize::from(node.0)]
            .executor
            .as_ref()
            .expect("an executor is back after each execution")
    }

    /// Takes the executor out for one execution, because its replies borrow it while the machine is stepped.
    fn take_executor(&mut self, node: NodeId) -> Executor<KeyValue> {
        self.hosts[usize::from(node.0)]
            .executor
            .take()
            .expect("an executor is back after each execution")
    }

    /// How many copies of a message an intercept lets through; none if nobody interferes.
    fn intercept(&mut self, from: End, to: End, bytes: &Body) -> Option<usize> {
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

    fn schedule_execution(&mut self, node: NodeId) {
        let delay = self.execution.below(self.plan.execution_max_ns + 1);
        let run = self.hosts[usize::from(node.0)].run;
        self.push(Time(self.now.0 + delay), Happening::Execute { node, run });
    }

    fn execute(&mut self, node: NodeId, run: u32) -> Result<(), Finding> {
        let host = &mut self.hosts[usize::from(node.0)];
        if host.run != run {
            return Ok(());
        }
        let (decree, batch) = host
            .backlog
            .pop_front()
            .expect("execution is scheduled for what waits");
        let more = !host.backlog.is_empty();
        self.trace.event(
            self.now,
            Kind::Executed,
            u64::from(node.0),
            &decree.0.to_le_bytes(),
        );
        self.trace
            .line(self.now, || format!("n{} executes d{decree}", node.0));
        let mut executor = self.take_executor(node);
        let executed = executor.execute(decree, &batch);
        let checked = self.history.executed(node, decree, executed.results);
        let input = Input::Executed {
            decree,
            replies: executed.replies,
            results: executed.results,
        };
        let driven = checked.and_then(|()| self.drive(node, input));
        self.hosts[usize::from(node.0)].executor = Some(executor);
        if more {
            self.schedule_execution(node);
        }
        driven
    }

    fn look_up(
        &mut self,
        node: NodeId,
        run: u32,
        bundle: &twostep_engine::batch::Bundle,
    ) -> Result<(), Finding> {
        if self.hosts[usize::from(node.0)].run != run {
            return Ok(());
        }
        self.trace
            .event(self.now, Kind::Found, u64::from(node.0), &[]);
        let mut executor = self.take_executor(node);
        let driven = match executor.lookup(bundle) {
            Some(replies) => self.drive(node, Input::Found(replies)),
            None => Ok(()),
        };
        self.hosts[usize::from(node.0)].executor = Some(executor);
        driven
    }

    /// Carries out what a client did, and sees to its next turn.
    fn serve(&mut self, client: usize) -> Result<(), Finding> {
        let mut acts = std::mem::take(&mut self.acts);
        self.clients[client].take_acts(&mut acts);
        for act in acts.drain(..) {
            match act {
                Act::Send { to, bytes, bundle } => {
                    self.order.submitted(&bundle.view());
                    self.trace.line(self.now, || {
                        let operations = bundle.view().count;
                        format!(
                            "c{client} says to {}: Submit {operations}",
                            describe::nodes(to)
                        )
                    });
                    for node in to.iter() {
                        self.send(End::Client(client), End::Node(node), &bytes);
                    }
                }
                Act::Counted {
                    decree,
                    counter,
                    value,
                } => {
                    let id = self.clients[client].id();
                    self.history.told(id, decree, counter, value)?;
                }
                Act::Committed { decree, called } => {
                    self.committed += 1;
                    self.trace.line(self.now, || {
                        format!("c{client} knows that d{decree} did its call")
                    });
                    if self.keeps_observed {
                        let what = Sight::Committed {
                            client,
                            decree,
                            called,
                        };
                        self.observed.push(Observed { at: self.now, what });
                    }
                }
                Act::Nonsense { what } => {
                    return Err((Property::ExactlyOnce, format!("c{client}: {what}")));
                }
            }
        }
        self.acts = acts;
        if let Some(deadline) = self.clients[client].deadline(self.now) {
            self.schedule_turn(client, deadline.max(Time(self.now.0 + self.plan.turn_ns)));
        }
        Ok(())
    }

    /// Lets faults strike whose number of committed operations is reached.
    fn strike(&mut self) -> Result<(), Finding> {
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
                } => {
                    self.trace
                        .event(self.now, Kind::Fault, u64::from(node.0), b"crash");
                    self.trace
                        .line(self.now, || format!("n{} stops ({fate:?})", node.0));
                    self.crash(node, fate)?;
                    if let Some(after) = rejoin_after {
                        self.rejoining += 1;
                        self.push(self.now + after, Happening::Rejoin { node });
                    }
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
            }
        }
        Ok(())
    }

    fn crash(&mut self, node: NodeId, fate: Fate) -> Result<(), Finding> {
        let host = &mut self.hosts[usize::from(node.0)];
        let left = host.disk.crash(self.now, fate);
        host.machine = None;
        host.backlog.clear();
        host.tick_at = None;
        host.run += 1;
        host.faulty = true;
        self.said.crashed(node, left)
    }
}
