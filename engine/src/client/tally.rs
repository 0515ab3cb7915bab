//! What the learners say about one call, counted.
//!
//! Each learner has one voice per call, its latest; equal voices stand behind one candidate, and the candidate that
//! enough distinct learners stand behind wins (PROTOCOL.md section 5.2). A candidate without a voice is
//! dropped, so there are never more of them than learners.
//!
//! - Executed: equal decree and equal reply. A digest counts for the reply that it is the digest of; somebody must
//!   have sent that reply in full, and it does not matter who.
//! - Refused: equal reason, at any decree: a retried request is ordered more than once, and each time refused anew.
//! - A learner that once said "executed" keeps that voice: executed is for ever, while a copy of the request that is
//!   ordered after the session was dropped is refused as a matter of course.

use twostep_crypto::Scope;

use super::Rejection;
use crate::message::{Outcome, Reply, reply_digest};
use crate::types::{Decree, Digest, NodeId, NodeSet, SessionId};

/// Buffers above this size are given back when a call ends; smaller ones are kept for the next. Bytes.
pub(super) const KEPT_BYTES_MAX: usize = 8192;

/// What a learner can say about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Executed; the reply stands in the candidate.
    Executed,
    /// Executed, but the reply is not kept any more.
    ReplyGone,
    /// The session that an Open made.
    Opened(SessionId),
    /// Ordered and refused.
    Refused(Rejection),
}

/// A verdict and who stands behind it.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) verdict: Verdict,
    pub(super) decree: Decree,
    /// The reply, if `full`.
    pub(super) reply: Vec<u8>,
    full: bool,
    /// The digest of the reply, as soon as it was needed.
    digest: Option<Digest>,
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
        self.live = 0;
        // More than one candidate is a liar's work or a race; one buffer is enough to keep.
        self.candidates.truncate(1);
        if let Some(first) = self.candidates.first_mut() {
            first.reply.clear();
            first.reply.shrink_to(KEPT_BYTES_MAX);
        }
    }

    /// Hears one learner; the candidate that now has `quorum` voices, if there is one.
    pub(super) fn hear(
        &mut self,
        scope: &Scope,
        quorum: usize,
        from: NodeId,
        reply: &Reply<'_>,
    ) -> Option<&Candidate> {
        let verdict = Verdict::of(&reply.outcome);
        let refused = matches!(verdict, Verdict::Refused(_));
        let live = &mut self.candidates[..self.live];
        let before = live
            .iter()
            .position(|candidate| candidate.voices.contains(from));
        if let Some(before) = before
            && refused
            && !matches!(live[before].verdict, Verdict::Refused(_))
        {
            return None;
        }
        let found = live
            .iter_mut()
            .position(|candidate| candidate.agrees(scope, verdict, reply));
        let place = found.unwrap_or_else(|| self.begin(verdict, reply));
        self.candidates[place].voices.insert(from);
        let place = match before {
            Some(before) if before != place => self.withdraw(before, from, place),
            _ => place,
        };
        let candidate = &self.candidates[place];
        let known = candidate.full || candidate.verdict != Verdict::Executed;
        (known && candidate.voices.len() >= quorum).then_some(candidate)
    }

    /// A new candidate without voices, in a buffer that an earlier one left behind if possible.
    fn begin(&mut self, verdict: Verdict, reply: &Reply<'_>) -> usize {
        let place = self.live;
        if place == self.candidates.len() {
            self.candidates.push(Candidate {
                verdict,
                decree: reply.decree,
                reply: Vec::new(),
                full: false,
                digest: None,
                voices: NodeSet::EMPTY,
            });
        }
        self.live += 1;
        let candidate = &mut self.candidates[place];
        candidate.verdict = verdict;
        candidate.decree = reply.decree;
        candidate.voices = NodeSet::EMPTY;
        candidate.reply.clear();
        candidate.full = false;
        candidate.digest = None;
        match reply.outcome {
            Outcome::Executed(bytes) => candidate.fill(bytes),
            Outcome::ExecutedDigest(digest) => candidate.digest = Some(digest),
            _ => {}
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
    /// Whether `reply` says the same; a full reply is taken over if only its digest was known.
    fn agrees(&mut self, scope: &Scope, verdict: Verdict, reply: &Reply<'_>) -> bool {
        if self.verdict != verdict {
            return false;
        }
        if matches!(verdict, Verdict::Refused(_)) {
            return true;
        }
        if self.decree != reply.decree {
            return false;
        }
        match reply.outcome {
            Outcome::Executed(bytes) if self.full => self.reply == bytes,
            Outcome::Executed(bytes) => {
                let same = self.digest == Some(reply_digest(scope, bytes));
                if same {
                    self.fill(bytes);
                }
                same
            }
            Outcome::ExecutedDigest(digest) => {
                let own = *self
                    .digest
                    .get_or_insert_with(|| reply_digest(scope, &self.reply));
                own == digest
            }
            _ => true,
        }
    }

    fn fill(&mut self, bytes: &[u8]) {
        self.reply.clear();
        self.reply.extend_from_slice(bytes);
        self.full = true;
    }
}

impl Verdict {
    fn of(outcome: &Outcome<'_>) -> Verdict {
        match outcome {
            Outcome::Executed(_) | Outcome::ExecutedDigest(_) => Verdict::Executed,
            Outcome::ExecutedReplyGone => Verdict::ReplyGone,
            Outcome::Opened(session) => Verdict::Opened(*session),
            Outcome::Stale => Verdict::Refused(Rejection::Stale),
            Outcome::TooFar => Verdict::Refused(Rejection::TooFar),
            Outcome::SeqReused => Verdict::Refused(Rejection::SeqReused),
            Outcome::SessionLapsed => Verdict::Refused(Rejection::SessionLapsed),
        }
    }
}

#[cfg(test)]
mod tests {
    use twostep_crypto::{ClusterId, Epoch};

    use super::*;
    use crate::types::Seq;

    const QUORUM: usize = 2;

    struct Ballot {
        scope: Scope,
        tally: Tally,
    }

    impl Ballot {
        fn new() -> Ballot {
            Ballot {
                scope: Scope::new(ClusterId([7; 32]), Epoch(0)),
                tally: Tally::default(),
            }
        }

        /// The verdict that wins when this learner says this, with the reply.
        fn hear(
            &mut self,
            from: u16,
            decree: u64,
            outcome: Outcome<'_>,
        ) -> Option<(Verdict, Vec<u8>)> {
            let reply = Reply {
                session: SessionId::NONE,
                seq: Seq(1),
                decree: Decree(decree),
                outcome,
            };
            let winner = self.tally.hear(&self.scope, QUORUM, NodeId(from), &reply)?;
            Some((winner.verdict, winner.reply.clone()))
        }
    }

    #[test]
    fn equal_words_of_distinct_learners_win() {
        let mut ballot = Ballot::new();
        assert_eq!(ballot.hear(0, 5, Outcome::Executed(b"x")), None);
        assert_eq!(
            ballot.hear(0, 5, Outcome::Executed(b"x")),
            None,
            "the same learner twice is one voice"
        );
        assert_eq!(
            ballot.hear(1, 6, Outcome::Executed(b"x")),
            None,
            "another decree is another word"
        );
        assert_eq!(
            ballot.hear(2, 5, Outcome::Executed(b"y")),
            None,
            "another reply is another word"
        );
        assert_eq!(
            ballot.hear(3, 5, Outcome::Executed(b"x")),
            Some((Verdict::Executed, b"x".to_vec()))
        );
    }

    #[test]
    fn a_digest_counts_for_its_reply_in_any_order() {
        let digest = Outcome::ExecutedDigest(reply_digest(&Ballot::new().scope, b"x"));
        let won = Some((Verdict::Executed, b"x".to_vec()));
        let mut ballot = Ballot::new();
        assert_eq!(ballot.hear(0, 5, Outcome::Executed(b"x")), None);
        assert_eq!(ballot.hear(1, 5, digest), won);
        let mut ballot = Ballot::new();
        assert_eq!(ballot.hear(0, 5, digest), None);
        assert_eq!(
            ballot.hear(1, 5, digest),
            None,
            "nobody has said the reply yet"
        );
        assert_eq!(
            ballot.hear(2, 5, Outcome::Executed(b"y")),
            None,
            "this is not it"
        );
        assert_eq!(ballot.hear(1, 5, Outcome::Executed(b"x")), won);
    }

    #[test]
    fn a_learner_that_changes_its_word_takes_its_voice_along() {
        let mut ballot = Ballot::new();
        assert_eq!(ballot.hear(0, 5, Outcome::Executed(b"x")), None);
        assert_eq!(ballot.hear(0, 5, Outcome::Executed(b"y")), None);
        assert_eq!(
            ballot.hear(1, 5, Outcome::Executed(b"x")),
            None,
            "learner 0 does not say x any more"
        );
        assert_eq!(
            ballot.hear(2, 5, Outcome::Executed(b"y")),
            Some((Verdict::Executed, b"y".to_vec()))
        );
    }

    #[test]
    fn a_talkative_liar_takes_no_memory() {
        let mut ballot = Ballot::new();
        for decree in 0..1000 {
            assert_eq!(
                ballot.hear(3, decree, Outcome::Executed(&decree.to_le_bytes())),
                None
            );
        }
        assert_eq!(ballot.tally.live, 1);
        assert!(ballot.tally.candidates.len() <= 2);
        ballot.tally.reset();
        assert_eq!(
            ballot.hear(0, 999, Outcome::Executed(&999_u64.to_le_bytes())),
            None,
            "nothing is left of it"
        );
    }

    #[test]
    fn executed_is_for_ever() {
        let mut ballot = Ballot::new();
        assert_eq!(ballot.hear(0, 5, Outcome::Executed(b"x")), None);
        assert_eq!(ballot.hear(0, 9, Outcome::SessionLapsed), None);
        assert_eq!(
            ballot.hear(3, 9, Outcome::SessionLapsed),
            None,
            "learner 0 executed it: this is one voice"
        );
        assert_eq!(
            ballot.hear(1, 5, Outcome::Executed(b"x")),
            Some((Verdict::Executed, b"x".to_vec()))
        );
    }

    #[test]
    fn refusals_agree_across_decrees_and_not_across_reasons() {
        let mut ballot = Ballot::new();
        assert_eq!(ballot.hear(0, 5, Outcome::TooFar), None);
        assert_eq!(ballot.hear(1, 6, Outcome::Stale), None);
        let (verdict, _) = ballot.hear(2, 7, Outcome::TooFar).unwrap();
        assert_eq!(verdict, Verdict::Refused(Rejection::TooFar));
    }
}
