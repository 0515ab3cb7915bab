//! The common path allocates nothing once it is warm: a whole cluster in one thread, from the client's call to its
//! f+1 equal replies, through the codec, counted by the allocator itself.

#[path = "../../net/tests/counting/mod.rs"]
mod counting;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use twostep_engine::admission::ClientDirectory;
use twostep_engine::batch::Batch;
use twostep_engine::client::{
    CallOutcome, ClientCore, ClientEffects, ClientSetup, OpenError, SessionHandle,
};
use twostep_engine::configuration::{Configuration, Limits, Tuning};
use twostep_engine::executor::Executor;
use twostep_engine::key_value::KeyValue;
use twostep_engine::machine::{Effects, Event, Input, Machine, Question, Record, To};
use twostep_engine::message::Message;
use twostep_engine::quorum::FaultModel;
use twostep_engine::replica::{Replica, Setup, Standing};
use twostep_engine::types::{Decree, NodeId, NodeSet, Party, RecordSeq, SessionId, Time};
use twostep_engine::wire::{self, Bounds};
use twostep_net::pool::{Body, Pool};
use twostep_tests::topology::{Topology, client_identity, configuration, node_identity};
use twostep_tests::workload;

/// K: as many decrees pass between two checkpoints, which may allocate: they sign and collect.
const CHECKPOINT_EVERY: u64 = 64;
/// Calls per decree, all of one session.
const CALLS: u64 = 16;

/// What is on its way, in the order of sending.
type Links = VecDeque<(Party, Party, Body)>;

/// A node's effects, with memory that is used again and again.
struct Node {
    id: NodeId,
    machine: Replica,
    executor: Executor<KeyValue>,
    delivered: VecDeque<(Decree, Batch)>,
    stored: Option<RecordSeq>,
}

struct Outlet<'a> {
    id: NodeId,
    pool: &'a Pool,
    scratch: &'a mut Vec<u8>,
    links: &'a mut Links,
    delivered: &'a mut VecDeque<(Decree, Batch)>,
    stored: &'a mut Option<RecordSeq>,
}

impl Effects for Outlet<'_> {
    fn send(&mut self, to: To, message: &Message<'_>) {
        self.scratch.clear();
        wire::encode(message, self.scratch);
        let body = self.pool.copy(self.scratch);
        let from = Party::Node(self.id);
        match to {
            To::Nodes(nodes) => {
                for node in nodes.iter() {
                    self.links
                        .push_back((from, Party::Node(node), body.clone()));
                }
            }
            To::Client(client) => self.links.push_back((from, Party::Client(client), body)),
        }
    }

    fn store(&mut self, seq: RecordSeq, _record: &Record<'_>) {
        *self.stored = Some(seq);
    }

    fn deliver(&mut self, decree: Decree, batch: &Batch) {
        self.delivered.push_back((decree, batch.clone()));
    }

    fn ask(&mut self, _question: Question) {
        panic!("nobody retries");
    }

    fn observe(&mut self, event: Event) {
        assert!(
            !matches!(event, Event::Refused { .. } | Event::SentAgain(_)),
            "{event:?}"
        );
    }
}

impl Node {
    /// Gives the machine one input, then everything that is stored and executed at once because of it.
    fn take(&mut self, input: Input<'_>, pool: &Pool, scratch: &mut Vec<u8>, links: &mut Links) {
        let Node {
            id,
            machine,
            executor,
            delivered,
            stored,
        } = self;
        let now = Time(1);
        let mut outlet = Outlet {
            id: *id,
            pool,
            scratch,
            links,
            delivered,
            stored,
        };
        machine.step(now, input, &mut outlet);
        loop {
            if let Some(seq) = outlet.stored.take() {
                machine.step(now, Input::Stored(seq), &mut outlet);
            } else if let Some((decree, batch)) = outlet.delivered.pop_front() {
                let executed = executor.execute(decree, &batch);
                let input = Input::Executed {
                    decree,
                    replies: executed.replies,
                    results: executed.results,
                };
                machine.step(now, input, &mut outlet);
            } else {
                return;
            }
        }
    }
}

#[derive(Default)]
struct Caller {
    opened: Option<SessionHandle>,
    committed: u64,
}

struct ClientOutlet<'a> {
    party: Party,
    pool: &'a Pool,
    scratch: &'a mut Vec<u8>,
    links: &'a mut Links,
    caller: &'a mut Caller,
}

impl ClientEffects for ClientOutlet<'_> {
    fn send(&mut self, to: NodeSet, message: &Message<'_>) {
        self.scratch.clear();
        wire::encode(message, self.scratch);
        let body = self.pool.copy(self.scratch);
        for node in to.iter() {
            self.links
                .push_back((self.party, Party::Node(node), body.clone()));
        }
    }

    fn opened(
        &mut self,
        session: SessionHandle,
        _token: u64,
        result: Result<SessionId, OpenError>,
    ) {
        result.expect("nothing stands in the way of a session");
        self.caller.opened = Some(session);
    }

    fn done(&mut self, _session: SessionHandle, _token: u64, outcome: CallOutcome<'_>) {
        assert!(
            matches!(outcome, CallOutcome::Committed { .. }),
            "{outcome:?}"
        );
        self.caller.committed += 1;
    }
}

struct Cluster {
    nodes: Vec<Node>,
    client: ClientCore,
    caller: Caller,
    bounds: Bounds,
    pool: Pool,
    links: Links,
    scratch: Vec<u8>,
    operation: Vec<u8>,
}

impl Cluster {
    fn new(model: FaultModel) -> Cluster {
        let limits = Limits {
            window: CHECKPOINT_EVERY * 2,
            checkpoint_every: CHECKPOINT_EVERY,
            // Snapshots have a cost of their own, which is not the subject here.
            snapshot_every: 1024 * CHECKPOINT_EVERY,
            ..Limits::default()
        };
        let configuration =
            Arc::new(configuration(model, 1, Topology::Shared, limits).expect("sound limits"));
        let identity = client_identity(0);
        let clients = Arc::new(ClientDirectory::new([identity.public()]));
        let pool = Pool::default();
        let nodes = configuration
            .nodes()
            .iter()
            .map(|id| node(&configuration, &clients, &pool, id))
            .collect();
        let setup = ClientSetup::new(Arc::clone(&configuration), identity, 1).expect("sound keys");
        let mut client = ClientCore::new(setup);
        for node in configuration.nodes().iter() {
            client.link_up(node);
        }
        Cluster {
            nodes,
            client,
            caller: Caller::default(),
            bounds: Bounds::of(&configuration),
            pool,
            links: VecDeque::with_capacity(1024),
            scratch: Vec::with_capacity(1 << 16),
            operation: workload::increment(1),
        }
    }

    /// Lets the client say what it has to say, and everybody else everything that follows from it.
    fn settle(&mut self) {
        let Cluster {
            nodes,
            client,
            caller,
            bounds,
            pool,
            links,
            scratch,
            ..
        } = self;
        let party = Party::Client(client.client());
        client.flush(
            Time(1),
            &mut ClientOutlet {
                party,
                pool,
                scratch,
                links,
                caller,
            },
        );
        while !links.is_empty() {
            while let Some((from, to, bytes)) = links.pop_front() {
                let message = wire::decode(&bytes, pool, bounds).expect("what was encoded");
                match (from, to) {
                    (from, Party::Node(node)) => {
                        nodes[usize::from(node.0)].take(
                            Input::Message { from, message },
                            pool,
                            scratch,
                            links,
                        );
                    }
                    (Party::Node(node), Party::Client(_)) => {
                        let mut outlet = ClientOutlet {
                            party,
                            pool,
                            scratch,
                            links,
                            caller,
                        };
                        client.on_message(Time(1), node, &message, &mut outlet);
                    }
                    (Party::Client(_), Party::Client(_)) => {
                        unreachable!("clients do not talk to each other")
                    }
                }
            }
            for node in nodes.iter_mut() {
                node.take(Input::Tick, pool, scratch, links);
            }
        }
    }

    /// One decree: a bundle of calls, ordered, executed, answered.
    fn round(&mut self) {
        let session = self.caller.opened.expect("the session is open");
        let before = self.caller.committed;
        for call in 0..CALLS {
            self.client
                .call(session, &self.operation, call, Time(1))
                .expect("there is room");
        }
        self.settle();
        assert_eq!(
            self.caller.committed,
            before + CALLS,
            "every call is committed at once"
        );
    }

    fn executed(&self) -> Decree {
        self.nodes[0].executor.executed()
    }
}

fn node(
    configuration: &Arc<Configuration>,
    clients: &Arc<ClientDirectory>,
    pool: &Pool,
    id: NodeId,
) -> Node {
    // T0 is an hour, and time stands still: nothing is said again. The log is short, so that it is full soon.
    let tuning = Tuning {
        t0: Duration::from_secs(3600),
        log_bytes_max: 64 << 10,
        ..Tuning::default()
    };
    let setup = Setup {
        configuration: Arc::clone(configuration),
        me: id,
        identity: node_identity(usize::from(id.0)),
        clients: Arc::clone(clients),
        tuning,
        pool: pool.clone(),
        standing: Standing::Born,
    };
    Node {
        id,
        machine: Replica::new(setup).expect("sound keys"),
        executor: Executor::new(configuration, KeyValue::new()),
        delivered: VecDeque::with_capacity(64),
        stored: None,
    }
}

fn common_path_allocates_nothing(model: FaultModel) {
    let mut cluster = Cluster::new(model);
    cluster
        .client
        .open_session(0, Time(1))
        .expect("the first session");
    cluster.settle();
    while cluster.executed() < Decree(4 * CHECKPOINT_EVERY + 1) {
        cluster.round();
    }
    let before = counting::allocations();
    while cluster.executed() < Decree(5 * CHECKPOINT_EVERY - 1) {
        cluster.round();
    }
    let allocations = counting::allocations() - before;
    let operations = (CHECKPOINT_EVERY - 2) * CALLS;
    assert_eq!(
        allocations, 0,
        "{model}: allocations in {operations} operations between two checkpoints"
    );

    // Checkpoints are signed, sent and collected: a bounded amount of work every K decrees.
    while cluster.executed() < Decree(6 * CHECKPOINT_EVERY - 1) {
        cluster.round();
    }
    let per_checkpoint = counting::allocations() - before;
    println!("{model}: {per_checkpoint} allocations per checkpoint");
    assert!(per_checkpoint > 0, "{model}: the allocator counts");
    assert!(
        per_checkpoint < 1000,
        "{model}: {per_checkpoint} allocations per checkpoint"
    );
}

/// One test for both modes: the counter is one for the whole process.
#[test]
fn the_common_path_allocates_nothing_once_warm() {
    common_path_allocates_nothing(FaultModel::Fab);
    common_path_allocates_nothing(FaultModel::Crash);
}
