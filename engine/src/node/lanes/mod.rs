//! A node with several lanes: `--lanes N`.
//!
//! ```text
//!            lane 0 … N−1: links of their own                order loop                       execution loop
//!  ┌──────────────────────────────────────────┐    ┌───────────────────────────┐    ┌──────────────────────────┐
//!  │ read ─ open (MAC) ─ parse, hash, tags ───┼──► │ replica: step per message │ ─► │ state machine, sessions  │
//!  │        a chunk per turn        bounded queue  │ tick at the end of a turn │ ◄─ │ replies, digests         │
//!  │ seal (MAC) ─ write ◄─────────────────────┼─── │ messages, encoded once    │    │ bounded queues           │
//!  └──────────────────────────────────────────┘    └───────────────────────────┘    └──────────────────────────┘
//! ```
//!
//! | what | where | why there |
//! |---|---|---|
//! | receive, packet MACs, decode, body and bundle digests, tags and signatures of clients | lane | grows with traffic, needs no state |
//! | every rule of the protocol | order loop | one order of inputs decides; see [`order`] |
//! | state machine, session table, reply bytes | execution loop | in decree order, and nobody waits for it |
//! | encode | order loop, once per message | its outputs are shared by the lanes |
//! | seal, write | lane | one MAC and one write per link and turn |
//!
//! *Links.* All lanes listen at the node's address with `SO_REUSEPORT`, so the operating system gives each connection to one of them; a node that is
//! dialled is dialled by the lane of its number modulo N. When a node comes up at a second lane, its older link is closed. The bounds of
//! [`twostep_net::Limits`] hold for each lane.
//!
//! *Queues* are bounded. A lane whose chunk finds no room reads nothing more, so that the other sides slow down; a lane that does not take the
//! messages it is to send loses them, as a slow link does, and the protocol says them again; what nobody says again is kept for it ([`teller`]);
//! the execution loop has room for all that may be open.
//! A loop rings another one only if that one sleeps ([`twostep_net::queue`]).
//!
//! *Results do not depend on N.* A lane adds nothing to a message but the outcome of checks that are functions of the message ([`crate::prechecked`]).
//! So the order loop is a function of its arrival log: of what it takes, in the order in which it takes it. The test of this module replays one log
//! through one, two and four lanes and through the host without lanes.
//!
//! *Cost.* A message crosses two queues instead of none, an operation's reply three more; each crossing costs a wake-up (6 µs between cores, 1.3 µs on
//! one) when the other side sleeps, and next to nothing when it is busy. So a lone operation is slower than with one lane, and a loaded node is faster
//! if it has cores: N + 2 threads that work at the same time. Where nodes have less than three cores each, one lane is the right number.

mod chunk;
mod execution;
mod gathering;
mod lane;
mod order;
mod output;
mod teller;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use twostep_net::{ClockOffset, Idle, Reactor, Sleeper, WakeUp, pin, queue};

use self::execution::{ExecutionLoop, execution};
use self::gathering::Gathering;
use self::lane::{Lane, LaneState, SharedHorizon};
use self::order::{LaneEnd, OrderLoop};
use self::output::{LinkTable, Outputs};
use self::teller::Teller;
use crate::executor::Executor;
use crate::journal::faults::DiskFaultHandle;
use crate::node::NodeError;
use crate::node::control::Asked;
use crate::node::core::{Core, LineLimit};
use crate::node::snapshots::Snapshots;
use crate::node::tunables::Cores;
use crate::prechecked::Precheck;
use crate::state_machine::StateMachine;

/// Most lanes of a node.
pub(super) const LANES_MAX: usize = 64;
/// Chunks of a lane that may wait for the order loop.
const CHUNKS_MAX: usize = 16;
/// What may wait for a lane: outputs of so many turns of the order loop.
const TOLD_MAX: usize = 256;

/// What the loops of a node are made of.
pub(super) struct Plan<S: StateMachine> {
    pub core: Core,
    pub executor: Executor<S>,
    /// The thread that keeps snapshots; none in tests that make none.
    pub snapshots: Option<Snapshots>,
    pub precheck: Precheck,
    pub requests: queue::Receiver<Asked>,
    pub stopping: Arc<AtomicBool>,
    pub faults_allowed: bool,
    pub disk_faults: Option<DiskFaultHandle>,
    pub clock: ClockOffset,
    pub idle: Idle,
    /// What wakes each lane.
    pub lanes: Vec<WakeUp>,
    /// The order loop's wait.
    pub sleeper: Sleeper,
}

/// The loops of a node with lanes, not yet running.
pub(super) struct Loops<S: StateMachine> {
    lanes: Vec<Lane>,
    order: OrderLoop,
    execution: ExecutionLoop<S>,
    wakers: Vec<WakeUp>,
}

impl<S: StateMachine + 'static> Loops<S> {
    /// Puts the loops together.
    pub fn new(plan: Plan<S>) -> Loops<S> {
        let Plan {
            core,
            executor,
            snapshots,
            precheck,
            requests,
            stopping,
            faults_allowed,
            disk_faults,
            clock,
            idle,
            lanes: lane_wakers,
            sleeper,
        } = plan;
        let (order_waker, horizon) = (sleeper.waker(), Arc::new(SharedHorizon::default()));
        let mut wakers = lane_wakers.clone();
        let (mut lanes, mut ends) = (Vec::new(), Vec::new());
        for (index, waker) in lane_wakers.into_iter().enumerate() {
            let room = waker.clone();
            let (to_order, chunks) = queue::bounded_both(CHUNKS_MAX, order_waker.clone(), room);
            // What found no room is told as soon as there is some.
            let (told, from_order) = queue::bounded_both(TOLD_MAX, waker, order_waker.clone());
            // Nobody waits for empty chunks.
            let (back, spent) = queue::bounded(CHUNKS_MAX, WakeUp::new(|| {}));
            lanes.push(Lane {
                index,
                precheck: precheck.clone(),
                bounds: core.bounds,
                pool: core.pool.clone(),
                horizon: Arc::clone(&horizon),
                to_order,
                spent,
                from_order,
                stopping: Arc::clone(&stopping),
                refusal_lines: LineLimit::new(core.started),
                state: LaneState::default(),
            });
            ends.push(LaneEnd {
                chunks,
                spent: back,
                teller: Teller::new(told),
            });
        }
        let window = core.identification.cluster.configuration.limits().window;
        let execution_sleeper = Sleeper::new(idle);
        wakers.extend([order_waker.clone(), execution_sleeper.waker()]);
        let ending = Arc::clone(&stopping);
        let (execution, remote) = execution(
            executor,
            snapshots,
            window,
            execution_sleeper,
            order_waker,
            ending,
        );
        let order = OrderLoop {
            core,
            remote,
            table: LinkTable::new(ends.len()),
            lanes: ends,
            outputs: Outputs::default(),
            horizon,
            requests,
            stopping,
            faults_allowed,
            disk_faults,
            clock,
            sleeper,
            gathering: Gathering::default(),
            turns: 0,
            dropped: 0,
        };
        Loops {
            lanes,
            order,
            execution,
            wakers,
        }
    }

    /// Runs until the node is stopped or one of its loops fails. The order loop runs on the calling thread.
    ///
    /// # Errors
    /// What a lane's loop or its pinning fails with, [`NodeError::State`], or [`NodeError::Thread`].
    ///
    /// # Panics
    /// If a loop panicked, in the same way.
    pub fn run(self, reactors: Vec<Reactor>, cores: &Cores) -> Result<(), NodeError> {
        let Loops {
            lanes,
            order,
            execution,
            wakers,
        } = self;
        let end = Ending {
            stopping: Arc::clone(&order.stopping),
            wakers,
        };
        let mut running = Vec::new();
        // Lanes are pinned by their reactors.
        let (order_core, execution_core) = (cores.of(lanes.len()), cores.of(lanes.len() + 1));
        let started = (|| {
            for (mut lane, mut reactor) in lanes.into_iter().zip(reactors) {
                let name = format!("lane {}", lane.index);
                running.push(end.spawn(name, move || Ok(reactor.run(&mut lane)?))?);
            }
            running.push(end.spawn("execution".to_owned(), move || {
                execution_core.map_or(Ok(()), pin)?;
                execution.run()
            })?);
            order_core.map_or(Ok(()), pin)?;
            Ok(())
        })();
        if started.is_ok() {
            order.run();
        }
        drop(end);
        let ended = running.into_iter().map(|thread| match thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        let ended: Result<(), NodeError> = ended.collect::<Vec<_>>().into_iter().collect();
        started.and(ended)
    }
}

/// Ends all loops of the node when it is dropped: whichever loop ends, for whatever reason, ends the others.
#[derive(Clone)]
struct Ending {
    stopping: Arc<AtomicBool>,
    wakers: Vec<WakeUp>,
}

impl Ending {
    fn spawn(
        &self,
        name: String,
        work: impl FnOnce() -> Result<(), NodeError> + Send + 'static,
    ) -> Result<JoinHandle<Result<(), NodeError>>, NodeError> {
        let end = self.clone();
        let thread = thread::Builder::new().name(name).spawn(move || {
            let _end = end;
            work()
        });
        thread.map_err(NodeError::Thread)
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.wakers.iter().for_each(WakeUp::wake);
    }
}
