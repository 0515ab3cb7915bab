//! The steady state of whole nodes allocates nothing: six loops over loopback and a client's, with links, packets, driver, codec, replica and executor,
//! counted by the allocator of the process they share.
//!
//! Real threads are not always given the processor in time. A node that is behind makes its checkpoint late, and whoever sends to it keeps more than ever
//! before, which makes buffers grow. So not every time between two checkpoints passes without an allocation, but an allocation per operation, or per
//! thousand of them, would let none pass.

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the test hosts nodes on threads, chooses free ports and waits"
)]

#[expect(dead_code, reason = "this test needs one way to start nodes")]
mod cluster;
#[path = "../../net/tests/counting/mod.rs"]
mod counting;

use std::time::{Duration, Instant};

use cluster::Cluster;
use twostep_engine::client::host::{Application, ClientLoop, LoopTuning, Turn};
use twostep_engine::client::{CallOutcome, ClientCore, OpenError, SessionHandle};
use twostep_engine::configuration::Limits;
use twostep_engine::key_value::{KeyValue, Operation};
use twostep_engine::node::tunables::Durability;
use twostep_engine::node::{NodeOptions, control};
use twostep_engine::null::Null;
use twostep_engine::quorum::FaultModel;
use twostep_engine::state_machine::StateMachine;
use twostep_engine::types::{Decree, SessionId, Time};
use twostep_net::DriverChoice;

/// The most bytes of a body, and of a learner's log.
const BODY_BYTES_MAX: u32 = 64 << 10;
/// K: as many decrees pass between two checkpoints, which may allocate: they sign and collect.
const CHECKPOINT_EVERY: u64 = 256;
/// Calls per decree, all of one session.
const CALLS: u64 = 16;
/// Counting leaves out so many decrees around each checkpoint, whose messages may still be under way.
const MARGIN: u64 = 48;
/// Checkpoints until everything is warm: rings, tables, pools and send buffers have their sizes.
const WARM: u64 = 6;
/// Times between two checkpoints that must pass without an allocation.
const CLEAN: usize = 4;
/// Times that are counted at most.
const COUNTED_MAX: usize = 24;
/// Nothing was allocated for so long: everybody has done what there was to do.
const QUIET: Duration = Duration::from_millis(50);
/// Most allocations of all nodes together around one checkpoint.
const CHECKPOINT_ALLOCATIONS_MAX: u64 = 2000;
const PATIENCE: Duration = Duration::from_secs(120);

/// Makes rounds of calls, one decree each, and counts between checkpoints.
struct Caller {
    operation: Vec<u8>,
    session: Option<SessionHandle>,
    asked: bool,
    in_flight: u64,
    at: u64,
    began: Option<(u64, u64)>,
    /// Allocations and decrees of each time that was counted.
    counted: Vec<(u64, u64)>,
    /// The number of allocations at the end of the last of them.
    ended: Option<u64>,
    /// Allocations around each checkpoint in between.
    checkpoints: Vec<u64>,
    until: Instant,
}

impl Caller {
    fn clean(&self) -> usize {
        let clean = |&&(allocations, _): &&(u64, u64)| allocations == 0;
        self.counted.iter().filter(clean).count()
    }
}

impl Application for Caller {
    fn opened(
        &mut self,
        _now: Time,
        session: SessionHandle,
        _token: u64,
        result: Result<SessionId, OpenError>,
    ) {
        result.expect("nothing stands in the way of a session");
        self.session = Some(session);
    }

    fn done(&mut self, _: Time, _: SessionHandle, _: u64, outcome: CallOutcome<'_>) {
        let CallOutcome::Committed {
            decree: Decree(decree),
            ..
        } = outcome
        else {
            panic!("{outcome:?}");
        };
        self.in_flight -= 1;
        self.at = self.at.max(decree);
    }

    fn turn(&mut self, client: &mut Turn<'_>) {
        if !self.asked && client.reachable() {
            self.asked = true;
            client.core.open_session(0, client.now).unwrap();
        }
        let (Some(session), 0) = (self.session, self.in_flight) else {
            return;
        };
        let place = self.at % CHECKPOINT_EVERY;
        if place == MARGIN || place == CHECKPOINT_EVERY - MARGIN {
            wait_until_quiet();
        }
        let allocations = counting::allocations();
        if self.at > WARM * CHECKPOINT_EVERY && self.began.is_none() && place == MARGIN {
            self.began = Some((self.at, allocations));
            self.checkpoints
                .extend(self.ended.take().map(|before| allocations - before));
        }
        if place == CHECKPOINT_EVERY - MARGIN
            && let Some((at, before)) = self.began.take()
        {
            self.counted.push((allocations - before, self.at - at));
            self.ended = Some(allocations);
        }
        for call in 0..CALLS {
            client
                .core
                .call(session, &self.operation, call, client.now)
                .expect("there is room");
            self.in_flight += 1;
        }
    }

    fn deadline(&self, _: &ClientCore) -> Option<Time> {
        None
    }

    fn stopping(&self) -> bool {
        assert!(
            Instant::now() < self.until,
            "decree {} in time, counted {:?}",
            self.at,
            self.counted
        );
        self.counted.len() == COUNTED_MAX || self.clean() == CLEAN
    }
}

/// Waits until no node does anything any more, but not for ever.
fn wait_until_quiet() {
    let end = Instant::now() + PATIENCE;
    loop {
        let before = counting::allocations();
        std::thread::sleep(QUIET);
        if counting::allocations() == before || Instant::now() > end {
            return;
        }
    }
}

/// All nodes have links to all others: what is sent before is lost, and said again only after an hour.
fn wait_until_linked(cluster: &Cluster) {
    let end = Instant::now() + PATIENCE;
    let linked = |folder: &std::path::PathBuf| {
        let status = control::status(folder, false, PATIENCE).unwrap();
        status.peers.iter().all(|peer| peer.up)
    };
    while !cluster.node_folders().iter().all(linked) {
        assert!(Instant::now() < end, "the nodes find each other");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn steady_state<S: StateMachine + 'static>(
    mode: FaultModel,
    driver: DriverChoice,
    durability: Durability,
    state_machine: fn() -> S,
) {
    let options = NodeOptions {
        // Time-outs of an hour: nothing is said again, and nobody is asked how it is.
        t0_ms: 3_600_000,
        // A short log, so that it is full soon.
        log_bytes: BODY_BYTES_MAX as usize,
        driver,
        durability,
        ..NodeOptions::default()
    };
    let limits = Limits {
        window: 2 * CHECKPOINT_EVERY,
        checkpoint_every: CHECKPOINT_EVERY,
        // Snapshots have a cost of their own, which is not the subject here.
        snapshot_every: 1024 * CHECKPOINT_EVERY,
        body_bytes_max: BODY_BYTES_MAX,
        request_bytes_max: 4 << 10,
        ..Limits::default()
    };
    let cluster = Cluster::start_as(mode, options, limits, state_machine);
    wait_until_linked(&cluster);
    let client = cluster.client().options().unwrap();
    let tuning = LoopTuning {
        driver,
        ..client.tuning
    };
    let mut running = ClientLoop::new(client.setup, &client.nodes, tuning).unwrap();
    let mut operation = Vec::new();
    Operation::Increment {
        key: b"a key",
        by: 1,
        padding: &[7; 40],
    }
    .encode(&mut operation);
    let mut caller = Caller {
        operation,
        session: None,
        asked: false,
        in_flight: 0,
        at: 0,
        began: None,
        counted: Vec::with_capacity(COUNTED_MAX),
        ended: None,
        checkpoints: Vec::with_capacity(COUNTED_MAX),
        until: Instant::now() + PATIENCE,
    };
    running.run(&mut caller).unwrap();
    let decrees = CHECKPOINT_EVERY - 2 * MARGIN;
    assert!(
        caller
            .counted
            .iter()
            .all(|&(_, counted)| counted == decrees),
        "{:?}",
        caller.counted
    );
    assert_eq!(
        caller.clean(),
        CLEAN,
        "{mode}, {driver}: allocations in {} operations: {:?}",
        decrees * CALLS,
        caller.counted
    );
    // Checkpoints are signed, sent and collected: a bounded amount of work every K decrees, by all nodes together.
    println!(
        "{mode}, {driver}: {:?} allocations around checkpoints",
        caller.checkpoints
    );
    for &allocations in &caller.checkpoints {
        assert!(allocations > 0, "{mode}, {driver}: the allocator counts");
        assert!(
            allocations < CHECKPOINT_ALLOCATIONS_MAX,
            "{mode}, {driver}: {allocations} allocations around a checkpoint"
        );
    }
}

/// One test for all: the counter is one for the whole process.
#[test]
fn the_steady_state_of_whole_nodes_allocates_nothing() {
    use DriverChoice::{Mio, Uring};
    use Durability::{Memory, Sync};
    steady_state(FaultModel::Fab, Mio, Memory, KeyValue::new);
    steady_state(FaultModel::Fab, Mio, Memory, || Null);
    steady_state(FaultModel::Fab, Uring, Memory, KeyValue::new);
    steady_state(FaultModel::Crash, Mio, Memory, KeyValue::new);
    steady_state(FaultModel::Fab, Mio, Sync, KeyValue::new);
}
