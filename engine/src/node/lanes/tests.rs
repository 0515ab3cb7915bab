//! One arrival log gives one order, whatever lanes it came through.
//!
//! A cluster of six runs in memory without lanes, as a node with one lane does, and everything that one node is told is written down, turn by turn.
//! The log is then replayed through the real lanes, order loop and execution loop, taking turns on one thread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use twostep_crypto::{Identity, MacKey, authenticator_key};
use twostep_net::pool::Pool;
use twostep_net::{ClockOffset, Counters, Idle, LinkId, Sleeper, WakeUp, queue};

use super::chunk::Chunk;
use super::gathering::ROUND_TIME_MAX;
use super::lane::{Lane, ToLane};
use super::order::OrderLoop;
use super::{Loops, Plan, TOLD_MAX};
use crate::admission::ClientDirectory;
use crate::batch::{BundleWriter, Request, RequestKind};
use crate::configuration::Limits;
use crate::executor::Executor;
use crate::key_value::{KeyValue, Operation};
use crate::machine::{Input, To};
use crate::message::Message;
use crate::node::control::{self, Answer, Asked, Fault, REQUESTS_MAX};
use crate::node::core::Core;
use crate::node::effects::Links;
use crate::node::host::Local;
use crate::node::report::LinksReport;
use crate::node::testnet::{TestnetPlan, client_folder, create, node_folder};
use crate::node::{ClientFolder, Identification, NodeConfig, NodeOptions};
use crate::quorum::FaultModel;
use crate::replica::{Replica, Setup, Standing};
use crate::types::{Decree, Digest, NodeId, Party, Seq, SessionId};
use crate::wire::encode;

const NODES: u16 = 6;
const ROUNDS: u64 = 60;
/// Two clients with a bundle each round.
const CLIENTS: usize = 2;
const TURN: Duration = Duration::from_micros(100);

struct Cluster {
    folder: tempfile::TempDir,
    start: Instant,
}

impl Cluster {
    fn new() -> Cluster {
        let folder = tempfile::tempdir().unwrap();
        let plan = TestnetPlan {
            mode: FaultModel::Fab,
            f: 1,
            admission: None,
            addresses: (0..NODES)
                .map(|node| format!("127.0.0.1:{}", 20_000 + node))
                .collect(),
            clients: CLIENTS,
            limits: Limits {
                window: 16,
                checkpoint_every: 8,
                ..Limits::default()
            },
            options: NodeOptions::default(),
            carrier: twostep_net::Carrier::default(),
            misbehaviour: false,
        };
        create(folder.path(), &plan).unwrap();
        Cluster {
            folder,
            start: Instant::now(),
        }
    }

    fn core(&self, node: u16) -> (Core, Local<KeyValue>, crate::prechecked::Precheck) {
        let file = node_folder(self.folder.path(), NodeId(node)).join("config.toml");
        let NodeConfig {
            cluster, identity, ..
        } = NodeConfig::load(&file, &[]).unwrap();
        let configuration = Arc::clone(&cluster.configuration);
        let pool = Pool::default();
        let replica = Replica::new(Setup {
            configuration: Arc::clone(&configuration),
            me: NodeId(node),
            identity,
            clients: Arc::new(ClientDirectory::new(cluster.clients.iter().copied())),
            tuning: NodeOptions::default().tuning(),
            pool: pool.clone(),
            standing: Standing::Born,
        });
        let replica = replica.unwrap();
        let precheck = replica.precheck();
        let who = Identification {
            node: NodeId(node),
            cluster,
            listen: "127.0.0.1:1".parse().unwrap(),
            state: NodeOptions::default().state,
        };
        let core = Core::new(who, Box::new(replica), pool, self.start);
        let executor = Executor::new(&configuration, KeyValue::new());
        let local = Local {
            executor,
            snapshots: None,
        };
        (core, local, precheck)
    }

    fn pen(&self, client: usize) -> Pen {
        let folder = ClientFolder::load(&client_folder(self.folder.path(), client)).unwrap();
        let configuration = folder.cluster.configuration;
        let (scope, identity) = (configuration.scope(), folder.identity);
        let id = identity.public().client_id();
        let key = |node: NodeId| {
            let public = configuration.member(node).unwrap().public;
            authenticator_key(&scope, &identity, &public, id, node).unwrap()
        };
        Pen {
            keys: configuration.nodes().iter().map(key).collect(),
            scope,
            identity,
            session: SessionId::NONE,
        }
    }
}

/// What a client writes.
struct Pen {
    scope: twostep_crypto::Scope,
    identity: Arc<Identity>,
    keys: Vec<MacKey>,
    session: SessionId,
}

impl Pen {
    fn party(&self) -> Party {
        Party::Client(self.identity.public().client_id())
    }

    /// The first bundle opens a session; the others put and count.
    fn submit(&self, round: u64) -> Vec<u8> {
        let mut writer = BundleWriter::new(self.identity.public().client_id());
        let open = round == 0;
        for part in 0..if open { 1 } else { 3 } {
            let mut operation = Vec::new();
            if !open {
                let key = format!("key {}", (round + part) % 7);
                let put = Operation::Put {
                    key: key.as_bytes(),
                    value: &round.to_le_bytes(),
                };
                put.encode(&mut operation);
            }
            let kind = if open {
                RequestKind::Open
            } else {
                RequestKind::Operation
            };
            let seq = Seq(if open { 77 } else { 3 * round + part - 2 });
            assert!(writer.push(&Request {
                kind,
                session: self.session,
                seq,
                operation: &operation,
            }));
        }
        if open {
            writer.finish_signed(&self.scope, self.identity.signing());
        } else {
            writer.finish_mac(&self.scope, &self.keys);
        }
        let mut bytes = Vec::new();
        let message = Message::Submit {
            retry: round % 5 == 4,
            bundle: writer.bytes(),
        };
        encode(&message, &mut bytes);
        bytes
    }
}

/// What a node says: to whom, the bytes.
#[derive(Default)]
struct Said(Vec<(To, Vec<u8>)>);

impl Links for Said {
    fn send(&mut self, to: To, message: &Message<'_>) {
        let mut bytes = Vec::new();
        encode(message, &mut bytes);
        self.0.push((to, bytes));
    }
}

/// One turn of a node: what came.
type Turn = Vec<(Party, Vec<u8>)>;

/// What must not depend on lanes.
#[derive(Debug, PartialEq)]
struct Digests {
    learned: Decree,
    executed: Decree,
    chain: Digest,
    results: Digest,
    state: Digest,
}

fn digests(core: &Core, executed: Decree, results: Digest, state: Digest) -> Digests {
    let report = core.machine.replica().report();
    Digests {
        learned: report.learned,
        executed,
        chain: report.chain,
        results,
        state,
    }
}

/// Runs the cluster and returns the logs of `watched`, with what became of it.
fn record(cluster: &Cluster, watched: u16) -> (Vec<Turn>, Digests) {
    let mut nodes: Vec<_> = (0..NODES).map(|node| cluster.core(node)).collect();
    let mut pens: Vec<Pen> = (0..CLIENTS).map(|client| cluster.pen(client)).collect();
    let mut inboxes: Vec<VecDeque<(Party, Vec<u8>)>> = vec![VecDeque::new(); usize::from(NODES)];
    let mut log = Vec::new();
    let mut now = cluster.start;
    // Quiet rounds at the end let everybody learn the rest.
    for round in 0..4 * (ROUNDS + 20) {
        if round % 4 == 0 && round < 4 * ROUNDS {
            for (index, pen) in pens.iter_mut().enumerate() {
                if round == 4 {
                    let index = u32::try_from(index).unwrap();
                    let decree = Decree(1);
                    pen.session = SessionId { decree, index };
                }
                // A client says it to everybody: the leader orders it, a retry is looked up by all.
                for inbox in &mut inboxes {
                    inbox.push_back((pen.party(), pen.submit(round / 4)));
                }
            }
        }
        now += TURN;
        for node in 0..NODES {
            let (core, local, _) = &mut nodes[usize::from(node)];
            let turn: Turn = inboxes[usize::from(node)].drain(..).collect();
            let mut said = Said::default();
            let time = core.time(now);
            for (from, bytes) in &turn {
                core.message(&mut said, local, time, *from, bytes);
            }
            core.step(&mut said, local, time, Input::Tick);
            if node == watched {
                log.push(turn);
            }
            for (to, bytes) in said.0 {
                if let To::Nodes(to) = to {
                    for to in to.iter() {
                        let from = Party::Node(NodeId(node));
                        inboxes[usize::from(to.0)].push_back((from, bytes.clone()));
                    }
                }
            }
        }
    }
    let (core, Local { executor, .. }, _) = &nodes[usize::from(watched)];
    let state = executor.state_digest();
    let found = digests(core, executor.executed(), executor.results(), state);
    (log, found)
}

/// The loops of a node that takes faults, and where it is asked.
fn loops(cluster: &Cluster, node: u16, lanes: usize) -> (Loops<KeyValue>, queue::Sender<Asked>) {
    let (core, local, precheck) = cluster.core(node);
    let (asking, requests) = queue::bounded(REQUESTS_MAX, WakeUp::new(|| {}));
    let loops = Loops::new(Plan {
        core,
        executor: local.executor,
        snapshots: None,
        precheck,
        requests,
        stopping: Arc::new(AtomicBool::new(false)),
        faults_allowed: true,
        disk_faults: None,
        clock: ClockOffset::default(),
        idle: Idle::default(),
        lanes: (0..lanes).map(|_| WakeUp::new(|| {})).collect(),
        sleeper: Sleeper::new(Idle::default()),
    });
    (loops, asking)
}

/// Replays a log through `lanes` lanes.
fn replay(cluster: &Cluster, node: u16, log: &[Turn], lanes: usize) -> (Digests, u64) {
    let (loops, _asking) = loops(cluster, node, lanes);
    let Loops {
        lanes: mut all,
        mut order,
        mut execution,
        ..
    } = loops;
    let mut now = cluster.start;
    for turn in log {
        now += TURN;
        let time = order.core.time(now);
        let mut waiting = turn.iter().peekable();
        while let Some((from, bytes)) = waiting.next() {
            let lane = lane_of(*from, lanes);
            all[lane].take(*from, bytes);
            // What follows from the same lane goes into the same chunk.
            if waiting
                .peek()
                .is_some_and(|(next, _)| lane_of(*next, lanes) == lane)
            {
                continue;
            }
            all[lane].hand_over();
            while let Some(mut chunk) = order.lanes[lane].chunks.receive() {
                order.take(lane, &mut chunk, time);
                assert!(chunk.is_empty());
                // It may find no room, and is made anew then.
                let _ = order.lanes[lane].spent.send(chunk);
            }
        }
        execution.turn();
        order.take_outcomes(time);
        order.end_turn(now);
    }
    execution.turn();
    order.take_outcomes(order.core.time(now));
    let prechecked = all.iter().map(|lane| lane.state.prechecked()).sum();
    let executor = execution.executor();
    let state = executor.state_digest();
    let found = digests(&order.core, executor.executed(), executor.results(), state);
    (found, prechecked)
}

fn lane_of(from: Party, lanes: usize) -> usize {
    match from {
        Party::Node(node) => usize::from(node.0) % lanes,
        Party::Client(client) => usize::from(client.0[0]) % lanes,
    }
}

#[test]
fn one_arrival_log_gives_the_same_digests_through_one_two_and_four_lanes_and_without_any() {
    let cluster = Cluster::new();
    // The leader, and a node that follows it.
    for node in [0, 2] {
        let (log, without) = record(&cluster, node);
        assert!(
            without.learned.0 >= ROUNDS / 2 && without.executed == without.learned,
            "{without:?}"
        );
        for lanes in [1, 2, 4] {
            let (found, prechecked) = replay(&cluster, node, &log, lanes);
            assert_eq!(found, without, "node {node} with {lanes} lanes");
            assert!(prechecked >= ROUNDS, "lanes checked {prechecked} messages");
        }
    }
}

#[test]
fn chunks_keep_the_order_of_what_came() {
    let mut chunk = Chunk::default();
    let from = Party::Node(NodeId(3));
    for number in 0..10_u8 {
        chunk.push_bytes(from, &vec![number; usize::from(number)]);
    }
    let lengths: Vec<usize> = chunk
        .drain()
        .map(|item| match item {
            super::chunk::Item::Bytes { bytes, .. } => bytes.len(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(lengths, (0..10).collect::<Vec<usize>>());
    chunk.clear();
    assert!(chunk.is_empty() && chunk.drain().next().is_none());
}

/// Asks a node something.
fn ask(asking: &queue::Sender<Asked>, request: control::Request) -> Receiver<Answer> {
    let (answer, answered) = sync_channel(1);
    asking.send(Asked { request, answer }).unwrap();
    answered
}

/// Takes all that a lane is told, but for outputs.
fn told(lane: &Lane) -> Vec<ToLane> {
    let told = std::iter::from_fn(|| lane.from_order.receive());
    told.filter(|told| !matches!(told, ToLane::Output(_)))
        .collect()
}

/// The round that a lane is asked to report for.
fn round(lane: &Lane) -> u64 {
    match told(lane)[..] {
        [ToLane::Report(round)] => round,
        ref other => panic!("expected a question for a report, found {other:?}"),
    }
}

fn links_report(client_links: usize) -> LinksReport {
    LinksReport {
        counters: Counters::default(),
        driver: "none".to_owned(),
        peers: Vec::new(),
        client_links,
        lanes: Vec::new(),
    }
}

/// Gives a lane more outputs than it has room for.
fn fill(order: &mut OrderLoop, lane: usize) {
    let teller = &order.lanes[lane].teller;
    for _ in 0..TOLD_MAX {
        let _ = teller.output(&Arc::default());
    }
    assert!(!teller.output(&Arc::default()), "the queue is full");
}

const STATUS: control::Request = control::Request::Status { digests: false };

#[test]
fn a_lane_that_had_no_room_is_told_all_that_nobody_says_again() {
    let cluster = Cluster::new();
    let (loops, asking) = loops(&cluster, 0, 2);
    let Loops {
        mut lanes,
        mut order,
        mut execution,
        ..
    } = loops;
    let now = cluster.start;
    fill(&mut order, 0);
    let status = ask(&asking, STATUS);
    let cut = |peer| Fault {
        peer: Some(peer),
        cut: true,
        ..Fault::default()
    };
    for request in [
        control::Request::Fault(cut(1)),
        control::Request::Heal {},
        control::Request::Fault(cut(2)),
    ] {
        let _ = ask(&asking, request);
    }
    // A node comes up at the full lane and then at the other one.
    let (link, party) = (LinkId::NONE, Party::Node(NodeId(1)));
    for lane in [0, 1] {
        let mut chunk = Chunk::default();
        chunk.push_up(link, party);
        order.take(lane, &mut chunk, order.core.time(now));
    }
    order.turn(now);
    let at_once = told(&lanes[0]);
    assert!(at_once.is_empty(), "there was no room: {at_once:?}");
    // The lane has taken what was there.
    order.turn(now);
    let later = told(&lanes[0]);
    let [
        ToLane::Close(closed),
        ToLane::Heal,
        ToLane::Fault(fault),
        ToLane::Report(asked),
    ] = &later[..]
    else {
        panic!("{later:?}")
    };
    assert_eq!((*closed, fault, *asked), (link, &cut(2), 1));
    lanes[0].say_report(1, links_report(1));
    lanes[1].say_report(1, links_report(2));
    execution.turn();
    order.turn(now);
    let Ok(Answer::Status(status)) = status.try_recv() else {
        panic!("every loop has reported");
    };
    assert_eq!(status.client_links, 3);
}

#[test]
fn faults_that_a_lane_does_not_take_are_refused_at_a_bound() {
    let cluster = Cluster::new();
    let (loops, asking) = loops(&cluster, 0, 2);
    let mut order = loops.order;
    fill(&mut order, 0);
    let mut refused = 0;
    for _ in 0..200 {
        let answer = ask(&asking, control::Request::Fault(Fault::default()));
        order.turn(cluster.start);
        match answer.try_recv().unwrap() {
            Answer::Error(why) => {
                assert!(why.contains("lane 0 has not taken"), "{why}");
                refused += 1;
            }
            other => assert!(other == Answer::Done && refused == 0, "{other:?}"),
        }
    }
    assert_eq!(refused, 200 - 64);
}

#[test]
fn a_loop_that_does_not_report_ends_one_round_of_reports_and_not_all() {
    let cluster = Cluster::new();
    let (loops, asking) = loops(&cluster, 0, 2);
    let Loops {
        mut lanes,
        mut order,
        mut execution,
        ..
    } = loops;
    let mut now = cluster.start;
    let first = ask(&asking, STATUS);
    order.turn(now);
    assert_eq!(order.gathering.deadline(), Some(now + ROUND_TIME_MAX));
    let hung = round(&lanes[0]);
    let asked = round(&lanes[1]);
    lanes[1].say_report(asked, links_report(10));
    order.turn(now);
    assert_eq!(first.try_recv(), Err(TryRecvError::Empty));
    now += ROUND_TIME_MAX;
    order.turn(now);
    let Ok(Answer::Error(why)) = first.try_recv() else {
        panic!("the round has ended");
    };
    assert!(why.contains("from: lane 0, the execution loop;"), "{why}");
    assert_eq!(order.gathering.deadline(), None);

    // Questions wait for the execution loop's answer to the older one, but not without bound.
    let mut asked = Vec::new();
    // The log of readiness waits as well.
    for _ in 1..REQUESTS_MAX {
        asked.push(ask(&asking, STATUS));
    }
    order.turn(now);
    let beyond = ask(&asking, STATUS);
    order.turn(now);
    assert!(matches!(beyond.try_recv(), Ok(Answer::Error(why)) if why.contains("too many")));
    execution.turn();
    order.turn(now);
    execution.turn();
    let (newer, same) = (round(&lanes[0]), round(&lanes[1]));
    assert!(newer == same && newer != hung);
    // The late answer comes before the one that counts.
    lanes[0].say_report(hung, links_report(100));
    lanes[0].say_report(newer, links_report(1));
    lanes[1].say_report(newer, links_report(2));
    for _ in 0..2 {
        order.turn(now);
    }
    for answer in asked {
        let Ok(Answer::Status(status)) = answer.try_recv() else {
            panic!("every loop has reported");
        };
        assert_eq!(status.client_links, 3);
    }
}
