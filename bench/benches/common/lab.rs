//! Replicas, executors and one client, with queues in the place of links.

use std::collections::VecDeque;
use std::sync::Arc;

use twostep_crypto::Party;
use twostep_engine::admission::ClientDirectory;
use twostep_engine::batch::Batch;
use twostep_engine::client::{CallOutcome, ClientCore, ClientEffects, OpenError, SessionHandle};
use twostep_engine::configuration::Tuning;
use twostep_engine::executor::Executor;
use twostep_engine::key_value::KeyValue;
use twostep_engine::machine::{Effects, Input, Machine, Question, Record, To};
use twostep_engine::message::Message;
use twostep_engine::quorum::FaultModel;
use twostep_engine::replica::{Replica, Setup, Standing};
use twostep_engine::types::{ClientId, Decree, NodeId, NodeSet, RecordSeq, SessionId, Time};
use twostep_engine::wire::{Bounds, decode, encode};
use twostep_net::pool::Pool;

struct Node {
    replica: Replica,
    executor: Executor<KeyValue>,
}

/// The parcel of one message: from, to, bytes.
type Parcel = (Party, Party, Vec<u8>);

/// Everything in one thread; time moves by 10 µs a turn.
pub struct Lab {
    /// The client.
    pub core: ClientCore,
    nodes: Vec<Node>,
    mail: VecDeque<Parcel>,
    spare: Vec<Vec<u8>>,
    bounds: Bounds,
    pool: Pool,
    now: Time,
    /// Calls that committed.
    pub committed: usize,
    opened: Vec<SessionHandle>,
}

impl Lab {
    pub fn new(model: FaultModel) -> Lab {
        let configuration = super::configuration(model);
        let setup = super::client(&configuration);
        let pool = Pool::default();
        let clients = Arc::new(ClientDirectory::new([setup.identity.public()]));
        let node = |node: NodeId| Node {
            replica: Replica::new(Setup {
                configuration: Arc::clone(&configuration),
                me: node,
                identity: Arc::new(super::identity(
                    u8::try_from(node.0 + 1).expect("few nodes"),
                )),
                clients: Arc::clone(&clients),
                tuning: Tuning::default(),
                pool: pool.clone(),
                standing: Standing::Born,
            })
            .expect("sound keys"),
            executor: Executor::new(&configuration, KeyValue::new()),
        };
        let mut core = ClientCore::new(setup);
        configuration
            .nodes()
            .iter()
            .for_each(|node| core.link_up(node));
        Lab {
            core,
            nodes: configuration.nodes().iter().map(node).collect(),
            mail: VecDeque::new(),
            spare: Vec::new(),
            bounds: Bounds::of(&configuration),
            pool,
            now: Time(1),
            committed: 0,
            opened: Vec::new(),
        }
    }

    /// Opens a session.
    pub fn open(&mut self) -> SessionHandle {
        self.core
            .open_session(0, self.now)
            .expect("room for a session");
        self.settle();
        self.opened.pop().expect("the session opens")
    }

    /// Makes `count` calls of one session in one bundle and brings all of them to an end; all messages travel.
    pub fn commit(&mut self, session: SessionHandle, operation: &[u8], count: usize) {
        let before = self.committed;
        for _ in 0..count {
            self.core
                .call(session, operation, 0, self.now)
                .expect("room for a call");
        }
        self.settle();
        assert_eq!(self.committed - before, count, "every call commits");
    }

    /// Delivers messages until nobody has anything to say.
    fn settle(&mut self) {
        self.now = self.now + std::time::Duration::from_micros(10);
        let mut ears = Ears {
            mail: &mut self.mail,
            spare: &mut self.spare,
            opened: &mut self.opened,
            committed: 0,
        };
        self.core.flush(self.now, &mut ears);
        self.committed += ears.committed;
        while !self.mail.is_empty() {
            while let Some((from, to, bytes)) = self.mail.pop_front() {
                self.deliver(from, to, &bytes);
                self.spare.push(bytes);
            }
            (0..self.nodes.len()).for_each(|node| self.step(node, Input::Tick));
        }
    }

    fn deliver(&mut self, from: Party, to: Party, bytes: &[u8]) {
        let message = decode(bytes, &self.pool, &self.bounds).expect("what was encoded decodes");
        match (from, to) {
            (Party::Node(from), Party::Client(_)) => {
                let mut ears = Ears {
                    mail: &mut self.mail,
                    spare: &mut self.spare,
                    opened: &mut self.opened,
                    committed: 0,
                };
                self.core.on_message(self.now, from, &message, &mut ears);
                self.committed += ears.committed;
            }
            (_, Party::Node(to)) => self.step(usize::from(to.0), Input::Message { from, message }),
            (Party::Client(_), Party::Client(_)) => {
                unreachable!("clients do not talk to each other")
            }
        }
    }

    /// One step of a node with everything that follows from it: records are durable at once, decrees executed at once.
    fn step(&mut self, index: usize, input: Input<'_>) {
        let me = Party::Node(NodeId(u16::try_from(index).expect("few nodes")));
        let Node { replica, executor } = &mut self.nodes[index];
        let mut wishes = Wishes {
            me,
            mail: &mut self.mail,
            spare: &mut self.spare,
            stored: None,
            due: VecDeque::new(),
        };
        replica.step(self.now, input, &mut wishes);
        loop {
            if let Some(stored) = wishes.stored.take() {
                replica.step(self.now, Input::Stored(stored), &mut wishes);
            } else if let Some((decree, batch)) = wishes.due.pop_front() {
                let executed = executor.execute(decree, &batch);
                let input = Input::Executed {
                    decree,
                    replies: executed.replies,
                    results: executed.results,
                };
                replica.step(self.now, input, &mut wishes);
            } else {
                return;
            }
        }
    }
}

fn post(
    mail: &mut VecDeque<Parcel>,
    spare: &mut Vec<Vec<u8>>,
    from: Party,
    to: Party,
    message: &Message<'_>,
) {
    let mut bytes = spare.pop().unwrap_or_default();
    bytes.clear();
    encode(message, &mut bytes);
    mail.push_back((from, to, bytes));
}

struct Wishes<'a> {
    me: Party,
    mail: &'a mut VecDeque<Parcel>,
    spare: &'a mut Vec<Vec<u8>>,
    stored: Option<RecordSeq>,
    due: VecDeque<(Decree, Batch)>,
}

impl Effects for Wishes<'_> {
    fn send(&mut self, to: To, message: &Message<'_>) {
        match to {
            To::Nodes(nodes) => {
                for node in nodes.iter() {
                    post(self.mail, self.spare, self.me, Party::Node(node), message);
                }
            }
            To::Client(client) => post(
                self.mail,
                self.spare,
                self.me,
                Party::Client(client),
                message,
            ),
        }
    }

    fn store(&mut self, seq: RecordSeq, _: &Record<'_>) {
        self.stored = Some(seq);
    }

    fn deliver(&mut self, decree: Decree, batch: &Batch) {
        self.due.push_back((decree, batch.clone()));
    }

    fn ask(&mut self, _: Question) {}
}

struct Ears<'a> {
    mail: &'a mut VecDeque<Parcel>,
    spare: &'a mut Vec<Vec<u8>>,
    opened: &'a mut Vec<SessionHandle>,
    committed: usize,
}

impl ClientEffects for Ears<'_> {
    fn send(&mut self, to: NodeSet, message: &Message<'_>) {
        for node in to.iter() {
            post(
                self.mail,
                self.spare,
                Party::Client(client_id()),
                Party::Node(node),
                message,
            );
        }
    }

    fn opened(&mut self, session: SessionHandle, _: u64, result: Result<SessionId, OpenError>) {
        result.expect("the session opens");
        self.opened.push(session);
    }

    fn done(&mut self, _: SessionHandle, _: u64, outcome: CallOutcome<'_>) {
        assert!(
            matches!(outcome, CallOutcome::Committed { .. }),
            "{outcome:?}"
        );
        self.committed += 1;
    }
}

fn client_id() -> ClientId {
    static ID: std::sync::OnceLock<ClientId> = std::sync::OnceLock::new();
    *ID.get_or_init(|| {
        twostep_crypto::Identity::from_seed([200; 32])
            .public()
            .client_id()
    })
}
