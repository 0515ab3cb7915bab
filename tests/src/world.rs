//! The world: virtual time, one queue of events, nodes, clients, links, disks, and the checkers that watch.
//!
//! ```text
//! queue ─► next event ─► machine or client core ─► wishes ─► links, disk, execution ─► queue
//!                                      └─► checkers (after every step)
//! ```
//!
//! One thread. Events of one moment happen in the order in which they were put into the queue, so a run is a
//! function of its plan and seed; [`World::trace_hash`] tells whether two runs were the same.

mod archive;
mod clients;
mod faults;
mod nodes;
mod queue;
mod snapshots;
mod watching;
mod work;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use twostep_engine::admission::ClientDirectory;
use twostep_engine::configuration::Configuration;
use twostep_engine::executor::Executor;
use twostep_engine::key_value::KeyValue;
use twostep_engine::machine::{Event, JournalState, Machine};
use twostep_engine::message::Checkpoint;
use twostep_engine::record::OwnedRecord;
use twostep_engine::replica::{Execute, Replica, RestoreError, Setup, Standing};
use twostep_engine::snapshot::Keeper;
use twostep_engine::types::{ClientId, Decree, Digest, NodeId, NodeSet, Regency, Time};
use twostep_engine::wire::Bounds;
use twostep_net::pool::{Body, Pool};

use self::queue::{Happening, Queue};
use self::work::Work;
use crate::actors::plot::Lies;
use crate::checkers::history::HistoryChecker;
use crate::checkers::order::OrderChecker;
use crate::checkers::said::SaidChecker;
use crate::checkers::{Finding, Property, Violation};
use crate::client::{Act, SimClient};
use crate::disk::Disk;
use crate::host::{Host, Wish};
use crate::network::{End, Network};
use crate::plan::{Fault, Plan};
use crate::random::Random;
use crate::shelf::Shelf;
use crate::topology::{Classes, client_identity, configuration, roles};
use crate::trace::Trace;

/// A machine that ends so many turns at one moment never rests.
const TICKS_AT_ONCE_MAX: u32 = 1000;

/// Who plays the nodes: real replicas, unless a test puts something else in their place.
pub trait Cast {
    /// The machine of a node.
    fn machine(&self, setup: Setup) -> Box<dyn Machine> {
        Box::new(Replica::new(setup).expect("the simulator's keys are sound"))
    }

    /// The machine of a node that starts again with what its disk kept.
    ///
    /// # Errors
    /// Why it does not start.
    fn restored(
        &self,
        setup: Setup,
        base: Option<&Checkpoint>,
        records: Vec<OwnedRecord>,
        execute: Execute<'_>,
    ) -> Result<Box<dyn Machine>, RestoreError> {
        Ok(Box::new(Replica::restore(setup, base, records, execute)?))
    }

    /// The executor of a node.
    fn executor(&self, configuration: &Configuration) -> Executor<KeyValue> {
        Executor::new(configuration, KeyValue::default())
    }

    /// The nodes that may say anything: the checkers do not hold them to their word.
    fn byzantine(&self) -> NodeSet {
        NodeSet::EMPTY
    }

    /// A correct party takes in what a Byzantine node said.
    fn arrived(&self, _from: NodeId, _bytes: &[u8]) {}

    /// How often which strategy lied.
    fn lies(&self) -> BTreeMap<&'static str, Lies> {
        BTreeMap::new()
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
    queue: Queue,
    hosts: Vec<Host>,
    clients: Vec<SimClient>,
    turns_at: Vec<Option<Time>>,
    client_places: BTreeMap<ClientId, usize>,
    network: Network,
    execution: Random,
    keeping: Random,
    faults: Vec<Fault>,
    intercepts: Vec<Intercept>,
    rejoining: usize,
    /// Journals that keep nothing now.
    stuck: usize,
    ticks_at_once: u32,
    trace: Trace,
    order: OrderChecker,
    said: SaidChecker,
    history: HistoryChecker,
    /// The digest of the state at multiples of S, by the first correct learner that executed so far.
    states: BTreeMap<Decree, Digest>,
    /// Nodes whose state was damaged at some time.
    damaged: NodeSet,
    /// How many snapshots were installed.
    installed: u64,
    /// How many questions journals answered.
    archived: u64,
    /// The newest certified snapshot that any node knows of.
    snapshot: Decree,
    byzantine: NodeSet,
    /// Regencies above 0 that some correct node entered.
    regencies: BTreeSet<Regency>,
    work: Work,
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
            .map(|place| {
                let strategy = plan.strategy_of(place);
                SimClient::new(&configuration, plan.clients, place, strategy, &pool, seed)
            })
            .collect();
        let mut history = HistoryChecker::default();
        for (operation, counter) in clients.iter().flat_map(SimClient::operations) {
            history.counts(&operation, counter);
        }
        let mut world = World {
            cast,
            bounds: Bounds::of(&configuration),
            now: Time(0),
            queue: Queue::default(),
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
            keeping: Random::fork(seed, "keeping"),
            faults: plan.faults.clone(),
            intercepts: Vec::new(),
            rejoining: 0,
            stuck: 0,
            ticks_at_once: 0,
            trace: Trace::new(transcript),
            order: OrderChecker::new(roles.len()),
            said: SaidChecker::new(&roles, classes, plan.limits.window, cast.byzantine()),
            history,
            states: BTreeMap::new(),
            damaged: NodeSet::EMPTY,
            installed: 0,
            archived: 0,
            snapshot: Decree::NONE,
            byzantine: cast.byzantine(),
            regencies: BTreeSet::new(),
            work: Work::default(),
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
            let shelf = Shelf::default();
            let host = Host {
                machine: Some(cast.machine(world.setup(node, Standing::Born))),
                executor: Some(cast.executor(&world.configuration)),
                keeper: Keeper::new(&world.configuration, Box::new(shelf.clone())),
                shelf,
                held: Vec::new(),
                corrupt: false,
                disk,
                backlog: VecDeque::new(),
                tick_at: None,
                run: 0,
                low: Decree::NONE,
                timeout: world.plan.tuning.t0,
                standing: Standing::Born,
                journal: JournalState::Ok,
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
        let Some(entry) = self.queue.pop() else {
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
        self.queue.next_at()
    }

    fn violation(&self, property: Property, what: String) -> Violation {
        Violation {
            property,
            at: self.now,
            what,
        }
    }

    fn happen(&mut self, what: Happening) -> Result<(), Finding> {
        match what {
            Happening::Arrive { from, to, runs, .. } if self.is_void(from, to, runs) => Ok(()),
            Happening::Arrive {
                from,
                to: End::Node(node),
                bytes,
                ..
            } => self.arrive_at_node(from, node, &bytes),
            Happening::Arrive {
                from,
                to: End::Client(client),
                bytes,
                ..
            } => self.arrive_at_client(from, client, &bytes),
            Happening::Stored { node, run, seq } => self.stored(node, run, seq),
            Happening::Execute { node, run } => self.execute(node, run),
            Happening::Asked {
                node,
                run,
                question,
            } => self.asked(node, run, question),
            Happening::Keep { node, run } => self.keep(node, run),
            Happening::Install { node, run, install } => self.install(node, run, install),
            Happening::Tick { node, run } => self.tick(node, run),
            Happening::Turn { client } => self.turn(client),
            Happening::Rejoin { node } => self.rejoin(node),
            Happening::Release { node, run } => self.release(node, run),
        }
    }

    fn run_of(&self, end: End) -> u32 {
        match end {
            End::Node(node) => self.hosts[usize::from(node.0)].run,
            End::Client(_) => 0,
        }
    }

    /// Whether the link that a message is on was made anew: its sender is up again, or its receiver.
    fn is_void(&self, from: End, to: End, runs: (u32, u32)) -> bool {
        let up = match from {
            End::Node(node) => self.hosts[usize::from(node.0)].machine.is_some(),
            End::Client(_) => true,
        };
        (up && self.run_of(from) != runs.0) || self.run_of(to) != runs.1
    }

    fn send(&mut self, from: End, to: End, bytes: &Body) {
        let runs = (self.run_of(from), self.run_of(to));
        let copies = self.intercept(from, to, bytes).unwrap_or(1);
        let mut lost = true;
        for _ in 0..copies {
            for at in self.network.arrivals(self.now, from, to) {
                lost = false;
                let bytes = bytes.clone();
                let what = Happening::Arrive {
                    from,
                    to,
                    runs,
                    bytes,
                };
                self.queue.push(at, what);
            }
        }
        if lost {
            self.trace.line(self.now, || format!("{from} → {to}: lost"));
        }
    }
}
