//! Lies of learners.

use twostep_crypto::Digest;
use twostep_engine::machine::To;
use twostep_engine::message::{CheckpointClaim, Message, ReplyEntries, Status, Values};
use twostep_engine::types::{Decree, Regency};

use super::Strategy;
use super::liar::Mouth;

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
                let mut bytes = entries.bytes().to_vec();
                if let Some(last) = bytes.last_mut() {
                    *last ^= 1;
                }
                let lie = Message::Replies {
                    regency: Regency(u64::MAX),
                    entries: ReplyEntries::new(&bytes),
                };
                mouth.lie_to(to, &lie);
                true
            }
            _ => false,
        }
    }
}
