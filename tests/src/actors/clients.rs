//! Clients that lie: named strategies that stand between an honest client core and its links, with the keys of their
//! own client only.
//!
//! | strategy | what it does | what bears it (PROTOCOL.md section 5.1) |
//! |---|---|---|
//! | `bad-tag-one` | spoils the tag of one acceptor | f+1 acceptors that vote replace the own check |
//! | `bad-tags-f1` | spoils the tags of f+1 acceptors | the others vouch, and it signs when it is asked |
//! | `bad-tags-all-but-leader` | spoils all tags but that of the leader | it signs when it is asked |
//! | … `-mute` | the same, and it signs nothing but the opening of its sessions | one leader change per client, then its tags are refused |
//! | `seq-reuser` | sends two operations under each number, one to the leader and one, signed, to everyone | the session table: the first that is ordered counts |

use std::collections::BTreeSet;
use std::sync::Arc;

use twostep_crypto::{Identity, MacKey, authenticator_key};
use twostep_engine::batch::{
    Authenticator, Bundle, BundleView, BundleWriter, Request, RequestKind, TAG_BYTES,
};
use twostep_engine::configuration::Configuration;
use twostep_engine::message::Message;
use twostep_engine::types::{NodeId, NodeSet};
use twostep_engine::wire;
use twostep_net::pool::{Body, Pool};

use super::plot::Lies;
use crate::client::SHARED_COUNTER;
use crate::workload;

/// A client's strategy by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientEntry {
    /// Its name.
    pub name: &'static str,
    deed: Deed,
    /// Whether it signs what it is asked to sign, and its retries.
    signs: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    /// Spoils the tags of some acceptors.
    Spoil(Whose),
    /// Uses every number twice.
    Reuse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    One,
    FPlusOne,
    AllButLeader,
}

/// All strategies of clients.
pub const CLIENT_STRATEGIES: [ClientEntry; 7] = [
    entry("bad-tag-one", Deed::Spoil(Whose::One), true),
    entry("bad-tag-one-mute", Deed::Spoil(Whose::One), false),
    entry("bad-tags-f1", Deed::Spoil(Whose::FPlusOne), true),
    entry("bad-tags-f1-mute", Deed::Spoil(Whose::FPlusOne), false),
    entry(
        "bad-tags-all-but-leader",
        Deed::Spoil(Whose::AllButLeader),
        true,
    ),
    entry(
        "bad-tags-all-but-leader-mute",
        Deed::Spoil(Whose::AllButLeader),
        false,
    ),
    entry("seq-reuser", Deed::Reuse, true),
];

const fn entry(name: &'static str, deed: Deed, signs: bool) -> ClientEntry {
    ClientEntry { name, deed, signs }
}

/// The client strategy of this name.
#[must_use]
pub fn client_by_name(name: &str) -> Option<&'static ClientEntry> {
    CLIENT_STRATEGIES.iter().find(|entry| entry.name == name)
}

/// A client that lies, and its strategy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientActor {
    /// Its place among the clients.
    pub client: usize,
    /// The name of what it plays.
    pub strategy: &'static str,
}

/// Something that a client says.
#[derive(Debug)]
pub struct Saying {
    /// To whom.
    pub to: NodeSet,
    /// The message in wire form.
    pub bytes: Body,
    /// The bundle in it, if there is one.
    pub bundle: Option<Bundle>,
}

/// The liar in front of a client core.
#[derive(Debug)]
pub struct ClientLiar {
    entry: &'static ClientEntry,
    /// Its place among the clients.
    place: usize,
    configuration: Arc<Configuration>,
    identity: Arc<Identity>,
    keys: Vec<MacKey>,
    lies: Lies,
    /// Digests of the messages in which it lied.
    told: BTreeSet<[u8; 32]>,
    /// Nobody sees its lies arrive, so they need not be known again.
    alone: bool,
}

impl ClientLiar {
    /// A liar with the keys of one client.
    ///
    /// # Panics
    /// If no strategy has this name, or the keys are unusable.
    #[must_use]
    pub fn new(
        strategy: &str,
        place: usize,
        configuration: &Arc<Configuration>,
        identity: &Arc<Identity>,
    ) -> ClientLiar {
        let scope = configuration.scope();
        let client = identity.public().client_id();
        let key = |node: &NodeId| {
            let member = configuration
                .member(*node)
                .expect("voting nodes are members");
            authenticator_key(&scope, identity, &member.public, client, *node)
                .expect("the simulator's keys are sound")
        };
        ClientLiar {
            entry: client_by_name(strategy).expect("plans name strategies that exist"),
            place,
            keys: configuration.voting().iter().map(key).collect(),
            configuration: Arc::clone(configuration),
            identity: Arc::clone(identity),
            lies: Lies::default(),
            told: BTreeSet::new(),
            alone: false,
        }
    }

    /// A liar in a process of its own: what arrives where is not counted.
    #[must_use]
    pub fn alone(mut self) -> ClientLiar {
        self.alone = true;
        self
    }

    /// Its strategy's name, and how often it lied.
    #[must_use]
    pub fn lies(&self) -> (&'static str, Lies) {
        (self.entry.name, self.lies)
    }

    /// A node takes in what this client said.
    pub fn arrived(&mut self, bytes: &[u8]) {
        if self.told.contains(blake3::hash(bytes).as_bytes()) {
            self.lies.received += 1;
        }
    }

    /// What is said in the place of what the core wanted to say. `leader` is whom the core takes for the leader.
    pub fn alter(
        &mut self,
        to: NodeSet,
        message: &Message<'_>,
        leader: NodeId,
        pool: &Pool,
    ) -> Vec<Saying> {
        match message {
            Message::Submit { retry, bundle } => {
                let bundle = self.parse(pool.copy(bundle));
                self.submit(to, *retry, &bundle, leader, pool)
            }
            Message::BundleSignature { .. } if !self.entry.signs => {
                self.lies.sent += 1;
                self.lies.received += 1;
                Vec::new()
            }
            _ => vec![saying(to, message, None, pool)],
        }
    }

    fn submit(
        &mut self,
        to: NodeSet,
        retry: bool,
        bundle: &Bundle,
        leader: NodeId,
        pool: &Pool,
    ) -> Vec<Saying> {
        let view = bundle.view();
        let tagged = matches!(view.authenticator, Authenticator::Mac(_));
        let opens = view
            .requests()
            .any(|request| request.kind == RequestKind::Open);
        match self.entry.deed {
            Deed::Spoil(whose) if tagged => {
                vec![self.spoilt(whose, to, &view, leader, pool)]
            }
            // What should be signed is tagged instead, as if it were new.
            Deed::Spoil(whose) if !self.entry.signs && !opens => {
                vec![self.spoilt(whose, to, &view, leader, pool)]
            }
            Deed::Reuse if !opens => {
                let honest = submit(to, retry, bundle.clone(), pool);
                vec![honest, self.reused(&view, pool)]
            }
            Deed::Spoil(_) | Deed::Reuse => vec![submit(to, retry, bundle.clone(), pool)],
        }
    }

    /// The same requests with tags of which some are wrong.
    fn spoilt(
        &mut self,
        whose: Whose,
        to: NodeSet,
        view: &BundleView<'_>,
        leader: NodeId,
        pool: &Pool,
    ) -> Saying {
        let scope = self.configuration.scope();
        let mut writer = BundleWriter::new(view.client);
        for request in view.requests() {
            assert!(writer.push(&request), "as many as stood in a bundle before");
        }
        let mut bytes = writer.finish_mac(&scope, &self.keys).to_vec();
        let spoilt = self.victims(whose, leader);
        let voting = self.configuration.voting();
        let tags_at = bytes.len() - voting.len() * TAG_BYTES;
        for (place, node) in voting.iter().enumerate() {
            if spoilt.contains(*node) {
                bytes[tags_at + place * TAG_BYTES] ^= 1;
            }
        }
        let bundle = self.parse(pool.copy(&bytes));
        let said = submit(to, false, bundle, pool);
        self.lied(&said.bytes);
        said
    }

    /// Of several clients each begins with another acceptor: together they may spoil something for all of them.
    fn victims(&self, whose: Whose, leader: NodeId) -> NodeSet {
        let voting = self.configuration.voting();
        let acceptors: Vec<NodeId> = self
            .configuration
            .acceptors()
            .iter()
            .filter(|node| *node != leader)
            .collect();
        let some = |count: usize| {
            let from = acceptors.iter().cycle().skip(self.place);
            from.take(count).copied().collect()
        };
        match whose {
            Whose::One => some(1),
            Whose::FPlusOne => some(self.configuration.quorums().f + 1),
            Whose::AllButLeader => voting
                .iter()
                .copied()
                .filter(|node| *node != leader)
                .collect(),
        }
    }

    /// Other operations under the same numbers, signed, to everyone.
    fn reused(&mut self, view: &BundleView<'_>, pool: &Pool) -> Saying {
        let scope = self.configuration.scope();
        let (add, put) = (
            workload::increment(SHARED_COUNTER),
            workload::put(SHARED_COUNTER, 8),
        );
        let mut writer = BundleWriter::new(view.client);
        for request in view.requests() {
            let operation = if request.operation == add { &put } else { &add };
            let other = Request {
                operation,
                ..request
            };
            assert!(writer.push(&other), "as many as stood in a bundle before");
        }
        let bytes = writer.finish_signed(&scope, self.identity.signing());
        let bundle = self.parse(pool.copy(bytes));
        let proposers: NodeSet = self.configuration.proposers().iter().copied().collect();
        let everyone = proposers.union(self.configuration.learners());
        let said = submit(everyone, true, bundle, pool);
        self.lied(&said.bytes);
        said
    }

    fn lied(&mut self, bytes: &[u8]) {
        self.lies.sent += 1;
        if !self.alone {
            self.told.insert(*blake3::hash(bytes).as_bytes());
        }
    }

    fn parse(&self, bytes: Body) -> Bundle {
        let limits = self.configuration.limits();
        Bundle::parse(bytes, &self.configuration.scope(), limits)
            .expect("a client makes well-formed bundles")
    }
}

fn submit(to: NodeSet, retry: bool, bundle: Bundle, pool: &Pool) -> Saying {
    let message = Message::Submit {
        retry,
        bundle: bundle.bytes(),
    };
    let mut bytes = Vec::new();
    wire::encode(&message, &mut bytes);
    Saying {
        to,
        bytes: pool.copy(&bytes),
        bundle: Some(bundle),
    }
}

fn saying(to: NodeSet, message: &Message<'_>, bundle: Option<Bundle>, pool: &Pool) -> Saying {
    let mut bytes = Vec::new();
    wire::encode(message, &mut bytes);
    Saying {
        to,
        bytes: pool.copy(&bytes),
        bundle,
    }
}
