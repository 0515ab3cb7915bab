//! What a learner answers: in full or as a digest, and in messages that a link carries.

use std::sync::Arc;

use twostep_crypto::{ClientId, Identity};
use twostep_net::pool::Pool;

use super::replies_in_full;
use crate::admission::ClientDirectory;
use crate::batch::Batch;
use crate::configuration::{Admission, Configuration, Limits, Member, Roles, Tuning};
use crate::machine::{Effects, Input, Machine, Question, Record, Replies, To};
use crate::message::{Message, Outcome, Reply, ReplyEntries};
use crate::quorum::FaultModel;
use crate::replica::{Replica, Setup, Standing};
use crate::types::{Decree, Digest, NodeId, NodeSet, RecordSeq, Seq, SessionId, Time};
use crate::wire::{Bounds, encode};

/// What is said to clients of a decree: entries, and digests.
#[derive(Default)]
struct Said {
    full: Vec<Vec<u8>>,
    short: Vec<Digest>,
}

impl Effects for Said {
    fn send(&mut self, to: To, message: &Message<'_>) {
        match (to, message) {
            (To::Client(_), Message::Replies { entries, .. }) => {
                self.full.push(entries.bytes().to_vec());
            }
            (To::Client(_), Message::RepliesDigest { digest, .. }) => self.short.push(*digest),
            _ => {}
        }
    }
    fn store(&mut self, _: RecordSeq, _: &Record<'_>) {}
    fn deliver(&mut self, _: Decree, _: &Batch) {}
    fn ask(&mut self, _: Question) {}
}

/// The encoded messages to clients, and how many entries they hold.
#[derive(Default)]
struct Sent {
    lengths: Vec<usize>,
    entries: usize,
}

impl Effects for Sent {
    fn send(&mut self, to: To, message: &Message<'_>) {
        if let (To::Client(_), Message::Found { entries, .. }) = (to, message) {
            let mut bytes = Vec::new();
            encode(message, &mut bytes);
            self.lengths.push(bytes.len());
            self.entries += entries.iter().filter(Result::is_ok).count();
        }
    }
    fn store(&mut self, _: RecordSeq, _: &Record<'_>) {}
    fn deliver(&mut self, _: Decree, _: &Batch) {}
    fn ask(&mut self, _: Question) {}
}

#[test]
fn so_many_learners_reply_in_full_and_take_turns() {
    let learners: NodeSet = [2, 3, 5, 11].map(NodeId).into_iter().collect();
    let mut turns = [0; 12];
    for decree in 1..=40 {
        let in_full = |node: &NodeId| replies_in_full(learners, *node, Decree(decree), 3);
        let full: Vec<NodeId> = learners.iter().filter(in_full).collect();
        assert_eq!(full.len(), 3, "{decree}");
        full.iter().for_each(|node| turns[usize::from(node.0)] += 1);
    }
    assert_eq!([2, 3, 5, 11].map(|node| turns[node]), [30; 4]);
}

/// Node `me` of a cluster that bears one liar.
fn learner(me: u16) -> (Replica, Arc<Configuration>) {
    let members = (1..=6).map(|seed: u8| Member {
        roles: if seed <= 4 {
            Roles::ALL
        } else {
            Roles::ACCEPTOR
        },
        public: Identity::from_seed([seed; 32]).public(),
    });
    let (model, limits) = (FaultModel::Fab, Limits::default());
    let members = members.collect();
    let configuration = Configuration::new(model, 1, members, limits, Admission::Mac, [1; 16]);
    let configuration = Arc::new(configuration.expect("a consistent configuration"));
    let identity = Identity::from_seed([u8::try_from(me + 1).expect("few nodes"); 32]);
    let replica = Replica::new(Setup {
        configuration: Arc::clone(&configuration),
        me: NodeId(me),
        identity: Arc::new(identity),
        clients: Arc::new(ClientDirectory::new([])),
        tuning: Tuning::default(),
        pool: Pool::default(),
        standing: Standing::Born,
    });
    (replica.expect("no key is weak"), configuration)
}

#[test]
fn one_of_four_learners_says_the_digest_of_what_the_others_say() {
    let (mut full, mut short) = (Vec::new(), Vec::new());
    for me in 0..4 {
        let (mut replica, configuration) = learner(me);
        let mut replies = Replies::default();
        for seq in 1..=20 {
            let session = SessionId {
                decree: Decree(7),
                index: 0,
            };
            let reply = Reply {
                session,
                seq: Seq(seq),
                decree: Decree(1),
                outcome: Outcome::Executed(b"done"),
            };
            replies.push(ClientId([9; 16]), &reply);
        }
        replies.seal(&configuration.scope());
        let executed = Input::Executed {
            decree: Decree(1),
            replies: &replies,
            results: Digest::ZERO,
        };
        let mut said = Said::default();
        replica.step(Time(1), executed, &mut said);
        full.extend(said.full.iter().map(|bytes| {
            let entries = ReplyEntries::new(bytes);
            entries.digest(&configuration.scope())
        }));
        short.extend(said.short);
    }
    assert_eq!((full.len(), short.len()), (3, 1));
    assert!(full.iter().all(|digest| *digest == short[0]));
}

#[test]
#[should_panic(expected = "sealed")]
fn replies_without_digests_are_not_answered_by_silence() {
    let (mut replica, _) = learner(0);
    let mut replies = Replies::default();
    let reply = Reply {
        session: SessionId::NONE,
        seq: Seq(1),
        decree: Decree(1),
        outcome: Outcome::Stale,
    };
    replies.push(ClientId([9; 16]), &reply);
    let executed = Input::Executed {
        decree: Decree(1),
        replies: &replies,
        results: Digest::ZERO,
    };
    replica.step(Time(1), executed, &mut Said::default());
}

#[test]
fn large_replies_go_in_messages_that_a_link_carries() {
    let identities: Vec<_> = (1..=3)
        .map(|seed| Identity::from_seed([seed; 32]))
        .collect();
    let members = identities.iter().map(|identity| Member {
        roles: Roles::ALL,
        public: identity.public(),
    });
    let limits = Limits {
        body_bytes_max: 1 << 16,
        request_bytes_max: 1 << 12,
        ..Limits::default()
    };
    let (model, admission) = (FaultModel::Crash, Admission::Link);
    let configuration = Configuration::new(model, 1, members.collect(), limits, admission, [1; 16]);
    let configuration = Arc::new(configuration.expect("a consistent configuration"));
    let mut replica = Replica::new(Setup {
        configuration: Arc::clone(&configuration),
        me: NodeId(0),
        identity: Arc::new(Identity::from_seed([1; 32])),
        clients: Arc::new(ClientDirectory::new([])),
        tuning: Tuning::default(),
        pool: Pool::default(),
        standing: Standing::Born,
    })
    .expect("no key is weak");

    let bounds = Bounds::of(&configuration);
    let mut replies = Replies::default();
    replies.begin(bounds.replies_bytes_max());
    let answer = vec![7; limits.reply_bytes_max as usize];
    for seq in 1..=20 {
        let (session, decree) = (
            SessionId {
                decree: Decree(1),
                index: 0,
            },
            Decree(2),
        );
        let reply = Reply {
            session,
            seq: Seq(seq),
            decree,
            outcome: Outcome::Executed(&answer),
        };
        replies.push(ClientId([9; 16]), &reply);
    }
    let mut sent = Sent::default();
    replica.step(Time(1), Input::Found(&replies), &mut sent);
    let bytes_max = bounds.message_bytes_max();
    assert!(
        replies.bytes().len() > bytes_max,
        "one message would not do"
    );
    assert!(
        sent.lengths.iter().all(|length| *length <= bytes_max),
        "{:?}",
        sent.lengths
    );
    assert_eq!(sent.entries, 20, "every entry is sent once");
}
