//! Replies: entries that leave out what follows from the one before, and the groups that messages are made of.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use twostep_engine::machine::Replies;
use twostep_engine::message::{Outcome, Reply, ReplyEntries, WireError};
use twostep_engine::types::{ClientId, Decree, Digest, Seq, SessionId};
use twostep_engine::wire::{reply_bytes_max, write_replies};

use crate::parts::{digest, number};

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reply_entries_come_back(replies in vec(reply(), 0..12)) {
        let bytes = entries_of(&replies);
        let expected: Vec<_> = replies.iter().map(|reply| Ok(reply.view())).collect();
        prop_assert_eq!(ReplyEntries::new(&bytes).iter().collect::<Vec<_>>(), expected.clone());
        prop_assert_eq!(ReplyEntries::new(&bytes).iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn entries_have_one_encoding(bytes in vec(prop_oneof![0..4u8, 0..64u8, any::<u8>()], 0..60)) {
        let read: Result<Vec<_>, _> = ReplyEntries::new(&bytes).iter().collect();
        if let Ok(replies) = read {
            let mut again = Vec::new();
            write_replies(replies, &mut again);
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn groups_of_replies_are_whole_entries_of_one_client_within_the_limit(
        replies in vec((0..2u8, reply()), 0..12),
        bytes_max in 1..200usize,
    ) {
        let mut kept = Replies::default();
        kept.begin(bytes_max);
        for (client, reply) in &replies {
            kept.push(ClientId([*client; 16]), &reply.view());
        }
        let groups: Vec<_> = kept.groups().collect();
        let mut told = Vec::new();
        for (client, entries) in &groups {
            let read: Result<Vec<_>, _> = entries.iter().collect();
            let read = read.expect("no entry is cut");
            prop_assert!(entries.bytes().len() <= bytes_max || read.len() == 1);
            told.extend(read.into_iter().map(|reply| (client.0[0], reply)));
        }
        let expected: Vec<_> = replies.iter().map(|(client, reply)| (*client, reply.view())).collect();
        prop_assert_eq!(told, expected, "nothing is lost, nothing is said twice");
        for pair in groups.windows(2) {
            let (before, after) = (pair[0], pair[1]);
            let first = after.1.iter().next().expect("no group is empty").expect("whole entries");
            let full = before.1.bytes().len() + reply_bytes_max(&first) > bytes_max;
            prop_assert!(before.0 != after.0 || full, "a group ends only where it must");
        }
    }

    #[test]
    fn an_error_ends_the_entries(replies in vec(reply(), 1..6), cut in any::<Index>()) {
        let ends: Vec<_> = (1..=replies.len()).map(|count| entries_of(&replies[..count]).len()).collect();
        let bytes = entries_of(&replies);
        let cut = 1 + cut.index(bytes.len() - 1);
        let whole = ends.iter().filter(|end| **end <= cut).count();
        let read: Vec<_> = ReplyEntries::new(&bytes[..cut]).iter().collect();
        prop_assert!(read[..whole].iter().all(Result::is_ok));
        let inside = !ends.contains(&cut);
        prop_assert_eq!(read.len(), whole + usize::from(inside), "the error is said once");
        prop_assert_eq!(read.last().is_some_and(Result::is_err), inside);
    }
}

pub fn entries_of(replies: &[OwnedReply]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_replies(replies.iter().map(OwnedReply::view), &mut bytes);
    bytes
}

#[test]
fn entries_go_on_in_no_way_after_an_error() {
    let mut bytes = Vec::new();
    let entry = Reply {
        session: SessionId::NONE,
        seq: Seq(1),
        decree: Decree(1),
        outcome: Outcome::Stale,
    };
    write_replies([entry; 3], &mut bytes);
    assert_eq!(bytes, [0x23, 1, 0x13, 1, 0x13, 1]);
    bytes[0] |= 0x40;
    let read: Vec<_> = ReplyEntries::new(&bytes).iter().collect();
    assert_eq!(
        read,
        [Err(WireError::Case {
            what: "first byte of a reply entry here",
            found: 0x63
        })]
    );
}

/// A reply that owns its bytes.
#[derive(Clone, Debug)]
pub struct OwnedReply {
    session: SessionId,
    seq: Seq,
    decree: Decree,
    outcome: usize,
    bytes: Vec<u8>,
    digest: Digest,
}

impl OwnedReply {
    fn view(&self) -> Reply<'_> {
        let outcomes = [
            Outcome::Executed(&self.bytes),
            Outcome::ExecutedDigest(self.digest),
            Outcome::Opened(SessionId {
                decree: self.decree,
                index: 7,
            }),
            Outcome::Stale,
            Outcome::TooFar,
            Outcome::SeqReused,
            Outcome::SessionLapsed,
            Outcome::ExecutedReplyGone,
        ];
        Reply {
            session: self.session,
            seq: self.seq,
            decree: self.decree,
            outcome: outcomes[self.outcome],
        }
    }
}

pub fn reply() -> impl Strategy<Value = OwnedReply> {
    (
        // Often what follows from the entry before.
        prop_oneof![Just(5), number()],
        prop_oneof![Just(1), any::<u32>()],
        prop_oneof![1..4u64, number()],
        prop_oneof![Just(9), number()],
        0..8usize,
        vec(any::<u8>(), 0..40),
        digest(),
    )
        .prop_map(
            |(session, index, seq, decree, outcome, bytes, digest)| OwnedReply {
                session: SessionId {
                    decree: Decree(session),
                    index,
                },
                seq: Seq(seq),
                decree: Decree(decree),
                outcome,
                bytes,
                digest,
            },
        )
}
