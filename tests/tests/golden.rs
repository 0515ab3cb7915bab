//! The bytes of the protocol, pinned: every message, bundle and body, digest, signed content and the cluster id.
//!
//! Nodes of two builds talk to each other only if all of these are equal, and journals hold them for years. So a
//! change here is a decision: raise `PROTOCOL_VERSION`, write the new bytes, and review the difference of the file.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::path::PathBuf;

use twostep_crypto::{Context, Identity, MacKey, Party, Scope, Signable, Signature, Signed};
use twostep_engine::batch::{
    Batch, Bundle, BundleClaim, BundleWriter, Malformed, Request, RequestKind,
};
use twostep_engine::configuration::{Admission, Configuration, Limits, Member, Roles};
use twostep_engine::message::{
    Certificate, Checkpoint, CheckpointClaim, Message, NewRegency, Outcome, ProofOfLeadership,
    Recalled, RegencyVote, Reply, ReplyEntries, Report, ReportedVote, RequestNames, Snapshot,
    SnapshotCertificate, SnapshotClaim, SnapshotVoice, Status, Values, Voice, WireError,
};
use twostep_engine::quorum::FaultModel;
use twostep_engine::types::{ClientId, Decree, Digest, NodeId, Regency, Seq, SessionId, Value};
use twostep_engine::wire::{Bounds, decode, encode, write_replies, write_report};
use twostep_net::pool::{Body, Pool};

/// Set it to write the file instead of comparing with it.
const BLESS: &str = "TWOSTEP_BLESS";

#[test]
fn bytes_stand_as_they_are_pinned() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/wire.txt");
    let made = all_pins();
    if std::env::var_os(BLESS).is_some() {
        let mut text = String::from(HEADER);
        for (name, bytes) in &made {
            writeln!(text, "{name} = {}", hex::encode(bytes)).expect("a string takes everything");
        }
        std::fs::write(&path, text).expect("tests/golden can be written");
        return;
    }
    let text =
        std::fs::read_to_string(&path).expect("tests/golden/wire.txt is part of the repository");
    let pinned: Vec<(&str, &str)> = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            line.split_once(" = ")
                .expect("each line is `name = hexadecimal`")
        })
        .collect();
    let how = format!(
        "if the protocol is meant to change: raise PROTOCOL_VERSION, run \
         `{BLESS}=1 cargo test -p twostep-tests --test golden`, and review the difference"
    );
    let names: Vec<&str> = made.iter().map(|(name, _)| name.as_str()).collect();
    let pinned_names: Vec<&str> = pinned.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names, pinned_names,
        "other things are pinned than made; {how}"
    );
    for ((name, bytes), (_, expected)) in made.iter().zip(&pinned) {
        assert_eq!(
            hex::encode(bytes),
            *expected,
            "{name} has other bytes than before; {how}"
        );
    }
}

#[test]
fn pinned_messages_read_back() {
    let replies = reply_bytes();
    for (name, message) in messages(&replies, &names()) {
        let mut bytes = Vec::new();
        encode(&message, &mut bytes);
        assert_eq!(
            decode(&bytes, &Pool::default(), &Bounds::of(&configuration())),
            Ok(message),
            "{name}"
        );
    }
}

#[test]
fn every_message_is_pinned_and_no_other_tag_is_known() {
    let replies = reply_bytes();
    let mut tags = BTreeSet::new();
    let mut kinds = BTreeSet::new();
    for (_, message) in messages(&replies, &names()) {
        let mut bytes = Vec::new();
        encode(&message, &mut bytes);
        tags.insert(bytes[0]);
        kinds.insert(kind(&message));
    }
    assert_eq!(
        kinds,
        (0..KINDS).collect(),
        "each kind of message has a pin"
    );
    assert_eq!(tags.len(), KINDS, "no two kinds share a tag");
    for tag in (0..=u8::MAX).filter(|tag| !tags.contains(tag)) {
        let bytes = [tag; 64];
        assert_eq!(
            decode(&bytes, &Pool::default(), &Bounds::of(&configuration())),
            Err(WireError::Tag(tag))
        );
    }
}

const HEADER: &str = "\
# The bytes of the protocol, version 2: `name = hexadecimal`. See tests/tests/golden.rs before changing a line.
";

/// How many kinds of messages there are.
const KINDS: usize = 34;

/// Without a wildcard, so that a new message does not compile until it has a number here, and then needs a pin.
fn kind(message: &Message<'_>) -> usize {
    match message {
        Message::Submit { .. } => 0,
        Message::Propose { .. } => 1,
        Message::Accepted { .. } => 2,
        Message::Ack { .. } => 3,
        Message::Checkpoint(_) => 4,
        Message::Certificate(_) => 5,
        Message::Status(_) => 6,
        Message::Pull { .. } => 7,
        Message::Pulled { .. } => 8,
        Message::Fetch { .. } => 9,
        Message::Fetched { .. } => 10,
        Message::Replies { .. } => 11,
        Message::Busy { .. } => 12,
        Message::Vote(_) => 13,
        Message::Proof(_) => 14,
        Message::Gather { .. } => 15,
        Message::Report(_) => 16,
        Message::NewRegency(_) => 17,
        Message::Denied(_) => 18,
        Message::AskSettled { .. } => 19,
        Message::Settled { .. } => 20,
        Message::NackAuth { .. } => 21,
        Message::AckAuth { .. } => 22,
        Message::WantSignature { .. } => 23,
        Message::BundleSignature { .. } => 24,
        Message::Snapshot(_) => 25,
        Message::SnapshotCertificate(_) => 26,
        Message::AskSnapshot { .. } => 27,
        Message::FetchChunk { .. } => 28,
        Message::Chunk { .. } => 29,
        Message::Recall => 30,
        Message::Recalled(_) => 31,
        Message::RepliesDigest { .. } => 32,
        Message::Found { .. } => 33,
    }
}

fn all_pins() -> Vec<(String, Vec<u8>)> {
    let mut pins = Vec::new();
    let mut pin = |name: &str, bytes: &[u8]| pins.push((name.to_owned(), bytes.to_vec()));

    let configuration = configuration();
    let scope = configuration.scope();
    pin("cluster.fab", &configuration.cluster().0);
    pin("cluster.crash", &crash_configuration().cluster().0);

    let [tagged, signed, bare] = bundles(&scope);
    pin("bundle.mac", &tagged);
    pin("bundle.signed", &signed);
    pin("bundle.bare", &bare);
    let limits = configuration.limits();
    let parse = |bytes: &[u8]| {
        Bundle::parse(Body::from_vec(bytes.to_vec()), &scope, limits).expect("well-formed")
    };
    pin("bundle.digest", &parse(&tagged).digest().0);
    let mut waiting: VecDeque<Bundle> = [parse(&tagged), parse(&signed)].into();
    let batch = Batch::assemble(&Pool::default(), &scope, &mut waiting, 1 << 20);
    pin("batch.body", batch.body());
    pin("batch.value", &batch.value().0.0);
    let noop = Batch::noop(&scope);
    pin("noop.body", noop.body());
    pin("noop.value", &noop.value().0.0);

    let signable = |content: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        content(&mut bytes);
        bytes
    };
    pin(
        "signable.bundle",
        &signable(&|out| BundleClaim(digest(1)).write_signable(out)),
    );
    pin(
        "signable.checkpoint",
        &signable(&|out| checkpoint().write_signable(out)),
    );
    pin(
        "signable.snapshot",
        &signable(&|out| snapshot().write_signable(out)),
    );
    pin(
        "signable.vote",
        &signable(&|out| {
            RegencyVote {
                regency: Regency(7),
            }
            .write_signable(out);
        }),
    );
    pin(
        "signable.report",
        &signable(&|out| report().write_signable(out)),
    );
    pin("report", &signable(&|out| write_report(&report(), out)));
    let identity = Identity::from_seed([1; 32]);
    let claim = identity
        .signing()
        .sign(&scope, Party::Node(NodeId(0)), checkpoint());
    pin("signature.checkpoint", &claim.signed().signature.0);
    let statement = identity
        .signing()
        .sign(&scope, Party::Node(NodeId(0)), report());
    pin("signature.report", &statement.signed().signature.0);

    let replies = reply_bytes();
    for (name, message) in messages(&replies, &names()) {
        let mut bytes = Vec::new();
        encode(&message, &mut bytes);
        pin(&format!("message.{name}"), &bytes);
    }
    pins
}

/// At least one message of each kind, with no two numbers alike, so that exchanged fields show.
fn messages<'a>(replies: &'a [u8], names: &'a [u8]) -> Vec<(&'static str, Message<'a>)> {
    let names = RequestNames::new(ClientId([0x33; 16]), names).expect("made of names");
    let (regency, decree, value) = (Regency(0x0102), Decree(0x0304_0506), Value(digest(0x40)));
    let body = Body::from_static(b"a body");
    let voucher = vec![
        signed(0, report(), 0x71),
        signed(
            2,
            Report {
                regency: Regency(9),
                low: None,
                votes: vec![],
            },
            0x72,
        ),
        signed(
            5,
            Report {
                low: None,
                ..report()
            },
            0x73,
        ),
    ];
    vec![
        (
            "submit",
            Message::Submit {
                retry: false,
                bundle: b"a bundle",
            },
        ),
        (
            "submit.retry",
            Message::Submit {
                retry: true,
                bundle: b"",
            },
        ),
        (
            "propose",
            Message::Propose {
                regency,
                decree,
                value,
                body: body.clone(),
            },
        ),
        (
            "accepted",
            Message::Accepted {
                regency,
                decree,
                value,
            },
        ),
        ("ack", Message::Ack { learned: decree }),
        (
            "checkpoint",
            Message::Checkpoint(CheckpointClaim {
                checkpoint: checkpoint(),
                learner: NodeId(3),
                signature: Signature([0x33; 64]),
            }),
        ),
        ("certificate", Message::Certificate(certificate())),
        (
            "status",
            Message::Status(Status {
                regency,
                low: Decree(128),
                learned: Decree(200),
                ..Status::default()
            }),
        ),
        (
            "status.plan_held",
            Message::Status(Status {
                plan_held: true,
                ..Status::default()
            }),
        ),
        (
            "status.abstaining",
            Message::Status(Status {
                abstaining: true,
                ..Status::default()
            }),
        ),
        (
            "pull",
            Message::Pull {
                first: decree,
                count: 16,
            },
        ),
        (
            "pulled",
            Message::Pulled {
                first: decree,
                values: Values::new(&[0x42; 64]).expect("two values"),
            },
        ),
        ("fetch", Message::Fetch { decree, value }),
        (
            "fetched",
            Message::Fetched {
                decree,
                value,
                body,
            },
        ),
        (
            "replies",
            Message::Replies {
                regency,
                entries: ReplyEntries::new(replies),
            },
        ),
        (
            "replies digest",
            Message::RepliesDigest {
                regency,
                digest: digest(0x60),
            },
        ),
        (
            "found",
            Message::Found {
                regency,
                entries: ReplyEntries::new(replies),
            },
        ),
        (
            "busy",
            Message::Busy {
                regency,
                retry_after_ms: 250,
            },
        ),
        ("vote", Message::Vote(vote(3, 0x0708, 0x61))),
        ("proof", Message::Proof(proof())),
        ("proof.empty", Message::Proof(ProofOfLeadership::default())),
        (
            "gather",
            Message::Gather {
                regency,
                proof: proof(),
            },
        ),
        (
            "report",
            Message::Report(Box::new(signed(4, report(), 0x74))),
        ),
        (
            "new_regency",
            Message::NewRegency(Box::new(NewRegency {
                regency,
                proof: proof(),
                voucher,
            })),
        ),
        ("denied", Message::Denied(proof())),
        (
            "ask_settled",
            Message::AskSettled {
                executed: decree,
                names,
            },
        ),
        ("settled", Message::Settled { names }),
        (
            "nack_auth",
            Message::NackAuth {
                regency,
                decree,
                client: ClientId([0x81; 16]),
                bundle: digest(0x82),
            },
        ),
        (
            "ack_auth",
            Message::AckAuth {
                regency,
                decree,
                bundle: digest(0x83),
            },
        ),
        (
            "want_signature",
            Message::WantSignature {
                regency,
                bundle: digest(0x84),
            },
        ),
        (
            "bundle_signature",
            Message::BundleSignature {
                client: ClientId([0x85; 16]),
                bundle: digest(0x86),
                signature: Signature([0x87; 64]),
            },
        ),
        (
            "snapshot",
            Message::Snapshot(SnapshotClaim {
                snapshot: snapshot(),
                learner: NodeId(3),
                signature: Signature([0x88; 64]),
            }),
        ),
        (
            "snapshot_certificate",
            Message::SnapshotCertificate(SnapshotCertificate {
                snapshot: snapshot(),
                voices: vec![
                    SnapshotVoice {
                        learner: NodeId(1),
                        signature: Signature([0x89; 64]),
                    },
                    SnapshotVoice {
                        learner: NodeId(2),
                        signature: Signature([0x8a; 64]),
                    },
                ],
            }),
        ),
        ("ask_snapshot", Message::AskSnapshot { above: decree }),
        (
            "fetch_chunk",
            Message::FetchChunk {
                decree,
                place: 0x0708,
            },
        ),
        (
            "chunk",
            Message::Chunk {
                decree,
                place: 0x0708,
                bytes: Body::from_static(b"a chunk"),
            },
        ),
        ("recall", Message::Recall),
        (
            "recalled",
            Message::Recalled(Box::new(Recalled {
                regency,
                proof: proof(),
                voted: Regency(0x0102_0304_0506_070a),
                support: proof().votes,
                low: Some(certificate()),
            })),
        ),
        (
            "recalled.nothing",
            Message::Recalled(Box::new(Recalled {
                regency: Regency(0),
                proof: ProofOfLeadership::default(),
                voted: Regency(0),
                support: Vec::new(),
                low: None,
            })),
        ),
    ]
}

fn snapshot() -> Snapshot {
    Snapshot {
        decree: Decree(0x0b0c),
        chain: digest(0x90),
        results: digest(0x91),
        root: digest(0x92),
    }
}

/// An Open and an operation.
fn names() -> Vec<u8> {
    let mut names = Vec::new();
    RequestNames::write(SessionId::NONE, Seq(0x0708), &mut names);
    let session = SessionId {
        decree: Decree(0x0a0b),
        index: 0x0c0d,
    };
    RequestNames::write(session, Seq(0x0e0f), &mut names);
    names
}

/// One entry of each outcome.
fn reply_bytes() -> Vec<u8> {
    let outcomes = [
        Outcome::Executed(b"a reply"),
        Outcome::ExecutedDigest(digest(0x50)),
        Outcome::Opened(SessionId {
            decree: Decree(77),
            index: 5,
        }),
        Outcome::Stale,
        Outcome::TooFar,
        Outcome::SeqReused,
        Outcome::SessionLapsed,
        Outcome::ExecutedReplyGone,
    ];
    let session = SessionId {
        decree: Decree(0x11),
        index: 0x12,
    };
    let entry = |(seq, outcome)| Reply {
        session,
        seq: Seq(seq),
        decree: Decree(0x13),
        outcome,
    };
    let mut replies: Vec<_> = (1..).zip(outcomes).map(entry).collect();
    // Far from the ones before in everything.
    replies.push(Reply {
        session: SessionId {
            decree: Decree(0x1234),
            index: u32::MAX,
        },
        seq: Seq(u64::MAX),
        decree: Decree(0x5678),
        outcome: Outcome::Executed(b""),
    });
    let mut bytes = Vec::new();
    write_replies(replies, &mut bytes);
    bytes
}

fn checkpoint() -> Checkpoint {
    Checkpoint {
        decree: Decree(256),
        chain: digest(0x10),
        results: digest(0x20),
    }
}

fn certificate() -> Certificate {
    let voice = |learner: u16, mark: u8| Voice {
        learner: NodeId(learner),
        results: digest(mark),
        signature: Signature([mark; 64]),
    };
    Certificate {
        decree: Decree(128),
        chain: digest(0x11),
        voices: vec![voice(0, 0x21), voice(1, 0x22), voice(3, 0x23)],
    }
}

fn report() -> Report {
    let vote = |decree: u64, psn: u64, mark: u8| ReportedVote {
        decree: Decree(decree),
        psn: Regency(psn),
        value: Value(digest(mark)),
    };
    Report {
        regency: Regency(9),
        low: Some(certificate()),
        votes: vec![vote(129, 8, 0x31), vote(131, 7, 0x32)],
    }
}

fn proof() -> ProofOfLeadership {
    ProofOfLeadership {
        votes: vec![vote(0, 9, 0x62), vote(1, 10, 0x63), vote(3, 9, 0x64)],
    }
}

fn vote(signer: u16, regency: u64, mark: u8) -> Signed<RegencyVote> {
    signed(
        signer,
        RegencyVote {
            regency: Regency(regency),
        },
        mark,
    )
}

fn signed<T>(signer: u16, content: T, mark: u8) -> Signed<T> {
    Signed {
        signer: Party::Node(NodeId(signer)),
        content,
        signature: Signature([mark; 64]),
    }
}

/// 32 bytes that count up from `mark`, so that a reversed or shifted digest shows.
fn digest(mark: u8) -> Digest {
    Digest(std::array::from_fn(|place| {
        mark.wrapping_add(u8::try_from(place).expect("32 places"))
    }))
}

/// One bundle of two operations, tagged, signed and bare: the same content each time.
fn bundles(scope: &Scope) -> [Vec<u8>; 3] {
    let mut writer = BundleWriter::new(ClientId([0xc1; 16]));
    let write = |writer: &mut BundleWriter| {
        writer.clear();
        for (seq, operation) in [(Seq(1), b"set a 1".as_slice()), (Seq(2), b"")] {
            let session = SessionId {
                decree: Decree(5),
                index: 2,
            };
            assert!(writer.push(&Request {
                kind: RequestKind::Operation,
                session,
                seq,
                operation
            }));
        }
    };
    let keys = [
        MacKey::from_bytes([0xa1; 32]),
        MacKey::from_bytes([0xa2; 32]),
    ];
    write(&mut writer);
    let tagged = writer.finish_mac(scope, &keys).to_vec();
    write(&mut writer);
    let signed = writer
        .finish_signed(scope, Identity::from_seed([2; 32]).signing())
        .to_vec();
    write(&mut writer);
    let bare = writer.finish_bare(scope).to_vec();
    [tagged, signed, bare]
}

#[test]
fn all_forms_of_a_bundle_have_one_digest_and_one_value() {
    // What PROTOCOL.md section 5.1 needs to put the signed form in the place of the tagged one.
    let scope = configuration().scope();
    let limits = Limits::default();
    let parsed = bundles(&scope)
        .map(|bytes| Bundle::parse(Body::from_vec(bytes), &scope, &limits).expect("well-formed"));
    let values = parsed.clone().map(|bundle| {
        let batch = Batch::assemble(&Pool::default(), &scope, &mut [bundle].into(), 1 << 20);
        let read = Batch::parse::<Malformed>(batch.body().clone(), &scope, &limits, |_, _| Ok(()))
            .expect("well-formed");
        assert_eq!(read.value(), batch.value());
        batch.value()
    });
    assert_eq!(parsed[0].digest(), parsed[1].digest());
    assert_eq!(parsed[0].digest(), parsed[2].digest());
    assert_eq!(values, [values[0]; 3]);
    assert_ne!(
        values[0].0,
        scope.digest(Context::Value, b""),
        "a NOOP is another value"
    );
}

fn members(count: u8, roles: impl Fn(u8) -> Roles) -> Vec<Member> {
    (0..count)
        .map(|node| Member {
            roles: roles(node),
            public: Identity::from_seed([node + 1; 32]).public(),
        })
        .collect()
}

fn configuration() -> Configuration {
    let members = members(6, |node| {
        if node < 4 {
            Roles::ALL
        } else {
            Roles::ACCEPTOR
        }
    });
    Configuration::new(
        FaultModel::Fab,
        1,
        members,
        Limits::default(),
        Admission::Mac,
        [9; 16],
    )
    .expect("consistent")
}

fn crash_configuration() -> Configuration {
    let members = members(3, |_| Roles::ALL);
    Configuration::new(
        FaultModel::Crash,
        1,
        members,
        Limits::default(),
        Admission::Link,
        [9; 16],
    )
    .expect("consistent")
}
