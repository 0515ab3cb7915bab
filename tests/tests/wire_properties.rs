//! Properties of the wire: one encoding per message, no panic on any bytes, every count bounded before it is believed.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, subsequence};
use twostep_crypto::{Party, Signature, Signed};
use twostep_engine::machine::Replies;
use twostep_engine::message::{
    Certificate, Checkpoint, CheckpointClaim, Message, NAME_BYTES, NewRegency, Outcome,
    ProofOfLeadership, Recalled, RegencyVote, Reply, ReplyEntries, Report, ReportedVote,
    RequestNames, Snapshot, SnapshotCertificate, SnapshotClaim, SnapshotVoice, Status, Values,
    Voice, WireError,
};
use twostep_engine::tracking::TRACKED_MAX;
use twostep_engine::types::{ClientId, Decree, Digest, NodeId, Regency, Seq, SessionId, Value};
use twostep_engine::wire::{
    Bounds, decode, encode, reply_bytes_max, shows_signatures, write_replies,
};
use twostep_net::pool::{Body, Pool};

/// f = 1 in mode F with a small window.
const BOUNDS: Bounds = Bounds {
    learners: 4,
    acceptors: 6,
    proposers: 4,
    window: 8,
    body_bytes_max: 300,
    bundle_bytes_max: 296,
    reply_bytes_max: 40,
};

const KINDS: usize = 34;

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_message_comes_back(parts in parts(), kind in 0..KINDS, before in vec(any::<u8>(), 0..9)) {
        let message = parts.message(kind);
        let mut out = before.clone();
        encode(&message, &mut out);
        let bytes = &out[before.len()..];
        prop_assert_eq!(&out[..before.len()], &before, "encode appends");
        prop_assert!(
            shows_signatures(bytes) || message.signatures() == 0,
            "signatures are told from the first byte"
        );
        prop_assert_eq!(&read(bytes), &Ok(message));
        prop_assert!(bytes.len() <= BOUNDS.message_bytes_max(), "{} bytes", bytes.len());
    }

    #[test]
    fn every_cut_is_an_error_and_so_is_every_tail(parts in parts(), kind in 0..KINDS) {
        let bytes = encoded(&parts.message(kind));
        for len in 0..bytes.len() {
            let answer = read(&bytes[..len]);
            prop_assert!(matches!(answer, Err(WireError::Truncated(_))), "cut at {} of {}: {:?}", len, bytes.len(), answer);
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        prop_assert_eq!(read(&longer), Err(WireError::Trailing(1)));
    }

    #[test]
    fn a_flipped_bit_is_an_error_or_another_message(parts in parts(), kind in 0..KINDS, bit in any::<Index>()) {
        let message = parts.message(kind);
        let mut bytes = encoded(&message);
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(other) = read(&bytes) {
            prop_assert_ne!(&other, &message);
            prop_assert_eq!(encoded(&other), bytes);
        }
    }

    #[test]
    fn damaged_bytes_are_an_error_or_the_one_encoding_of_something(
        parts in parts(),
        kind in 0..KINDS,
        damage in vec((any::<Index>(), prop_oneof![Just(0), Just(1), Just(255), any::<u8>()]), 1..6),
    ) {
        let mut bytes = encoded(&parts.message(kind));
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Ok(message) = read(&bytes) {
            prop_assert_eq!(encoded(&message), bytes);
        }
    }

    #[test]
    fn arbitrary_bytes_are_an_error_or_the_one_encoding_of_something(tag in 0..=40u8, tail in vec(any::<u8>(), 0..400)) {
        let bytes = [&[tag], tail.as_slice()].concat();
        if let Ok(message) = read(&bytes) {
            if let Message::Replies { entries, .. } = &message {
                let _ = entries.iter().count();
            }
            prop_assert_eq!(encoded(&message), bytes);
        }
    }

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

fn entries_of(replies: &[OwnedReply]) -> Vec<u8> {
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

#[test]
fn a_count_at_its_limit_is_taken_and_one_more_is_refused() {
    let nodes = |count: usize| (0..u16::try_from(count).expect("small")).map(NodeId);
    let certificate = |count: usize| Certificate {
        decree: Decree(8),
        chain: Digest([1; 32]),
        voices: nodes(count)
            .map(|learner| Voice {
                learner,
                results: Digest([2; 32]),
                signature: Signature([3; 64]),
            })
            .collect(),
    };
    let proof = |count: usize| ProofOfLeadership {
        votes: nodes(count)
            .map(|node| {
                signed(
                    node,
                    RegencyVote {
                        regency: Regency(3),
                    },
                )
            })
            .collect(),
    };
    let report = |votes: usize, voices: usize| Report {
        regency: Regency(3),
        low: Some(certificate(voices)),
        votes: (1..=votes as u64)
            .map(|decree| ReportedVote {
                decree: Decree(decree),
                psn: Regency(0),
                value: Value(Digest::ZERO),
            })
            .collect(),
    };
    let voucher = |count: usize| {
        nodes(count)
            .map(|node| signed(node, report(0, 0)))
            .collect()
    };
    let new_regency = |count| NewRegency {
        regency: Regency(3),
        proof: proof(3),
        voucher: voucher(count),
    };
    let zeros = [0; 1024];
    let body = |len: usize| Body::from_vec(zeros[..len].to_vec());
    let pulled = |count: usize| Values::new(&zeros[..32 * count]).expect("a multiple of 32");
    let (decree, regency, value) = (Decree(1), Regency(1), Value(Digest::ZERO));
    let names = [7; NAME_BYTES * (TRACKED_MAX + 1)];
    // What is counted, at its limit, and one above it.
    let cases: Vec<(&str, u64, Message<'_>, Message<'_>)> = vec![
        (
            "the voices of a certificate",
            4,
            Message::Certificate(certificate(4)),
            Message::Certificate(certificate(5)),
        ),
        (
            "the votes of a proof of leadership",
            4,
            Message::Proof(proof(4)),
            Message::Proof(proof(5)),
        ),
        (
            "the votes of a proof of leadership",
            4,
            Message::Denied(proof(4)),
            Message::Denied(proof(5)),
        ),
        (
            "the votes of a proof of leadership",
            4,
            Message::Gather {
                regency,
                proof: proof(4),
            },
            Message::Gather {
                regency,
                proof: proof(5),
            },
        ),
        (
            "the votes of a report",
            8,
            said(report(8, 0)),
            said(report(9, 0)),
        ),
        (
            "the voices of a certificate",
            4,
            said(report(1, 4)),
            said(report(1, 5)),
        ),
        (
            "the reports of a voucher",
            6,
            Message::NewRegency(Box::new(new_regency(6))),
            Message::NewRegency(Box::new(new_regency(7))),
        ),
        (
            "the names of requests",
            TRACKED_MAX as u64,
            Message::AskSettled {
                executed: decree,
                names: RequestNames::new(ClientId([7; 16]), &names[NAME_BYTES..]).expect("names"),
            },
            Message::AskSettled {
                executed: decree,
                names: RequestNames::new(ClientId([7; 16]), &names).expect("names"),
            },
        ),
        (
            "a body",
            300,
            Message::Propose {
                regency,
                decree,
                value,
                body: body(300),
            },
            Message::Propose {
                regency,
                decree,
                value,
                body: body(301),
            },
        ),
        (
            "a body",
            300,
            Message::Fetched {
                decree,
                value,
                body: body(300),
            },
            Message::Fetched {
                decree,
                value,
                body: body(301),
            },
        ),
        (
            "a bundle",
            296,
            Message::Submit {
                retry: true,
                bundle: &zeros[..296],
            },
            Message::Submit {
                retry: true,
                bundle: &zeros[..297],
            },
        ),
        (
            "the values of a Pull",
            8,
            Message::Pull {
                first: decree,
                count: 8,
            },
            Message::Pull {
                first: decree,
                count: 9,
            },
        ),
        (
            "the values of a Pulled",
            8,
            Message::Pulled {
                first: decree,
                values: pulled(8),
            },
            Message::Pulled {
                first: decree,
                values: pulled(9),
            },
        ),
    ];
    for (what, limit, largest, too_large) in cases {
        assert_eq!(read(&encoded(&largest)), Ok(largest.clone()), "{what}");
        assert_eq!(
            read(&encoded(&too_large)),
            Err(WireError::Limit {
                what,
                found: limit + 1,
                limit
            })
        );
    }
}

#[test]
fn the_largest_message_is_as_large_as_the_bounds_say() {
    let nodes = || (0..6).map(NodeId);
    let votes = |count: u64| -> Vec<ReportedVote> {
        (1..=count)
            .map(|at| ReportedVote {
                decree: Decree(at),
                psn: Regency(0),
                value: Value(Digest::ZERO),
            })
            .collect()
    };
    let voices = nodes().take(4).map(|learner| Voice {
        learner,
        results: Digest::ZERO,
        signature: Signature([0; 64]),
    });
    let low = Certificate {
        decree: Decree(8),
        chain: Digest::ZERO,
        voices: voices.collect(),
    };
    let report = Report {
        regency: Regency(1),
        low: Some(low),
        votes: votes(8),
    };
    let proof = nodes()
        .take(4)
        .map(|node| {
            signed(
                node,
                RegencyVote {
                    regency: Regency(1),
                },
            )
        })
        .collect();
    let full = NewRegency {
        regency: Regency(1),
        proof: ProofOfLeadership { votes: proof },
        voucher: nodes().map(|node| signed(node, report.clone())).collect(),
    };
    assert_eq!(
        encoded(&Message::NewRegency(Box::new(full))).len(),
        BOUNDS.message_bytes_max()
    );

    let wide = Bounds {
        body_bytes_max: 1 << 20,
        ..BOUNDS
    };
    let (regency, decree, value) = (Regency(0), Decree(1), Value(Digest::ZERO));
    let propose = Message::Propose {
        regency,
        decree,
        value,
        body: Body::from_vec(vec![0; 1 << 20]),
    };
    assert_eq!(encoded(&propose).len(), wide.message_bytes_max());
}

#[test]
fn who_or_what_stands_twice_or_out_of_order_is_refused() {
    for nodes in [[NodeId(1), NodeId(1)], [NodeId(2), NodeId(1)]] {
        let voices = nodes
            .map(|learner| Voice {
                learner,
                results: Digest::ZERO,
                signature: Signature([0; 64]),
            })
            .to_vec();
        let certificate = Certificate {
            decree: Decree(8),
            chain: Digest::ZERO,
            voices,
        };
        let proof = ProofOfLeadership {
            votes: nodes
                .map(|node| {
                    signed(
                        node,
                        RegencyVote {
                            regency: Regency(1),
                        },
                    )
                })
                .to_vec(),
        };
        let empty = Report {
            regency: Regency(1),
            low: None,
            votes: vec![],
        };
        let voucher = nodes.map(|node| signed(node, empty.clone())).to_vec();
        let votes = nodes
            .map(|node| ReportedVote {
                decree: Decree(node.0.into()),
                psn: Regency(0),
                value: Value(Digest::ZERO),
            })
            .to_vec();
        let no_proof = ProofOfLeadership::default();
        let cases = [
            (
                "the voices of a certificate",
                Message::Certificate(certificate.clone()),
            ),
            (
                "the voices of a certificate",
                said(Report {
                    low: Some(certificate),
                    ..empty.clone()
                }),
            ),
            (
                "the votes of a proof of leadership",
                Message::Proof(proof.clone()),
            ),
            (
                "the votes of a proof of leadership",
                Message::Denied(proof.clone()),
            ),
            (
                "the votes of a proof of leadership",
                Message::Gather {
                    regency: Regency(1),
                    proof,
                },
            ),
            ("the votes of a report", said(Report { votes, ..empty })),
            (
                "the reports of a voucher",
                Message::NewRegency(Box::new(NewRegency {
                    regency: Regency(1),
                    proof: no_proof,
                    voucher,
                })),
            ),
        ];
        for (what, message) in cases {
            assert_eq!(
                read(&encoded(&message)),
                Err(WireError::Order(what)),
                "{nodes:?}"
            );
        }
    }
}

#[test]
fn a_byte_that_names_no_case_is_refused() {
    let mut submit = encoded(&Message::Submit {
        retry: true,
        bundle: b"x",
    });
    submit[1] = 2;
    assert_eq!(
        read(&submit),
        Err(WireError::Case {
            what: "flag (0 or 1)",
            found: 2
        })
    );
    let mut status = encoded(&Message::Status(Status {
        plan_held: true,
        abstaining: true,
        ..Status::default()
    }));
    status[9] |= 4;
    assert_eq!(
        read(&status),
        Err(WireError::Case {
            what: "set of status flags",
            found: 7
        })
    );
    let mut report = encoded(&said(Report {
        regency: Regency(1),
        low: None,
        votes: vec![],
    }));
    report[11] = 0xff;
    assert_eq!(
        read(&report),
        Err(WireError::Case {
            what: "flag (0 or 1)",
            found: 0xff
        })
    );
}

#[test]
fn a_claimed_count_makes_no_room_before_its_bytes_are_there() {
    // 2^32 − 1 votes of 48 bytes each would be 192 GiB.
    let wide = Bounds {
        window: u64::MAX,
        ..BOUNDS
    };
    let mut bytes = encoded(&said(Report {
        regency: Regency(1),
        low: None,
        votes: vec![],
    }));
    let count = bytes.len() - 64 - 4;
    bytes[count..count + 4].fill(0xff);
    assert_eq!(
        decode(&bytes, &Pool::default(), &wide),
        Err(WireError::Truncated("the votes of a report"))
    );

    let pool = Pool::new(1 << 20);
    let wide = Bounds {
        body_bytes_max: usize::MAX,
        ..BOUNDS
    };
    let fetched = Message::Fetched {
        decree: Decree(1),
        value: Value(Digest::ZERO),
        body: Body::empty(),
    };
    let mut bytes = encoded(&fetched);
    let length = bytes.len() - 4;
    bytes[length..].fill(0xff);
    assert_eq!(
        decode(&bytes, &pool, &wide),
        Err(WireError::Truncated("a body"))
    );
    assert_eq!(
        pool.buffers_made(),
        0,
        "no buffer was made for a body that is not there"
    );
}

fn read(bytes: &[u8]) -> Result<Message<'_>, WireError> {
    decode(bytes, &Pool::new(1 << 16), &BOUNDS)
}

fn encoded(message: &Message<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    encode(message, &mut out);
    out
}

fn said(report: Report) -> Message<'static> {
    Message::Report(Box::new(signed(NodeId(0), report)))
}

fn signed<T>(node: NodeId, content: T) -> Signed<T> {
    Signed {
        signer: Party::Node(node),
        content,
        signature: Signature([7; 64]),
    }
}

/// What any message can be made of.
#[derive(Clone, Debug)]
struct Parts {
    regency: Regency,
    decree: Decree,
    value: Value,
    number: u32,
    flags: (bool, bool),
    client: ClientId,
    bytes: Vec<u8>,
    values: Vec<u8>,
    replies: Vec<u8>,
    names: Vec<u8>,
    claim: CheckpointClaim,
    certificate: Certificate,
    vote: Signed<RegencyVote>,
    proof: ProofOfLeadership,
    report: Signed<Report>,
    voucher: Vec<Signed<Report>>,
}

impl Parts {
    fn message(&self, kind: usize) -> Message<'_> {
        let Parts {
            regency,
            decree,
            value,
            number,
            ..
        } = *self;
        let body = || Body::from_vec(self.bytes.clone());
        let names = RequestNames::new(ClientId([7; 16]), &self.names).expect("made of names");
        match kind {
            0 => Message::Submit {
                retry: self.flags.0,
                bundle: &self.bytes,
            },
            1 => Message::Propose {
                regency,
                decree,
                value,
                body: body(),
            },
            2 => Message::Accepted {
                regency,
                decree,
                value,
            },
            3 => Message::Ack { learned: decree },
            4 => Message::Checkpoint(self.claim),
            5 => Message::Certificate(self.certificate.clone()),
            6 => Message::Status(Status {
                regency,
                plan_held: self.flags.0,
                abstaining: self.flags.1,
                low: decree,
                learned: self.claim.checkpoint.decree,
            }),
            7 => Message::Pull {
                first: decree,
                count: number % 9,
            },
            8 => Message::Pulled {
                first: decree,
                values: Values::new(&self.values).expect("made of values"),
            },
            9 => Message::Fetch { decree, value },
            10 => Message::Fetched {
                decree,
                value,
                body: body(),
            },
            11 => Message::Replies {
                regency,
                entries: ReplyEntries::new(&self.replies),
            },
            12 => Message::Busy {
                regency,
                retry_after_ms: number,
            },
            13 => Message::Vote(self.vote.clone()),
            14 => Message::Proof(self.proof.clone()),
            15 => Message::Gather {
                regency,
                proof: self.proof.clone(),
            },
            16 => Message::Report(Box::new(self.report.clone())),
            17 => Message::NewRegency(Box::new(NewRegency {
                regency,
                proof: self.proof.clone(),
                voucher: self.voucher.clone(),
            })),
            18 => Message::Denied(self.proof.clone()),
            19 => Message::AskSettled {
                executed: decree,
                names,
            },
            20 => Message::Settled { names },
            21 => Message::NackAuth {
                regency,
                decree,
                client: self.client,
                bundle: value.0,
            },
            22 => Message::AckAuth {
                regency,
                decree,
                bundle: value.0,
            },
            23 => Message::WantSignature {
                regency,
                bundle: value.0,
            },
            24 => Message::BundleSignature {
                client: self.client,
                bundle: value.0,
                signature: self.claim.signature,
            },
            25 => Message::Snapshot(SnapshotClaim {
                snapshot: self.snapshot(),
                learner: self.claim.learner,
                signature: self.claim.signature,
            }),
            26 => Message::SnapshotCertificate(SnapshotCertificate {
                snapshot: self.snapshot(),
                voices: self
                    .certificate
                    .voices
                    .iter()
                    .map(|voice| SnapshotVoice {
                        learner: voice.learner,
                        signature: voice.signature,
                    })
                    .collect(),
            }),
            27 => Message::AskSnapshot { above: decree },
            28 => Message::FetchChunk {
                decree,
                place: number,
            },
            29 => Message::Chunk {
                decree,
                place: number,
                bytes: body(),
            },
            30 => Message::Recall,
            31 => Message::Recalled(Box::new(Recalled {
                regency,
                proof: self.proof.clone(),
                voted: Regency(decree.0),
                support: self.proof.votes.clone(),
                low: self.flags.0.then(|| self.certificate.clone()),
            })),
            32 => Message::RepliesDigest {
                regency,
                digest: value.0,
            },
            33 => Message::Found {
                regency,
                entries: ReplyEntries::new(&self.replies),
            },
            _ => unreachable!("there are {KINDS} kinds"),
        }
    }
}

impl Parts {
    fn snapshot(&self) -> Snapshot {
        Snapshot {
            decree: self.decree,
            chain: self.value.0,
            results: self.claim.checkpoint.results,
            root: self.claim.checkpoint.chain,
        }
    }
}

fn parts() -> impl Strategy<Value = Parts> {
    let plain = (
        number(),
        number(),
        digest(),
        any::<u32>(),
        any::<(bool, bool)>(),
        any::<[u8; 16]>(),
    );
    let bytes = (
        vec(any::<u8>(), 0..296),
        vec(digest(), 0..=8),
        vec(reply(), 0..6),
        vec(any::<[u8; NAME_BYTES]>(), 0..=TRACKED_MAX),
    );
    let shown = (
        claim(),
        certificate(),
        regency_vote(nodes(1)),
        proof(),
        signed_reports(1),
        signed_reports(6),
    );
    (plain, bytes, shown).prop_map(|(plain, bytes, shown)| Parts {
        regency: Regency(plain.0),
        decree: Decree(plain.1),
        value: Value(plain.2),
        number: plain.3,
        flags: plain.4,
        client: ClientId(plain.5),
        bytes: bytes.0,
        values: bytes.1.iter().flat_map(|value| value.0).collect(),
        replies: entries_of(&bytes.2),
        names: bytes.3.iter().flat_map(|name| *name).collect(),
        claim: shown.0,
        certificate: shown.1,
        vote: shown.2.into_iter().next().expect("one vote"),
        proof: shown.3,
        report: shown.4.into_iter().next().expect("one report"),
        voucher: shown.5,
    })
}

/// Small numbers, any numbers, and those at the end, where sums overflow.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..300u64, any::<u64>(), Just(u64::MAX)]
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest)
}

fn signature() -> impl Strategy<Value = Signature> {
    any::<[[u8; 32]; 2]>().prop_map(|halves| {
        let mut bytes = [0; 64];
        bytes.copy_from_slice(halves.as_flattened());
        Signature(bytes)
    })
}

/// Up to `max` distinct nodes in ascending order, exactly one if `max` is 1.
fn nodes(max: usize) -> BoxedStrategy<Vec<NodeId>> {
    let all: Vec<NodeId> = (0..12).chain([u16::MAX]).map(NodeId).collect();
    if max == 1 {
        subsequence(all, 1).boxed()
    } else {
        subsequence(all, 0..=max).boxed()
    }
}

fn claim() -> impl Strategy<Value = CheckpointClaim> {
    (number(), digest(), digest(), any::<u16>(), signature()).prop_map(
        |(decree, chain, results, learner, signature)| {
            let checkpoint = Checkpoint {
                decree: Decree(decree),
                chain,
                results,
            };
            CheckpointClaim {
                checkpoint,
                learner: NodeId(learner),
                signature,
            }
        },
    )
}

fn certificate() -> impl Strategy<Value = Certificate> {
    (
        number(),
        digest(),
        nodes(BOUNDS.learners),
        vec((digest(), signature()), BOUNDS.learners),
    )
        .prop_map(|(decree, chain, learners, said)| {
            let voices = learners.into_iter().zip(said);
            let voices = voices
                .map(|(learner, (results, signature))| Voice {
                    learner,
                    results,
                    signature,
                })
                .collect();
            Certificate {
                decree: Decree(decree),
                chain,
                voices,
            }
        })
}

fn regency_vote(
    signers: BoxedStrategy<Vec<NodeId>>,
) -> impl Strategy<Value = Vec<Signed<RegencyVote>>> {
    (signers, vec((number(), signature()), BOUNDS.proposers)).prop_map(|(signers, said)| {
        let votes = signers.into_iter().zip(said);
        votes
            .map(|(signer, (regency, signature))| Signed {
                signer: Party::Node(signer),
                content: RegencyVote {
                    regency: Regency(regency),
                },
                signature,
            })
            .collect()
    })
}

fn proof() -> impl Strategy<Value = ProofOfLeadership> {
    regency_vote(nodes(BOUNDS.proposers)).prop_map(|votes| ProofOfLeadership { votes })
}

fn report() -> impl Strategy<Value = Report> {
    let decrees = subsequence((1..=16u64).chain([u64::MAX]).collect::<Vec<_>>(), 0..=8);
    (
        number(),
        proptest::option::of(certificate()),
        decrees,
        vec((number(), digest()), 8),
    )
        .prop_map(|(regency, low, decrees, voted)| {
            let votes = decrees.into_iter().zip(voted);
            let votes = votes
                .map(|(decree, (psn, value))| ReportedVote {
                    decree: Decree(decree),
                    psn: Regency(psn),
                    value: Value(value),
                })
                .collect();
            Report {
                regency: Regency(regency),
                low,
                votes,
            }
        })
}

fn signed_reports(max: usize) -> impl Strategy<Value = Vec<Signed<Report>>> {
    (nodes(max), vec((report(), signature()), max)).prop_map(|(signers, said)| {
        let reports = signers.into_iter().zip(said);
        reports
            .map(|(signer, (content, signature))| Signed {
                signer: Party::Node(signer),
                content,
                signature,
            })
            .collect()
    })
}

/// A reply that owns its bytes.
#[derive(Clone, Debug)]
struct OwnedReply {
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

fn reply() -> impl Strategy<Value = OwnedReply> {
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
