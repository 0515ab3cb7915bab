//! What the learners say about one call that was retried, counted.
//!
//! Each learner has one voice per call, its latest; equal voices stand behind one candidate, and the candidate that
//! enough distinct learners stand behind wins (PROTOCOL.md section 5.2). A candidate without a voice is
//! dropped, so there are never more of them than learners.
//!
//! Equal are an equal decree and an equal reply. A learner that finds nothing says nothing, so nothing is refused here: what the
//! copy that a retry sends becomes is said of its decree.

use crate::message::{Outcome, Reply};
use crate::types::{Decree, NodeId, NodeSet, SessionId};

/// Buffers above this size are given back when a call ends; smaller ones are kept for the next. Bytes.
pub(super) const KEPT_BYTES_MAX: usize = 8192;

/// What a learner can say about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Executed; the reply stands in the candidate.
    Executed,
    /// Executed, but the reply is not kept any more.
    ReplyGone,
    /// The session that an Open made.
    Opened(SessionId),
}

/// A verdict and who stands behind it.
#[derive(Debug)]
struct Candidate {
    verdict: Verdict,
    decree: Decree,
    /// Empty unless executed.
    reply: Vec<u8>,
    voices: NodeSet,
}

/// The candidates of one call. Keeps its buffers from call to call.
#[derive(Debug, Default)]
pub(super) struct Tally {
    candidates: Vec<Candidate>,
    /// How many of them, from the front, are in use.
    live: usize,
}

impl Tally {
    /// Ready for the next call.
    pub(super) fn reset(&mut self) {
        if self.live == 0 {
            return;
        }
        self.live = 0;
        // More than one candidate is a liar's work or a race; one buffer is enough to keep.
        self.candidates.truncate(1);
        if let Some(first) = self.candidates.first_mut() {
            first.reply.clear();
            first.reply.shrink_to(KEPT_BYTES_MAX);
        }
    }

    /// Hears one learner; whether `quorum` of them say the same now.
    pub(super) fn hear(&mut self, quorum: usize, from: NodeId, reply: &Reply<'_>) -> bool {
        let Some(verdict) = Verdict::of(&reply.outcome) else {
            return false;
        };
        let live = &mut self.candidates[..self.live];
        let before = live
            .iter()
            .position(|candidate| candidate.voices.contains(from));
        let found = live
            .iter()
            .position(|candidate| candidate.agrees(verdict, reply));
        let place = found.unwrap_or_else(|| self.begin(verdict, reply));
        self.candidates[place].voices.insert(from);
        let place = match before {
            Some(before) if before != place => self.withdraw(before, from, place),
            _ => place,
        };
        self.candidates[place].voices.len() >= quorum
    }

    /// Who found it.
    pub(super) fn found_by(&self) -> NodeSet {
        let live = self.candidates[..self.live].iter();
        live.fold(NodeSet::EMPTY, |all, one| all.union(one.voices))
    }

    /// A new candidate without voices, in a buffer that an earlier one left behind if possible.
    fn begin(&mut self, verdict: Verdict, reply: &Reply<'_>) -> usize {
        let place = self.live;
        if place == self.candidates.len() {
            self.candidates.push(Candidate {
                verdict,
                decree: reply.decree,
                reply: Vec::new(),
                voices: NodeSet::EMPTY,
            });
        }
        self.live += 1;
        let candidate = &mut self.candidates[place];
        candidate.verdict = verdict;
        candidate.decree = reply.decree;
        candidate.voices = NodeSet::EMPTY;
        candidate.reply.clear();
        if let Outcome::Executed(bytes) = reply.outcome {
            candidate.reply.extend_from_slice(bytes);
        }
        place
    }

    /// Takes `from`'s voice from the candidate `before` and drops that one if it was its last; says where `place` is then.
    fn withdraw(&mut self, before: usize, from: NodeId, place: usize) -> usize {
        self.candidates[before].voices.remove(from);
        if !self.candidates[before].voices.is_empty() {
            return place;
        }
        self.live -= 1;
        self.candidates.swap(before, self.live);
        if place == self.live { before } else { place }
    }
}

impl Candidate {
    /// Whether `reply` says the same.
    fn agrees(&self, verdict: Verdict, reply: &Reply<'_>) -> bool {
        if self.verdict != verdict {
            return false;
        }
        let reply_agrees = match reply.outcome {
            Outcome::Executed(bytes) => self.reply == bytes,
            _ => true,
        };
        self.decree == reply.decree && reply_agrees
    }
}

impl Verdict {
    /// None for what nobody finds in a table of what was executed.
    fn of(outcome: &Outcome<'_>) -> Option<Verdict> {
        Some(match outcome {
            Outcome::Executed(_) => Verdict::Executed,
            Outcome::ExecutedReplyGone => Verdict::ReplyGone,
            Outcome::Opened(session) => Verdict::Opened(*session),
            Outcome::ExecutedDigest(_)
            | Outcome::Stale
            | Outcome::TooFar
            | Outcome::SeqReused
            | Outcome::SessionLapsed => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Seq;

    const QUORUM: usize = 2;

    #[derive(Default)]
    struct Ballot {
        tally: Tally,
    }

    impl Ballot {
        /// Whether this is said by enough learners now.
        fn hear(&mut self, from: u16, decree: u64, outcome: Outcome<'_>) -> bool {
            let reply = Reply {
                session: SessionId::NONE,
                seq: Seq(1),
                decree: Decree(decree),
                outcome,
            };
            self.tally.hear(QUORUM, NodeId(from), &reply)
        }
    }

    #[test]
    fn equal_words_of_distinct_learners_win() {
        let mut ballot = Ballot::default();
        assert!(!ballot.hear(0, 5, Outcome::Executed(b"x")));
        assert!(
            !ballot.hear(0, 5, Outcome::Executed(b"x")),
            "the same learner twice is one voice"
        );
        assert!(
            !ballot.hear(1, 6, Outcome::Executed(b"x")),
            "another decree is another word"
        );
        assert!(
            !ballot.hear(2, 5, Outcome::Executed(b"y")),
            "another reply is another word"
        );
        assert!(ballot.hear(3, 5, Outcome::Executed(b"x")));
    }

    #[test]
    fn a_learner_that_changes_its_word_takes_its_voice_along() {
        let mut ballot = Ballot::default();
        assert!(!ballot.hear(0, 5, Outcome::Executed(b"x")));
        assert!(!ballot.hear(0, 5, Outcome::Executed(b"y")));
        assert!(
            !ballot.hear(1, 5, Outcome::Executed(b"x")),
            "learner 0 does not say x any more"
        );
        assert!(ballot.hear(2, 5, Outcome::Executed(b"y")));
    }

    #[test]
    fn a_talkative_liar_takes_no_memory() {
        let mut ballot = Ballot::default();
        for decree in 0..1000 {
            assert!(!ballot.hear(3, decree, Outcome::Executed(&decree.to_le_bytes())));
        }
        assert_eq!(ballot.tally.live, 1);
        assert!(ballot.tally.candidates.len() <= 2);
        ballot.tally.reset();
        assert!(
            !ballot.hear(0, 999, Outcome::Executed(&999_u64.to_le_bytes())),
            "nothing is left of it"
        );
    }

    #[test]
    fn nobody_finds_a_refusal() {
        let mut ballot = Ballot::default();
        for learner in 0..4 {
            assert!(!ballot.hear(learner, 5, Outcome::SessionLapsed));
        }
        assert!(ballot.tally.found_by().is_empty());
        assert!(!ballot.hear(2, 5, Outcome::ExecutedReplyGone));
        assert!(ballot.tally.found_by().contains(NodeId(2)));
    }
}
