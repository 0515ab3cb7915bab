//! A cluster in one thread: replicas, executors and one client, with queues in the place of links.
//!
//! Benchmarks step it, and the [floor](crate::floor) takes from it who says what to whom for one operation, in how many
//! bytes: the code is that of a node, only links, disks and the clock are left out.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use twostep_crypto::{Identity, Party};
use twostep_engine::admission::ClientDirectory;
use twostep_engine::batch::{Batch, BundleWriter, Malformed, Request, RequestKind};
use twostep_engine::client::{
    AuthenticatorKeys, CallOutcome, ClientCore, ClientEffects, ClientSetup, ClientTuning,
    OpenError, SessionHandle,
};
use twostep_engine::configuration::{Admission, Configuration, Limits, Member, Tuning};
use twostep_engine::executor::Executor;
use twostep_engine::machine::{Effects, Input, Machine, Question, Record, To};
use twostep_engine::message::Message;
use twostep_engine::node::testnet::roles_of;
use twostep_engine::quorum::FaultModel;
use twostep_engine::replica::{Replica, Setup, Standing};
use twostep_engine::state_machine::StateMachine;
use twostep_engine::types::{ClientId, Decree, NodeId, NodeSet, RecordSeq, Seq, SessionId, Time};
use twostep_engine::wire::{Bounds, decode, encode};
use twostep_net::pool::{Body, Pool};

struct Node<S: StateMachine> {
    replica: Replica,
    executor: Executor<S>,
}

/// The parcel of one message: from, to, bytes.
type Parcel = (Party, Party, Vec<u8>);

/// Everything in one thread; time moves by 10 µs a turn.
pub struct Lab<S: StateMachine> {
    /// The client.
    pub core: ClientCore,
    nodes: Vec<Node<S>>,
    mail: VecDeque<Parcel>,
    spare: Vec<Vec<u8>>,
    bounds: Bounds,
    pool: Pool,
    now: Time,
    /// Calls that committed.
    pub committed: usize,
    opened: Vec<SessionHandle>,
}

/// One message that travelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Travelled {
    /// Who said it.
    pub from: Party,
    /// To whom.
    pub to: Party,
    /// Its wire form.
    pub bytes: Vec<u8>,
    /// How many of the recorded messages had reached the sender before it said this.
    pub heard: usize,
}

/// What travelled for some calls that were made together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// In the order in which it was said, which is also the order in which it arrived.
    pub messages: Vec<Travelled>,
    /// How many of the messages had reached the client when the last call ended.
    pub ended_after: usize,
}

/// The identity of node `seed - 1`.
#[must_use]
pub fn identity(seed: u8) -> Identity {
    Identity::from_seed([seed; 32])
}

/// The members of the production layout.
#[must_use]
pub fn members(model: FaultModel, f: usize) -> Vec<Member> {
    let member = |node: usize| Member {
        roles: roles_of(model, f, node),
        public: node_identity(node).public(),
    };
    (0..model.acceptors(f)).map(member).collect()
}

fn node_identity(node: usize) -> Identity {
    identity(u8::try_from(node + 1).expect("fewer nodes than the client's seed"))
}

/// A cluster with the default limits.
///
/// # Panics
/// When so many faults make more than 199 nodes.
#[must_use]
pub fn configuration(model: FaultModel, f: usize) -> Arc<Configuration> {
    let admission = match model {
        FaultModel::Crash => Admission::Link,
        FaultModel::Fab => Admission::Mac,
    };
    let configuration = Configuration::new(
        model,
        f,
        members(model, f),
        Limits::default(),
        admission,
        [0; 16],
    );
    Arc::new(configuration.expect("a sound configuration"))
}

/// A client of it.
#[must_use]
pub fn client(configuration: &Arc<Configuration>) -> ClientSetup {
    let identity = Arc::new(identity(CLIENT_SEED));
    let keys = AuthenticatorKeys::derive(configuration, &identity).expect("sound keys");
    let tuning = ClientTuning::default();
    ClientSetup {
        configuration: Arc::clone(configuration),
        identity,
        keys,
        tuning,
        seed: 1,
    }
}

/// A batch of one request with an operation of so many bytes, proved by nobody: for what does not look inside.
///
/// # Panics
/// If the operation is larger than a request may be.
#[must_use]
pub fn batch_of(configuration: &Configuration, operation_bytes: usize) -> Batch {
    let scope = configuration.scope();
    let mut writer = BundleWriter::new(identity(CLIENT_SEED).public().client_id());
    let pushed = writer.push(&Request {
        kind: RequestKind::Operation,
        session: SessionId {
            decree: Decree(1),
            index: 0,
        },
        seq: Seq(1),
        operation: &vec![7; operation_bytes],
    });
    assert!(pushed, "one request fits into a bundle");
    let mut body = 1_u32.to_le_bytes().to_vec();
    body.extend_from_slice(writer.finish_bare(&scope));
    Batch::parse(
        Body::from_vec(body),
        &scope,
        configuration.limits(),
        |_, _| Ok::<(), Malformed>(()),
    )
    .expect("a well-formed body")
}

/// The seed of the client's identity, above those of nodes.
const CLIENT_SEED: u8 = 200;

impl<S: StateMachine> Lab<S> {
    /// A cluster of the production layout whose nodes have just been born.
    pub fn new(model: FaultModel, f: usize, state_machine: impl Fn() -> S) -> Lab<S> {
        let configuration = configuration(model, f);
        let setup = client(&configuration);
        let pool = Pool::default();
        let clients = Arc::new(ClientDirectory::new([setup.identity.public()]));
        let node = |node: NodeId| Node {
            replica: Replica::new(Setup {
                configuration: Arc::clone(&configuration),
                me: node,
                identity: Arc::new(node_identity(usize::from(node.0))),
                clients: Arc::clone(&clients),
                tuning: Tuning::default(),
                pool: pool.clone(),
                standing: Standing::Born,
            })
            .expect("sound keys"),
            executor: Executor::new(&configuration, state_machine()),
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

    /// The same; gives the messages that travelled, in their order. Every message makes a turn of its own, as it does
    /// where nothing else is under way.
    pub fn record(&mut self, session: SessionHandle, operation: &[u8], count: usize) -> Recording {
        for _ in 0..count {
            self.core
                .call(session, operation, 0, self.now)
                .expect("room for a call");
        }
        let before = self.committed;
        let mut record: Vec<Travelled> = Vec::new();
        let mut heard: BTreeMap<Party, usize> = BTreeMap::new();
        self.flush();
        self.note(&heard, &mut record);
        let (mut next, mut ended_after) = (0, 0);
        while let Some(travelled) = record.get(next) {
            next += 1;
            let Travelled {
                from, to, bytes, ..
            } = travelled.clone();
            *heard.entry(to).or_default() += 1;
            self.deliver(from, to, &bytes);
            match to {
                Party::Node(node) => self.step(usize::from(node.0), Input::Tick),
                Party::Client(_) if self.committed - before < count => ended_after = heard[&to] + 1,
                Party::Client(_) => {}
            }
            self.note(&heard, &mut record);
        }
        assert_eq!(self.committed - before, count, "every call commits");
        Recording {
            messages: record,
            ended_after,
        }
    }

    /// Moves what was just said from the mail to the record.
    fn note(&mut self, heard: &BTreeMap<Party, usize>, record: &mut Vec<Travelled>) {
        record.extend(self.mail.drain(..).map(|(from, to, bytes)| Travelled {
            from,
            to,
            bytes,
            heard: heard.get(&from).copied().unwrap_or(0),
        }));
    }

    /// Delivers messages until nobody has anything to say.
    fn settle(&mut self) {
        self.flush();
        while !self.mail.is_empty() {
            while let Some((from, to, bytes)) = self.mail.pop_front() {
                self.deliver(from, to, &bytes);
                self.spare.push(bytes);
            }
            (0..self.nodes.len()).for_each(|node| self.step(node, Input::Tick));
        }
    }

    fn flush(&mut self) {
        self.now = self.now + Duration::from_micros(10);
        let mut ears = Ears {
            mail: &mut self.mail,
            spare: &mut self.spare,
            opened: &mut self.opened,
            committed: 0,
        };
        self.core.flush(self.now, &mut ears);
        self.committed += ears.committed;
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
    *ID.get_or_init(|| identity(CLIENT_SEED).public().client_id())
}
