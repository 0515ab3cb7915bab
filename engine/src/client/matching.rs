//! What the learners say that decrees made of this client's requests, matched as wholes.
//!
//! Learners that are correct say the same of the same decree, some of them in full and the others with its digest
//! ([`crate::message::Message::RepliesDigest`]). So one voice of each learner for each digest does, whatever the number of calls:
//! once f+1 learners stand behind a digest, a correct one does, and what has that digest is true (PROTOCOL.md section 5.2).
//!
//! *Refusals.* A leader that lies may order a request twice, and the second copy may be refused, since the session is gone by then. Whoever
//! has said of an earlier decree what is not agreed yet may have said that the first copy was executed: such a learner does
//! not count for a refusal ([`Matching::sure`]).
//!
//! *Bounds.* A liar may say a new digest with every message. So at most [`SAID_MAX`] digests are remembered of each learner, the oldest
//! are forgotten, and what is kept in full and is not agreed yet stays below a limit for each learner. What is forgotten costs a retry, and
//! the learner does not count for refusals any more.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};

use crate::types::{Digest, NodeId, NodeSet};

/// Of how many digests a learner can be heard at once. A decree is answered by one of them, or by several where it holds
/// others' requests in between, and learners may be a window of decrees apart.
const SAID_MAX: usize = 1024;
/// How many buffers are kept for reuse, and how large. Bytes.
const SPARE_MAX: usize = 16;
const SPARE_BYTES_MAX: usize = 1 << 16;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Matching {
    learners: NodeSet,
    quorum: usize,
    kept_bytes_max: usize,
    heard: BTreeMap<Digest, Heard>,
    /// By node.
    said: Vec<Said>,
    spare: Vec<Vec<u8>>,
}

/// What some learners said.
#[derive(Debug)]
struct Heard {
    voices: NodeSet,
    content: Content,
}

/// What enough learners say.
#[derive(Debug)]
pub(super) struct Agreed<'a> {
    /// What, in full.
    pub(super) content: Cow<'a, [u8]>,
    /// Who.
    pub(super) voices: NodeSet,
}

/// What has a digest.
#[derive(Debug)]
enum Content {
    /// Nobody has said it in full.
    Unknown,
    /// It counts for this learner, which stands behind it.
    Kept(NodeId, Vec<u8>),
    /// Agreed and used.
    Used,
}

/// What one learner said and not all others have, from the oldest on.
#[derive(Debug, Default)]
struct Said {
    digests: VecDeque<Digest>,
    kept_bytes: usize,
    /// Whether something that was not agreed is forgotten: nobody knows any more what it said.
    forgot: bool,
}

impl Matching {
    /// Nothing was heard. At most `kept_bytes_max` bytes are kept of each learner, or one message.
    pub(super) fn new(learners: NodeSet, quorum: usize, kept_bytes_max: usize) -> Matching {
        let nodes = learners
            .iter()
            .last()
            .map_or(0, |last| usize::from(last.0) + 1);
        Matching {
            learners,
            quorum,
            kept_bytes_max,
            heard: BTreeMap::new(),
            said: (0..nodes).map(|_| Said::default()).collect(),
            spare: Vec::new(),
        }
    }

    /// Hears one of the learners say what has this digest, in full or not; that, when it is agreed by this.
    pub(super) fn hear<'a>(
        &mut self,
        from: NodeId,
        digest: Digest,
        full: Option<&'a [u8]>,
    ) -> Option<Agreed<'a>> {
        let heard = self.heard.entry(digest).or_insert(Heard {
            voices: NodeSet::EMPTY,
            content: Content::Unknown,
        });
        let news = !heard.voices.contains(from);
        heard.voices.insert(from);
        let agreed = heard.voices.len() >= self.quorum;
        let everybody = heard.voices.len() == self.learners.len();
        let voices = heard.voices;
        let mut result = None;
        match (&mut heard.content, full) {
            (content @ Content::Unknown, Some(full)) if agreed => {
                *content = Content::Used;
                result = Some(Cow::Borrowed(full));
            }
            (content @ Content::Unknown, Some(full)) => {
                let mut kept = self.spare.pop().unwrap_or_default();
                kept.extend_from_slice(full);
                self.said[usize::from(from.0)].kept_bytes += kept.len();
                *content = Content::Kept(from, kept);
            }
            (content @ Content::Kept(..), _) if agreed => {
                if let Content::Kept(by, kept) = std::mem::replace(content, Content::Used) {
                    self.said[usize::from(by.0)].kept_bytes -= kept.len();
                    result = Some(Cow::Owned(kept));
                }
            }
            _ => {}
        }
        if everybody {
            self.forget(digest);
        } else if news {
            self.said[usize::from(from.0)].digests.push_back(digest);
        }
        self.keep_to_bounds(from);
        result.map(|content| Agreed { content, voices })
    }

    /// Those of `voices`, which stand behind `digest`, that said nothing before it which is not agreed.
    pub(super) fn sure(&self, voices: NodeSet, digest: Digest) -> NodeSet {
        let agreed = |digest: &Digest| {
            let heard = self.heard.get(digest);
            heard.is_none_or(|heard| matches!(heard.content, Content::Used))
        };
        let all_agreed = |node: &NodeId| {
            let said = &self.said[usize::from(node.0)];
            let mut before = said.digests.iter().take_while(|one| **one != digest);
            !said.forgot && before.all(agreed)
        };
        voices.iter().filter(all_agreed).collect()
    }

    /// Takes memory back that [`hear`](Self::hear) gave away.
    pub(super) fn give_back(&mut self, content: Cow<'_, [u8]>) {
        if let Cow::Owned(content) = content {
            self.reuse(content);
        }
    }

    /// All learners said it: nothing more comes of it.
    fn forget(&mut self, digest: Digest) {
        self.heard.remove(&digest);
        for said in &mut self.said {
            // Where it is not the oldest, it goes with those before it.
            said.digests.pop_front_if(|oldest| *oldest == digest);
        }
    }

    fn keep_to_bounds(&mut self, from: NodeId) {
        loop {
            let said = &mut self.said[usize::from(from.0)];
            let many = said.digests.len() > SAID_MAX;
            let much = said.kept_bytes > self.kept_bytes_max && said.digests.len() > 1;
            if !many && !much {
                return;
            }
            if let Some(oldest) = said.digests.pop_front() {
                self.withdraw(from, oldest);
            }
        }
    }

    /// A learner's voice for a digest does not count any more.
    fn withdraw(&mut self, from: NodeId, digest: Digest) {
        let Some(heard) = self.heard.get_mut(&digest) else {
            return;
        };
        self.said[usize::from(from.0)].forgot |= !matches!(heard.content, Content::Used);
        heard.voices.remove(from);
        let silent = heard.voices.is_empty();
        if let Content::Kept(by, kept) = &mut heard.content
            && *by == from
        {
            let (said, most) = (&mut self.said, self.kept_bytes_max);
            said[usize::from(from.0)].kept_bytes -= kept.len();
            let has_room =
                |node: &NodeId| said[usize::from(node.0)].kept_bytes + kept.len() <= most;
            if let Some(other) = heard.voices.iter().find(has_room) {
                said[usize::from(other.0)].kept_bytes += kept.len();
                *by = other;
            } else {
                let unused = std::mem::take(kept);
                heard.content = Content::Unknown;
                self.reuse(unused);
            }
        }
        if silent {
            self.heard.remove(&digest);
        }
    }

    fn reuse(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        buffer.shrink_to(SPARE_BYTES_MAX);
        if self.spare.len() < SPARE_MAX {
            self.spare.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: &[u8] = b"what became of it";

    fn matching() -> Matching {
        Matching::new((0..4).map(NodeId).collect(), 2, 1000)
    }

    fn digest(number: usize) -> Digest {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
        Digest(bytes)
    }

    /// What comes of it when this learner says what has the digest of this number.
    fn hear(
        matching: &mut Matching,
        from: u16,
        number: usize,
        full: Option<&[u8]>,
    ) -> Option<Vec<u8>> {
        let agreed = matching.hear(NodeId(from), digest(number), full)?;
        let bytes = agreed.content.to_vec();
        matching.give_back(agreed.content);
        Some(bytes)
    }

    #[test]
    fn two_learners_agree_in_any_form_if_one_says_it_in_full_and_once() {
        let forms = [
            (Some(CONTENT), None),
            (None, Some(CONTENT)),
            (Some(CONTENT), Some(CONTENT)),
        ];
        for (first, second) in forms {
            let mut matching = matching();
            assert_eq!(hear(&mut matching, 0, 1, first), None);
            assert_eq!(hear(&mut matching, 0, 1, first), None, "one voice");
            let agreed = hear(&mut matching, 2, 1, second);
            assert_eq!(agreed.as_deref(), Some(CONTENT));
            assert_eq!(hear(&mut matching, 1, 1, first), None, "it was used");
            assert_eq!(hear(&mut matching, 3, 1, None), None);
            assert!(matching.heard.is_empty(), "all have said it");
            assert!(matching.said.iter().all(|said| said.digests.is_empty()));
        }
    }

    #[test]
    fn digests_alone_agree_on_nothing_until_somebody_says_what_it_is() {
        let mut matching = matching();
        for learner in 0..3 {
            assert_eq!(hear(&mut matching, learner, 1, None), None);
        }
        assert_eq!(hear(&mut matching, 3, 2, Some(b"another one")), None);
        let agreed = hear(&mut matching, 2, 1, Some(CONTENT));
        assert_eq!(agreed.as_deref(), Some(CONTENT), "said twice, once in full");
    }

    #[test]
    fn a_talkative_liar_takes_no_memory_and_no_voices() {
        let mut matching = matching();
        assert_eq!(hear(&mut matching, 0, 0, Some(CONTENT)), None);
        for number in 1..10_000 {
            assert_eq!(hear(&mut matching, 3, number, Some(&[7; 300])), None);
            assert!(matching.said[3].kept_bytes <= 1000);
        }
        for number in 10_000..20_000 {
            assert_eq!(hear(&mut matching, 3, number, None), None);
        }
        assert!(matching.heard.len() <= SAID_MAX + 1);
        assert_eq!(matching.said[3].kept_bytes, 0);
        let agreed = hear(&mut matching, 1, 0, None);
        assert_eq!(agreed.as_deref(), Some(CONTENT));
    }

    #[test]
    fn who_said_before_what_is_not_agreed_is_not_sure() {
        let mut matching = matching();
        assert_eq!(
            hear(&mut matching, 0, 1, None),
            None,
            "something of its own"
        );
        assert_eq!(hear(&mut matching, 0, 2, Some(CONTENT)), None);
        assert!(hear(&mut matching, 3, 2, None).is_some());
        let voices = [0, 3].map(NodeId).into_iter().collect();
        let sure = |matching: &Matching| matching.sure(voices, digest(2)).iter().collect();
        let only_one: Vec<NodeId> = sure(&matching);
        assert_eq!(only_one, [NodeId(3)]);
        assert!(hear(&mut matching, 1, 1, Some(CONTENT)).is_some());
        let both: Vec<NodeId> = sure(&matching);
        assert_eq!(both.len(), 2, "what it said is true");
    }

    #[test]
    fn who_said_what_is_forgotten_is_not_sure_either() {
        let mut matching = matching();
        assert_eq!(hear(&mut matching, 0, 0, None), None);
        // All of these are agreed, but the first is beyond what is remembered.
        for number in 1..=SAID_MAX {
            assert_eq!(hear(&mut matching, 0, number, Some(CONTENT)), None);
            assert!(hear(&mut matching, 3, number, None).is_some());
        }
        let voices = [0, 3].map(NodeId).into_iter().collect();
        let sure: Vec<NodeId> = matching.sure(voices, digest(SAID_MAX)).iter().collect();
        assert_eq!(sure, [NodeId(3)]);
    }

    #[test]
    fn what_a_liar_was_the_first_to_say_is_kept_for_those_who_say_it_too() {
        let mut matching = Matching::new((0..4).map(NodeId).collect(), 3, 1000);
        assert_eq!(hear(&mut matching, 3, 0, Some(CONTENT)), None);
        assert_eq!(hear(&mut matching, 0, 0, Some(CONTENT)), None);
        for number in 1..=SAID_MAX {
            assert_eq!(hear(&mut matching, 3, number, None), None);
        }
        assert_eq!(hear(&mut matching, 1, 0, None), None);
        assert!(hear(&mut matching, 2, 0, None).is_some());
        assert!(matching.said.iter().all(|said| said.kept_bytes == 0));
    }

    #[test]
    fn what_is_said_in_full_after_its_digest_counts_too() {
        let mut matching = matching();
        for number in 0..100 {
            assert_eq!(hear(&mut matching, 3, number, None), None);
        }
        for number in 0..100 {
            assert_eq!(hear(&mut matching, 3, number, Some(&[7; 300])), None);
            assert!(matching.said[3].kept_bytes <= 1000);
        }
    }

    #[test]
    fn what_is_kept_for_others_stays_within_their_bounds() {
        let mut matching = Matching::new((0..4).map(NodeId).collect(), 4, 1000);
        for number in 0..200 {
            assert_eq!(hear(&mut matching, 2, number, None), None);
            assert_eq!(hear(&mut matching, 3, number, Some(&[7; 300])), None);
            assert!(matching.said.iter().all(|said| said.kept_bytes <= 1000));
        }
    }

    #[test]
    fn a_message_above_the_bound_is_kept_as_long_as_it_is_the_newest() {
        let mut matching = matching();
        let large = vec![7; 5000];
        assert_eq!(hear(&mut matching, 0, 1, Some(&large)), None);
        assert_eq!(hear(&mut matching, 1, 1, None), Some(large));
    }

    #[test]
    fn what_one_learner_never_says_is_forgotten_in_time() {
        let mut matching = matching();
        for number in 0..10 * SAID_MAX {
            assert_eq!(hear(&mut matching, 0, number, Some(CONTENT)), None);
            assert!(hear(&mut matching, 1, number, None).is_some());
            assert_eq!(hear(&mut matching, 2, number, None), None);
        }
        assert!(matching.heard.len() <= SAID_MAX);
        assert_eq!(matching.said[0].kept_bytes, 0);
    }
}
