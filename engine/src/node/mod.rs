//! The node: a replica with its execution over real links, in one loop on one thread, or in several with `lanes`.
//!
//! ```text
//!  config.toml, TWOSTEP_*, flags ──► NodeConfig ──► Node::builder(config).build(state machine) ──► run()
//!                                                      │
//!       links ◄──► reactor ◄──► host { replica (or a strategy around it), executor, session table, state machine }
//!                                  ▲
//!       control.sock ◄─ thread ─► queue                 status, faults
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`cluster`] | the cluster file: what all nodes and clients share |
//! | [`tunables`] | what a node may choose for itself: key, variable and flag from one table |
//! | [`config`] | a node's file, then variables, then flags |
//! | [`testnet`] | the folders of a new cluster |
//! | [`birth`] | without a journal: first start or lost disk; one process per folder |
//! | [`durable`] | with one: what it says of the node; where a state on disk lies |
//! | [`control`] | the control socket, and how to ask it |
//! | [`status`] | what it answers |
//! | [`mod@file`] | reading TOML with errors that say where and what was meant |
//!
//! ```no_run
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use twostep_engine::key_value::KeyValue;
//! use twostep_engine::node::{Node, NodeConfig};
//!
//! let config = NodeConfig::load("net/node-0/config.toml".as_ref(), &[])?;
//! let node = Node::builder(config).first_start(true).build(KeyValue::new())?;
//! let stopper = node.stopper(); // ends it from any thread
//! node.run()?;
//! # Ok(())
//! # }
//! ```
//!
//! With `durability = "sync"`, the default, nothing is said before what it rests on is durable in the node's [journal](crate::journal), so a
//! node may end at any instruction, and all of them at once; it comes back by itself. With `memory` records count as
//! stored at once, a node that starts again has lost its disk, and a power cut of more than f nodes loses the order.

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the node is a host: clocks, threads and sockets are its business"
)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;
use tracing::{info, warn};
use twostep_crypto::{PublicIdentity, WeakKey};
use twostep_net::pool::Pool;
use twostep_net::{
    Carrier, ClockOffset, Idle, Limits, NetError, Reactor, ReactorConfig, Sleeper, WakeUp, dials,
    free_address, queue,
};

use crate::admission::ClientDirectory;
use crate::executor::Executor;
use crate::journal::{JournalError, Recorder};
use crate::letter::Letter;
use crate::node::core::Core;
use crate::node::durable::Durable;
use crate::node::lanes::{Loops, Plan};
use crate::node::snapshots::{Snapshots, SnapshotsThread};
use crate::node::tunables::{Durability, StateForm};
use crate::replica::{Replica, RestoreError, Setup, Standing};
use crate::snapshot::{Keeper, MemoryStore};
use crate::state_machine::{StateMachine, StateTrouble};
use crate::types::{NodeId, Party};
use crate::wire::Bounds;

pub mod birth;
pub mod cluster;
pub mod config;
pub mod control;
mod core;
pub mod durable;
mod effects;
mod faults;
pub mod file;
mod host;
mod lanes;
mod refused_time;
mod report;
mod snapshots;
mod stages;
pub mod status;
pub mod testnet;
pub mod tunables;

pub use self::core::Hosted;
pub use cluster::{ClientFolder, ClusterFile, roles_in_words};
pub use config::NodeConfig;
pub use durable::StatePlace;
pub use report::cpu_seconds;
pub use status::NodeStatus;
pub use tunables::NodeOptions;

/// Who a running node is.
#[derive(Clone, Debug)]
pub(crate) struct Identification {
    pub node: NodeId,
    pub cluster: ClusterFile,
    pub listen: SocketAddr,
    pub state: StateForm,
}

/// Why a node cannot start or go on.
#[derive(Debug, Error)]
pub enum NodeError {
    /// Its folder.
    #[error(transparent)]
    Birth(#[from] birth::BirthError),
    /// Its control socket.
    #[error(transparent)]
    Control(#[from] control::ControlError),
    /// Its journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// What its journal says.
    #[error("{journal}: {why}; the node must not start from it. Put back an undamaged copy, or remove the folder: the node then \
             counts as one that has lost its disk", journal = journal.display())]
    Restore {
        /// The folder of the journal.
        journal: PathBuf,
        /// Why not.
        why: RestoreError,
    },
    /// Its addresses.
    #[error(transparent)]
    Address(#[from] file::FileError),
    /// Its port or loop.
    #[error(transparent)]
    Net(#[from] NetError),
    /// Its state machine cannot go on.
    #[error(transparent)]
    State(#[from] StateTrouble),
    /// One of its threads.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// A client's key.
    #[error("{cluster}: a client's public key cannot be used: {source}", cluster = cluster.display())]
    Client {
        /// The cluster file that lists it.
        cluster: PathBuf,
        /// Why.
        source: WeakKey,
    },
}

impl NodeError {
    /// Whether another process has the node's address: a launcher that chose it may choose another one.
    #[must_use]
    pub fn is_address_in_use(&self) -> bool {
        matches!(self, NodeError::Net(NetError::AddressInUse(_)))
    }
}

/// Builds a [`Node`].
pub struct NodeBuilder {
    config: NodeConfig,
    first_start: bool,
    hook: Box<dyn FnOnce(Replica) -> Box<dyn Hosted>>,
}

impl NodeBuilder {
    /// Says that this node has never run: without it a node without a journal takes its disk for lost and only learns. A journal says it
    /// by itself.
    #[must_use]
    pub fn first_start(mut self, first_start: bool) -> NodeBuilder {
        self.first_start = first_start;
        self
    }

    /// Wraps the replica: the one hook by which a strategy takes its place.
    #[must_use]
    pub fn machine(
        mut self,
        hook: impl FnOnce(Replica) -> Box<dyn Hosted> + 'static,
    ) -> NodeBuilder {
        self.hook = Box::new(hook);
        self
    }

    /// Locks the folder, listens, and serves the control socket. The node takes part once it runs.
    ///
    /// # Errors
    /// [`NodeError`].
    pub fn build(self, state_machine: impl StateMachine + 'static) -> Result<Node, NodeError> {
        self.build_with(|_| Ok(state_machine))
    }

    /// The same with a state machine that is made once the folder is locked: one that keeps its state there.
    ///
    /// # Errors
    /// [`NodeError`]; [`NodeError::State`] if `make` fails.
    pub fn build_with<S: StateMachine + 'static>(
        self,
        make: impl FnOnce(&StatePlace) -> Result<S, StateTrouble>,
    ) -> Result<Node, NodeError> {
        let NodeConfig {
            folder,
            node,
            cluster,
            identity,
            options,
        } = self.config;
        let lock = birth::lock(&folder)?;
        let configuration = Arc::clone(&cluster.configuration);
        let bounds = Bounds::of(&configuration);
        let wanted = match options.listen {
            Some(listen) => listen,
            None => cluster.resolve_one(node)?,
        };
        let mut reactors = Vec::new();
        for lane in 0..options.lanes {
            reactors.push(Reactor::new(
                reactor_config(&options, &bounds, cluster.carrier, lane),
                configuration.scope(),
                Arc::clone(&identity),
                Party::Node(node),
                Parties::of(&cluster),
            )?);
        }
        let clock = ClockOffset::default();
        for reactor in &mut reactors {
            reactor.move_clock(clock.clone());
        }
        let listen = listen_patiently(&mut reactors, wanted)?;
        for (peer, address) in cluster.resolve()? {
            if peer != node && dials(Party::Node(node), Party::Node(peer)) {
                let lane = usize::from(peer.0) % reactors.len();
                reactors[lane].net().dial(Party::Node(peer), address);
            }
        }
        let idle = idle(&options);
        let sleeper = Sleeper::new(idle);
        let waker = if options.lanes == 1 {
            reactors[0].waker()
        } else {
            sleeper.waker()
        };
        let (sender, requests) = queue::bounded(control::REQUESTS_MAX, waker.clone());
        let control = control::Server::start(&folder, sender)?;
        let durable = match options.durability {
            Durability::Sync => Some(Durable::open(&folder, &configuration, node, &options)?),
            Durability::Memory => None,
        };
        let disk_faults = durable.as_ref().and_then(|durable| durable.faults.clone());
        let place = StatePlace::new(&folder, disk_faults.as_ref(), &options);
        let state_machine = make(&place)?;
        let mut executor = if options.session_table {
            Executor::new(&configuration, state_machine)
        } else {
            warn!("session_table = false: a request that is ordered twice is executed twice");
            Executor::without_sessions(&configuration, state_machine)
        };
        let standing = match &durable {
            Some(durable) => durable.standing,
            None => {
                // Only what cannot fail any more comes after the start is on record.
                let words = format!("node {node} of cluster {} has run", configuration.cluster());
                let first =
                    self.first_start && !durable::has_run(&folder, &configuration, node, &options)?;
                birth::standing(&folder, first, &words)?
            }
        };
        let pool = Pool::new(options.pool_bytes);
        let setup = Setup {
            configuration: Arc::clone(&configuration),
            me: node,
            identity,
            clients: Arc::new(ClientDirectory::new(cluster.clients.iter().copied())),
            tuning: options.tuning(),
            pool: pool.clone(),
            standing,
        };
        let mut keeper = match &durable {
            Some(durable) => durable.keeper(&configuration),
            None => {
                let store = MemoryStore::new(options.snapshot_bytes);
                Keeper::new(&configuration, Box::new(store))
            }
        };
        let replica = match &durable {
            Some(durable) => durable.restore(setup, &mut executor, &mut keeper, &cluster.path)?,
            None => Replica::new(setup).map_err(|source| NodeError::Client {
                cluster: cluster.path.clone(),
                source,
            })?,
        };
        let archive = durable.as_ref();
        let archive = archive.map(|durable| durable.journal.archive(pool.clone()));
        let (snapshots, snapshots_thread) = Snapshots::start(keeper, archive, waker.clone())?;
        let now = Instant::now();
        let identification = Identification {
            node,
            cluster,
            listen,
            state: options.state,
        };
        let net = reactors[0].net();
        let driver = format!("{} ({})", net.driver_name(), net.driver_why());
        identification.log(standing, self.first_start, &driver, &options);
        let stopping = Arc::new(AtomicBool::new(false));
        let stopper = Stopper {
            stopping: Arc::clone(&stopping),
            waker: waker.clone(),
        };
        let precheck = replica.precheck();
        let mut core = Core::new(identification.clone(), (self.hook)(replica), pool, now);
        if let Some(Durable { journal, .. }) = durable {
            let recorder = Recorder::start(journal, waker, options.journal_quota_bytes)?;
            core.outbox.recorder = Some(recorder.with_faults(disk_faults.clone()));
        }
        let faults_allowed = options.faults;
        let work: Box<dyn FnOnce() -> Result<(), NodeError>> = if options.lanes == 1 {
            let mut reactor = reactors.remove(0);
            let mut host = host::Host {
                core,
                local: host::Local {
                    executor,
                    snapshots: Some(snapshots),
                },
                clients: effects::ClientLinks::default(),
                letter: Letter::default(),
                requests,
                stopping,
                faults_allowed,
                disk_faults,
                clock: clock.clone(),
                refusal_lines: core::LineLimit::new(now),
            };
            Box::new(move || {
                reactor.run(&mut host)?;
                host.local
                    .executor
                    .trouble()
                    .map_or(Ok(()), |why| Err(why.into()))
            })
        } else {
            let loops = Loops::new(Plan {
                core,
                executor,
                snapshots: Some(snapshots),
                precheck,
                requests,
                stopping,
                faults_allowed,
                disk_faults,
                clock: clock.clone(),
                idle,
                lanes: reactors.iter().map(Reactor::waker).collect(),
                sleeper,
            });
            Box::new(move || loops.run(reactors, &options.pin))
        };
        Ok(Node {
            work,
            identification,
            stopper,
            _snapshots: snapshots_thread,
            _control: control,
            _lock: lock,
        })
    }
}

/// How long a node waits for the address of the process before it: the kernel lets go of a killed one's sockets a moment after
/// its end, when it had handed work over to the kernel.
const ADDRESS_FREE_WITHIN: Duration = Duration::from_secs(1);

/// Listens, a little later if the address is still in use.
fn listen_patiently(reactors: &mut [Reactor], wanted: SocketAddr) -> Result<SocketAddr, NetError> {
    let until = Instant::now() + ADDRESS_FREE_WITHIN;
    loop {
        match listen(reactors, wanted) {
            Err(NetError::AddressInUse(_)) if Instant::now() < until => {
                thread::sleep(Duration::from_millis(20));
            }
            done => return done,
        }
    }
}

/// Listens at one address with every loop: alone, or shared among them.
fn listen(reactors: &mut [Reactor], wanted: SocketAddr) -> Result<SocketAddr, NetError> {
    if let [reactor] = reactors {
        return reactor.listen(wanted);
    }
    let address = free_address(wanted)?;
    for reactor in reactors {
        reactor.listen_shared(address)?;
    }
    Ok(address)
}

/// A node that listens, and takes part once it [runs](Node::run).
pub struct Node {
    work: Box<dyn FnOnce() -> Result<(), NodeError>>,
    identification: Identification,
    stopper: Stopper,
    _snapshots: SnapshotsThread,
    _control: control::Server,
    _lock: birth::FolderLock,
}

impl Node {
    /// Begins with a configuration.
    #[must_use]
    pub fn builder(config: NodeConfig) -> NodeBuilder {
        NodeBuilder {
            config,
            first_start: false,
            hook: Box::new(|replica| Box::new(replica)),
        }
    }

    /// The address that it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.identification.listen
    }

    /// What ends it, from any thread.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Takes part until it is stopped.
    ///
    /// # Errors
    /// [`NodeError::Net`] when a loop cannot start or fails, [`NodeError::Thread`] when it gets no thread, and
    /// [`NodeError::State`] when the state machine cannot go on.
    pub fn run(self) -> Result<(), NodeError> {
        (self.work)()?;
        info!("node {} ends", self.identification.node);
        Ok(())
    }
}

/// Ends a node, from any thread.
#[derive(Clone, Debug)]
pub struct Stopper {
    stopping: Arc<AtomicBool>,
    waker: WakeUp,
}

impl Stopper {
    /// Makes [`Node::run`] return after its turn.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.waker.wake();
    }
}

impl Identification {
    fn log(&self, standing: Standing, first_start: bool, driver: &str, options: &NodeOptions) {
        let (lanes, durability, state) = (options.lanes, options.durability, options.state);
        let configuration = &self.cluster.configuration;
        let roles = configuration
            .member(self.node)
            .map(|member| member.roles)
            .unwrap_or_default();
        info!(
            "node {} ({}) of cluster {}: mode {}, f = {}, listens on {}; driver {driver}; lanes {lanes}; durability {durability}; state {state}",
            self.node,
            roles_in_words(roles),
            configuration.cluster(),
            configuration.model(),
            configuration.f(),
            self.listen,
        );
        if standing == Standing::LostDisk {
            let hint = match durability {
                Durability::Memory if !first_start => {
                    "; a node that has never run is started with --first-start"
                }
                _ => "",
            };
            warn!(
                "abstaining: lost disk. It does not know what it promised, so it only learns, and counts among f{hint}"
            );
        }
    }
}

fn idle(options: &NodeOptions) -> Idle {
    Idle {
        spin_us: u32::try_from(options.spin_us).unwrap_or(u32::MAX),
        busy_poll: options.busy_poll,
    }
}

fn reactor_config(
    options: &NodeOptions,
    bounds: &Bounds,
    carrier: Carrier,
    lane: usize,
) -> ReactorConfig {
    let mut limits = Limits::default();
    limits.packet.message_bytes_max = limits
        .packet
        .message_bytes_max
        .max(bounds.message_bytes_max());
    // Several of the largest messages fit, so that one of them does not starve votes and acknowledgements.
    limits.send_bytes_max = limits
        .send_bytes_max
        .max(4 * limits.packet.message_bytes_max);
    let mut config = ReactorConfig {
        limits,
        driver: options.driver,
        idle: idle(options),
        pin_core: options.pin.of(lane),
        ..ReactorConfig::default()
    };
    carrier.apply(&mut config);
    config
}

/// Who may be at the other end of a link: the members and the listed clients.
struct Parties {
    cluster: ClusterFile,
    clients: ClientDirectory,
}

impl Parties {
    fn of(cluster: &ClusterFile) -> Parties {
        Parties {
            cluster: cluster.clone(),
            clients: ClientDirectory::new(cluster.clients.iter().copied()),
        }
    }
}

impl twostep_net::Directory for Parties {
    fn public(&self, party: Party) -> Option<PublicIdentity> {
        match party {
            Party::Node(node) => Some(self.cluster.configuration.member(node)?.public),
            Party::Client(client) => self.clients.get(client).copied(),
        }
    }
}
