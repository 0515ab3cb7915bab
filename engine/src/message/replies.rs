//! What learners tell clients: one entry for each request.

use twostep_crypto::{Context, Scope};

use crate::types::{Decree, Digest, Seq, SessionId};

/// What became of one request. All but the first two say why it was not executed (PROTOCOL.md section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// It was executed; this is the reply.
    Executed(&'a [u8]),
    /// It was executed; this is the [`reply_digest`] of the reply, which a retry fetches in full.
    ExecutedDigest(Digest),
    /// The Open made this session.
    Opened(SessionId),
    /// Its number is 64 or more below the largest executed one of the session, and not known to be executed.
    Stale,
    /// Its number is more than 64 above the largest executed one of the session.
    TooFar,
    /// Another operation was executed under this number.
    SeqReused,
    /// The session does not exist: dropped by age or to make room, or never opened.
    SessionLapsed,
    /// It was executed, but the reply is no longer kept.
    ExecutedReplyGone,
}

/// The digest that stands for a reply in [`Outcome::ExecutedDigest`].
#[must_use]
pub fn reply_digest(scope: &Scope, reply: &[u8]) -> Digest {
    scope.digest(Context::Reply, reply)
}

/// One entry of `Replies` or `Found`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// The session of the request; [`SessionId::NONE`] for an Open.
    pub session: SessionId,
    /// The number of the request; the nonce of an Open.
    pub seq: Seq,
    /// The decree that executed it, or that ordered and refused it.
    pub decree: Decree,
    /// What became of it.
    pub outcome: Outcome<'a>,
}

/// Replies, still in the receive buffer; see [`crate::wire`] for the bytes of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyEntries<'a>(pub(crate) &'a [u8]);

impl<'a> ReplyEntries<'a> {
    /// Takes bytes; they are checked while they are read (`iter`, in [`crate::wire`]).
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> ReplyEntries<'a> {
        ReplyEntries(bytes)
    }

    /// The bytes as they travel.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }

    /// What stands for them in `RepliesDigest`.
    #[must_use]
    pub fn digest(&self, scope: &Scope) -> Digest {
        scope.digest(Context::Replies, self.0)
    }
}
