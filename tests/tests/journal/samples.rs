//! A small journal with a record of every kind.

use std::sync::Arc;

use twostep_crypto::{Identity, MacKey, Party, Signature, Signed};
use twostep_engine::batch::{Batch, BundleWriter, Malformed, Request, RequestKind};
use twostep_engine::configuration::{Admission, Configuration, Limits, Member, Roles};
use twostep_engine::journal::appender::Appender;
use twostep_engine::journal::folder::Folder;
use twostep_engine::journal::memory::MemoryFolder;
use twostep_engine::journal::record::Reading;
use twostep_engine::journal::{Journal, JournalError, Shape};
use twostep_engine::message::{
    Certificate, Checkpoint, CheckpointClaim, NewRegency, ProofOfLeadership, RegencyVote, Report,
    ReportedVote, Voice,
};
use twostep_engine::quorum::FaultModel;
use twostep_engine::record::OwnedRecord;
use twostep_engine::types::{ClientId, Decree, Digest, NodeId, Regency, Seq, SessionId, Value};
use twostep_net::pool::{Body, Pool};

/// Segments of a test: small, so that every byte can be damaged in turn. Bytes.
pub const SEGMENT_BYTES: u64 = 16 << 10;

pub fn configuration() -> Configuration {
    let members = (0..6).map(|node| Member {
        roles: if node < 4 {
            Roles::ALL
        } else {
            Roles::ACCEPTOR
        },
        public: Identity::from_seed([node; 32]).public(),
    });
    let limits = Limits {
        window: 8,
        checkpoint_every: 4,
        snapshot_every: 16,
        body_bytes_max: 4096,
        request_bytes_max: 512,
        reply_bytes_max: 512,
        decree_reply_bytes_max: 4096,
        ..Limits::default()
    };
    Configuration::new(
        FaultModel::Fab,
        1,
        members.collect(),
        limits,
        Admission::Mac,
        [0; 16],
    )
    .expect("a consistent configuration")
}

pub fn shape() -> Shape {
    let mut shape = Shape::of(&configuration(), NodeId(2));
    shape.first_segment_bytes = SEGMENT_BYTES;
    shape.segment_bytes_max = SEGMENT_BYTES;
    shape
}

pub fn reading() -> Reading {
    Reading::new(&configuration(), Pool::default())
}

/// A batch of one bundle with one operation.
pub fn batch(number: u64, operation: &[u8]) -> Batch {
    let configuration = configuration();
    let scope = configuration.scope();
    let mut writer = BundleWriter::new(ClientId([7; 16]));
    let pushed = writer.push(&Request {
        kind: RequestKind::Operation,
        session: SessionId {
            decree: Decree(1),
            index: 0,
        },
        seq: Seq(number),
        operation,
    });
    assert!(pushed, "it fits");
    let keys = [1; 6].map(|byte| MacKey::from_bytes([byte; 32]));
    let mut body = 1_u32.to_le_bytes().to_vec();
    body.extend_from_slice(writer.finish_mac(&scope, &keys));
    Batch::parse(
        Body::from_vec(body),
        &scope,
        configuration.limits(),
        |_, _| Ok::<(), Malformed>(()),
    )
    .expect("a well-formed body")
}

pub fn signed<T>(node: u16, content: T) -> Signed<T> {
    Signed {
        signer: Party::Node(NodeId(node)),
        content,
        signature: Signature([7; 64]),
    }
}

pub fn certificate(decree: u64) -> Certificate {
    let voice = |learner| Voice {
        learner: NodeId(learner),
        results: Digest([2; 32]),
        signature: Signature([9; 64]),
    };
    Certificate {
        decree: Decree(decree),
        chain: Digest([1; 32]),
        voices: (0..3).map(voice).collect(),
    }
}

pub fn vote(regency: u64, decree: u64, batch: &Batch) -> OwnedRecord {
    OwnedRecord::Vote {
        regency: Regency(regency),
        decree: Decree(decree),
        batch: batch.clone(),
    }
}

/// One record of every kind and some more; bodies are shared as in a running node.
pub fn records() -> Vec<OwnedRecord> {
    let regency = Regency(5);
    let proof = ProofOfLeadership {
        votes: (0..3)
            .map(|node| signed(node, RegencyVote { regency }))
            .collect(),
    };
    let report = |node| {
        let vote = ReportedVote {
            decree: Decree(10),
            psn: Regency(2),
            value: Value(Digest([4; 32])),
        };
        signed(
            node,
            Report {
                regency,
                low: Some(certificate(8)),
                votes: vec![vote],
            },
        )
    };
    let claim = CheckpointClaim {
        checkpoint: Checkpoint {
            decree: Decree(12),
            chain: Digest([1; 32]),
            results: Digest([2; 32]),
        },
        learner: NodeId(2),
        signature: Signature([8; 64]),
    };
    let (one, two) = (batch(1, b"first operation"), batch(2, b"second"));
    let proposal = |decree, batch: &Batch| OwnedRecord::Proposal {
        regency,
        decree: Decree(decree),
        batch: batch.clone(),
    };
    let learned = |decree, batch: &Batch| OwnedRecord::Learned {
        decree: Decree(decree),
        batch: batch.clone(),
    };
    vec![
        OwnedRecord::RegencyVote(signed(2, RegencyVote { regency })),
        OwnedRecord::Promise {
            proof: proof.clone(),
            report: Box::new(report(2)),
        },
        OwnedRecord::Entered {
            regency,
            proof: proof.clone(),
        },
        OwnedRecord::NewRegency(Box::new(NewRegency {
            regency,
            proof: proof.clone(),
            voucher: (0..5).map(report).collect(),
        })),
        OwnedRecord::Lead(regency),
        proposal(9, &one),
        vote(5, 9, &one),
        learned(9, &one),
        vote(5, 10, &two),
        OwnedRecord::Low(certificate(8)),
        vote(6, 10, &one),
        learned(10, &two),
        OwnedRecord::Checkpoint(claim),
        OwnedRecord::Rejoined { regency, proof },
    ]
}

/// Opens the journal of a folder.
pub fn open(folder: &Arc<MemoryFolder>) -> Result<Option<Journal>, JournalError> {
    Journal::open(Arc::<MemoryFolder>::clone(folder), shape())
}

/// What the journal of a folder gives back.
pub fn read(folder: &Arc<MemoryFolder>) -> Result<Vec<OwnedRecord>, JournalError> {
    let journal = open(folder)?.expect("there is a journal");
    journal.records(reading()).collect()
}

/// A new journal.
pub fn create(folder: &Arc<MemoryFolder>) -> Appender {
    let folder: Arc<dyn Folder> = Arc::<MemoryFolder>::clone(folder);
    let journal = Journal::create(folder, shape(), true).expect("a new folder");
    journal.into_appender().0
}

/// Stores records as one group, durable when this returns.
pub fn store(appender: &mut Appender, records: &[OwnedRecord]) {
    for record in records {
        if appender.append(&record.borrowed()).is_err() {
            appender.commit().expect("memory takes everything");
            let next = appender.make_next().expect("memory takes everything");
            appender.turn_over(next);
            appender
                .append(&record.borrowed())
                .expect("a new segment has room");
        }
    }
    appender.commit().expect("memory takes everything");
}
