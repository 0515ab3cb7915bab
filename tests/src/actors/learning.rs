//! Lies of learners.

use twostep_crypto::Digest;
use twostep_engine::machine::To;
use twostep_engine::message::{
    CheckpointClaim, Message, Outcome, Reply, ReplyEntries, Snapshot, SnapshotCertificate,
    SnapshotClaim, SnapshotVoice, Status, Values,
};
use twostep_engine::types::{Decree, Regency, SessionId, Time};
use twostep_engine::wire::write_replies;
use twostep_net::pool::Body;

use super::liar::Mouth;
use super::{Every, Strategy};

/// Replies to the same requests that say something else.
#[must_use]
pub fn other_replies(entries: ReplyEntries<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut told = Vec::new();
    for reply in entries.iter().flatten() {
        let mut other = Vec::new();
        if let Outcome::Executed(result) = reply.outcome {
            other.extend_from_slice(result);
            match other.last_mut() {
                Some(last) => *last ^= 1,
                None => other.push(1),
            }
        }
        told.push((reply, other));
    }
    let lies = told.iter().map(|(reply, other)| Reply {
        outcome: match reply.outcome {
            Outcome::Executed(_) => Outcome::Executed(other),
            Outcome::Opened(session) => Outcome::Opened(SessionId {
                index: session.index ^ 1,
                ..session
            }),
            Outcome::TooFar => Outcome::Stale,
            _ => Outcome::TooFar,
        },
        ..*reply
    });
    write_replies(lies, &mut bytes);
    bytes
}

/// Lies to other learners, to the leader and to clients.
pub struct LyingLearner;

impl Strategy for LyingLearner {
    fn say(&mut self, to: To, message: &Message<'_>, mouth: &mut Mouth<'_>) -> bool {
        if !mouth.random.chance(700) {
            return false;
        }
        let window = mouth.means.configuration.limits().window;
        let far = *mouth.random.pick(&[1, window, u64::MAX]);
        match message {
            Message::Pulled { first, values } => {
                let mut bytes = values.bytes().to_vec();
                for byte in bytes.iter_mut().step_by(32) {
                    *byte ^= 1;
                }
                if let Some(values) = Values::new(&bytes) {
                    let first = *first;
                    mouth.lie_to(to, &Message::Pulled { first, values });
                }
                true
            }
            Message::Ack { learned } => {
                let learned = Decree(learned.0.saturating_add(far));
                mouth.lie_to(to, &Message::Ack { learned });
                true
            }
            Message::Checkpoint(claim) => {
                let mut checkpoint = claim.checkpoint;
                match mouth.random.below(3) {
                    0 => checkpoint.chain = Digest([7; 32]),
                    1 => checkpoint.results = Digest([7; 32]),
                    _ => {
                        let every = mouth.means.configuration.limits().checkpoint_every;
                        checkpoint.decree = Decree(checkpoint.decree.0 + every);
                    }
                }
                let signed = mouth.means.sign(checkpoint);
                let claim = CheckpointClaim {
                    checkpoint,
                    learner: mouth.means.me,
                    signature: signed.signature,
                };
                mouth.lie_to(to, &Message::Checkpoint(claim));
                true
            }
            Message::Status(status) => {
                let status = Status {
                    low: Decree(status.low.0.saturating_add(far)),
                    learned: Decree(status.learned.0.saturating_add(far)),
                    plan_held: true,
                    regency: status.regency,
                    abstaining: false,
                };
                mouth.lie_to(to, &Message::Status(status));
                true
            }
            Message::Fetched {
                decree,
                value,
                body,
            } => {
                let other = mouth.means.variant(body, 0);
                let lie = Message::Fetched {
                    decree: *decree,
                    value: *value,
                    body: other.body().clone(),
                };
                mouth.lie_to(to, &lie);
                true
            }
            Message::Replies { entries, .. } => {
                let (regency, bytes) = (Regency(u64::MAX), other_replies(*entries));
                let entries = ReplyEntries::new(&bytes);
                mouth.lie_to(to, &Message::Replies { regency, entries });
                true
            }
            Message::RepliesDigest { digest, .. } => {
                let (regency, mut digest) = (Regency(u64::MAX), *digest);
                digest.0[0] ^= 1;
                mouth.lie_to(to, &Message::RepliesDigest { regency, digest });
                true
            }
            Message::Found { entries, .. } => {
                let (regency, bytes) = (Regency(u64::MAX), other_replies(*entries));
                let entries = ReplyEntries::new(&bytes);
                mouth.lie_to(to, &Message::Found { regency, entries });
                true
            }
            _ => false,
        }
    }
}

/// Signs snapshots of states that never were, offers what nobody certified, and gives wrong chunks or none.
#[derive(Default)]
pub struct SnapshotLiar {
    next: Every,
}

impl Strategy for SnapshotLiar {
    fn say(&mut self, to: To, message: &Message<'_>, mouth: &mut Mouth<'_>) -> bool {
        match message {
            Message::Snapshot(claim) => {
                let mut snapshot = claim.snapshot;
                match mouth.random.below(3) {
                    0 => snapshot.root = Digest([7; 32]),
                    1 => snapshot.chain = Digest([7; 32]),
                    _ => snapshot.decree = Decree(snapshot.decree.0.saturating_mul(2)),
                }
                mouth.lie_to(to, &Message::Snapshot(claimed(snapshot, mouth)));
                true
            }
            Message::Chunk { .. } if mouth.random.chance(300) => {
                mouth.withhold(to);
                true
            }
            Message::Chunk {
                decree,
                place,
                bytes,
            } => {
                let mut wrong = bytes.to_vec();
                let at = mouth.random.below(wrong.len().max(1) as u64);
                if let Some(byte) = wrong.get_mut(usize::try_from(at).unwrap_or(0)) {
                    *byte ^= 1;
                }
                let lie = Message::Chunk {
                    decree: *decree,
                    place: *place,
                    bytes: Body::from_vec(wrong),
                };
                mouth.lie_to(to, &lie);
                true
            }
            _ => false,
        }
    }

    fn tick(&mut self, mouth: &mut Mouth<'_>) {
        if !self.next.due(mouth.now, mouth.means.t0) {
            return;
        }
        // Its own signature, and again in the name of another learner.
        let every = mouth.means.configuration.limits().snapshot_every;
        let snapshot = Snapshot {
            decree: Decree(every * mouth.random.between(1, 1000)),
            chain: Digest([7; 32]),
            results: Digest([7; 32]),
            root: Digest([7; 32]),
        };
        let own = SnapshotVoice::of(&claimed(snapshot, mouth));
        let learners = mouth.means.configuration.learners();
        let voices = learners.iter().take(mouth.means.configuration.f() + 1);
        let voices = voices.map(|learner| SnapshotVoice { learner, ..own });
        let certificate = SnapshotCertificate {
            snapshot,
            voices: voices.collect(),
        };
        mouth.lie(learners, &Message::SnapshotCertificate(certificate));
    }

    fn deadline(&self) -> Option<Time> {
        Some(self.next.0)
    }
}

fn claimed(snapshot: Snapshot, mouth: &Mouth<'_>) -> SnapshotClaim {
    SnapshotClaim {
        snapshot,
        learner: mouth.means.me,
        signature: mouth.means.sign(snapshot).signature,
    }
}
