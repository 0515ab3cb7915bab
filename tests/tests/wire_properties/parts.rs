//! Messages of every kind, drawn at random.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::subsequence;
use twostep_crypto::{Party, Signature, Signed};
use twostep_engine::message::{
    Certificate, Checkpoint, CheckpointClaim, Message, NAME_BYTES, NewRegency, ProofOfLeadership,
    Recalled, RegencyVote, ReplyEntries, Report, ReportedVote, RequestNames, Snapshot,
    SnapshotCertificate, SnapshotClaim, SnapshotVoice, Status, Values, Voice,
};
use twostep_engine::tracking::TRACKED_MAX;
use twostep_engine::types::{ClientId, Decree, Digest, NodeId, Regency, Value};
use twostep_net::pool::Body;

use crate::replies::{entries_of, reply};
use crate::{BOUNDS, KINDS};

/// What any message can be made of.
#[derive(Clone, Debug)]
pub struct Parts {
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
    pub fn message(&self, kind: usize) -> Message<'_> {
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

pub fn parts() -> impl Strategy<Value = Parts> {
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
pub fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..300u64, any::<u64>(), Just(u64::MAX)]
}

pub fn digest() -> impl Strategy<Value = Digest> {
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
pub fn nodes(max: usize) -> BoxedStrategy<Vec<NodeId>> {
    let all: Vec<NodeId> = (0..12).chain([u16::MAX]).map(NodeId).collect();
    if max == 1 {
        subsequence(all, 1).boxed()
    } else {
        subsequence(all, 0..=max).boxed()
    }
}

pub fn claim() -> impl Strategy<Value = CheckpointClaim> {
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

pub fn certificate() -> impl Strategy<Value = Certificate> {
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

pub fn proof() -> impl Strategy<Value = ProofOfLeadership> {
    regency_vote(nodes(BOUNDS.proposers)).prop_map(|votes| ProofOfLeadership { votes })
}

pub fn report() -> impl Strategy<Value = Report> {
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
