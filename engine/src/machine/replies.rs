//! What becomes of the requests of one decree, on its way to the clients.

use twostep_crypto::Scope;

use crate::message::{Reply, ReplyEntries};
use crate::types::{ClientId, Digest};
use crate::wire::{ReplyWriter, reply_bytes_max};

/// How much memory [`Replies`] keep when they are cleared. Bytes, and groups of 24 bytes.
const REPLIES_KEPT_BYTES: usize = 1 << 20;
const REPLIES_KEPT_GROUPS: usize = 1 << 14;

/// What became of the requests of one decree, in their order: entries in wire form, in groups, each of which is one message
/// to its client. Reused from decree to decree, so it allocates nothing once warm; what an unusual decree needed beyond a
/// megabyte is given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replies {
    /// Whose, and where they end.
    groups: Vec<(ClientId, usize)>,
    /// Of the groups, once they are [sealed](Replies::seal).
    digests: Vec<Digest>,
    bytes: Vec<u8>,
    /// Of the group that is being written, as is where it starts.
    writer: ReplyWriter,
    start: usize,
    group_bytes_max: usize,
}

impl Default for Replies {
    /// Groups of any length.
    fn default() -> Replies {
        Replies {
            groups: Vec::new(),
            digests: Vec::new(),
            bytes: Vec::new(),
            writer: ReplyWriter::default(),
            start: 0,
            group_bytes_max: usize::MAX,
        }
    }
}

impl Replies {
    /// Forgets everything, and gives memory above what is usual back. Groups to come hold at most `group_bytes_max` bytes,
    /// or one entry.
    pub fn begin(&mut self, group_bytes_max: usize) {
        self.groups.clear();
        self.groups.shrink_to(REPLIES_KEPT_GROUPS);
        self.digests.clear();
        self.digests.shrink_to(REPLIES_KEPT_GROUPS);
        self.bytes.clear();
        self.bytes.shrink_to(REPLIES_KEPT_BYTES);
        self.start = 0;
        self.group_bytes_max = group_bytes_max;
    }

    /// Adds one entry for `client`; entries of one client in a row form a group, as far as it may grow.
    pub fn push(&mut self, client: ClientId, reply: &Reply<'_>) {
        self.digests.clear();
        let len = self.bytes.len() - self.start + reply_bytes_max(reply);
        let goes_on = matches!(self.groups.last(), Some((last, _)) if *last == client)
            && len <= self.group_bytes_max;
        if !goes_on {
            (self.writer, self.start) = (ReplyWriter::default(), self.bytes.len());
            self.groups.push((client, self.start));
        }
        self.writer.write(reply, &mut self.bytes);
        if let Some((_, end)) = self.groups.last_mut() {
            *end = self.bytes.len();
        }
    }

    /// Takes the digest of each group: what a learner may send in its place, and what the digest of the results covers.
    pub fn seal(&mut self, scope: &Scope) -> &[Digest] {
        let mut digests = std::mem::take(&mut self.digests);
        digests.clear();
        digests.extend(self.groups().map(|(_, entries)| entries.digest(scope)));
        self.digests = digests;
        &self.digests
    }

    /// The groups in order, each as the entries of one message to its client.
    pub fn groups(&self) -> impl Iterator<Item = (ClientId, ReplyEntries<'_>)> {
        let mut start = 0;
        self.groups.iter().map(move |(client, end)| {
            let entries = ReplyEntries(&self.bytes[start..*end]);
            start = *end;
            (*client, entries)
        })
    }

    /// The groups, each with its digest.
    ///
    /// # Panics
    /// If they are not sealed.
    pub fn sealed(&self) -> impl Iterator<Item = (ClientId, ReplyEntries<'_>, Digest)> {
        assert_eq!(
            self.digests.len(),
            self.groups.len(),
            "what a decree answers is sealed when all of it is known"
        );
        let digests = self.digests.iter().copied();
        let groups = self.groups().zip(digests);
        groups.map(|((client, entries), digest)| (client, entries, digest))
    }

    /// All entries in wire form.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Outcome;
    use crate::types::{Decree, Seq, SessionId};

    #[test]
    fn an_unusual_decree_keeps_no_memory() {
        let mut replies = Replies::default();
        let large = vec![0; 4 * REPLIES_KEPT_BYTES];
        let reply = Reply {
            session: SessionId::NONE,
            seq: Seq(1),
            decree: Decree(1),
            outcome: Outcome::Executed(&large),
        };
        replies.push(ClientId([1; 16]), &reply);
        replies.begin(usize::MAX);
        assert!(replies.bytes.capacity() < 2 * REPLIES_KEPT_BYTES);
    }
}
