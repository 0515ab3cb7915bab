//! What becomes of the requests of one decree, on its way to the clients.

use crate::message::{Reply, ReplyEntries};
use crate::types::ClientId;
use crate::wire;

/// How much memory [`Replies`] keep when they are cleared. Bytes, and groups of 24 bytes.
const REPLIES_KEPT_BYTES: usize = 1 << 20;
const REPLIES_KEPT_GROUPS: usize = 1 << 14;

/// What became of the requests of one decree, in their order: entries in wire form, grouped by client.
/// Reused from decree to decree, so it allocates nothing once warm; what an unusual decree needed beyond a
/// megabyte is given back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replies {
    groups: Vec<(ClientId, usize)>,
    bytes: Vec<u8>,
}

impl Replies {
    /// Forgets everything, and gives memory above what is usual back.
    pub fn clear(&mut self) {
        self.groups.clear();
        self.groups.shrink_to(REPLIES_KEPT_GROUPS);
        self.bytes.clear();
        self.bytes.shrink_to(REPLIES_KEPT_BYTES);
    }

    /// Adds one entry for `client`; entries of one client in a row form a group.
    pub fn push(&mut self, client: ClientId, reply: &Reply<'_>) {
        wire::write_reply(reply, &mut self.bytes);
        match self.groups.last_mut() {
            Some((last, end)) if *last == client => *end = self.bytes.len(),
            _ => self.groups.push((client, self.bytes.len())),
        }
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

    /// All entries in wire form: what the results digest covers.
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
        replies.clear();
        assert!(replies.bytes.capacity() < 2 * REPLIES_KEPT_BYTES);
    }
}
