//! The client: many sessions of one identity over one set of links (PROTOCOL.md sections 5.1 and 5.2).
//!
//! ```text
//!  call ─► session slot ─┐                                        ┌─ learner ─┐
//!  call ─► session slot ─┼─► flush: one bundle, one proof ─► leader │ learner   ├─► matching: f+1 equal ─► done(outcome)
//!  call ─► session slot ─┘       └─ time-out: signed, to all ──────►│ learner   ├─► tally: f+1 equal ─► done(outcome)
//!                                                                   └─ learner ─┘
//! ```
//!
//! [`core::ClientCore`] computes: calls, messages and the time go in, messages and outcomes come out
//! ([`ClientEffects`]). It has no clock, socket or thread, so the simulator, the load generator and the async
//! façade use the very same code. [`host`] runs it over real links on a thread of its own; [`facade`] is what
//! programs use: [`Client`], [`Session`], futures.
//!
//! Every call ends in exactly one [`CallOutcome`]. What ends a call is the word of f+1 distinct learners, heard
//! straight from their links: a liar among them cannot make up an outcome, whatever it says and how often.

pub mod bundling;
mod core;
pub mod facade;
pub mod history;
pub mod host;
mod leader;
mod matching;
mod sender;
mod session;
mod setup;
mod tagged;
mod tally;

use std::time::Duration;

use thiserror::Error;

use crate::message::Message;
use crate::types::{Decree, NodeSet, Seq, SessionId};

pub use self::core::{ClientCore, ClientCounters};
pub use self::facade::{
    CallError, Client, ClientOptions, Committed, ConnectError, Session, SessionError,
};
pub use self::setup::{AuthenticatorKeys, ClientSetup, ClientTuning};

/// One session of a [`ClientCore`]. A handle of a closed session is refused, never mistaken for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionHandle {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl SessionHandle {
    /// A small number that no other open session of the same core has: hosts index their own tables with it.
    #[must_use]
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// Why f+1 learners, or the client itself, refused a request. It was not executed and never will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Error)]
pub enum Rejection {
    /// Its number is too far below the largest executed one of the session.
    #[error("the request's number is too far below what its session has executed")]
    Stale,
    /// Its number is too far above the largest executed one of the session.
    #[error("the request's number is too far above what its session has executed")]
    TooFar,
    /// Another operation was executed under this number.
    #[error("another operation was executed under this number")]
    SeqReused,
    /// The session does not exist any more: open another one.
    #[error("the session was dropped, by age or to make room; open another one")]
    SessionLapsed,
    /// It never left the client: its session was closed before.
    #[error("the request was never sent: its session was closed before")]
    NeverSent,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome<'a> {
    /// It was executed, exactly once.
    Committed {
        /// The decree that ordered it.
        decree: Decree,
        /// What the state machine answered; `None` if no learner keeps the reply any more.
        reply: Option<&'a [u8]>,
    },
    /// It was not executed and never will be.
    Rejected(Rejection),
    /// Its deadline passed before anything was sent: no node could be reached, or the leader asked for patience.
    Busy {
        /// When to try again.
        retry_after: Duration,
    },
    /// It was sent, and its deadline passed without an answer that f+1 learners agree on: it may or may not have
    /// been executed, or still be. Calling the same operation again under the same session and number
    /// ([`ClientCore::call_again`]) is safe; under a new number it is not.
    Unknown {
        /// Its session.
        session: SessionId,
        /// Its number.
        seq: Seq,
    },
}

/// Why a session could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// f+1 learners refused it.
    #[error("the cluster refused to open a session: {0}")]
    Rejected(#[from] Rejection),
    /// Nothing could be sent before the deadline.
    #[error(
        "no session: no node could be reached in time; check that the cluster runs and its addresses are right"
    )]
    Busy,
    /// No f+1 equal answers came before the deadline. Try again: a session that nobody uses is dropped by age.
    #[error(
        "no session: f+1 equal answers did not come in time; check that enough nodes run, have room on their disks and know this client"
    )]
    Unknown,
}

/// Why a call was not taken. Nothing was sent, nothing will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CallRefused {
    /// As many calls of the session are unresolved as it may have; wait for one to end.
    #[error("the session has as many unresolved calls as it may have; wait for one to end")]
    WouldBlock,
    /// The session is not open yet.
    #[error("the session is not open yet; wait for it")]
    Opening,
    /// The learners dropped the session.
    #[error("the session was dropped, by age or to make room; open another one")]
    SessionLapsed,
    /// So many calls in a row ended unknown that the next number could be refused.
    #[error("64 calls in a row ended unknown; call one of them again, or open another session")]
    Exhausted,
    /// The operation is larger than the cluster takes.
    #[error("an operation of {found} bytes is above the cluster's limit of {limit}")]
    TooLarge {
        /// Its size.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// The handle belongs to no open session.
    #[error("the session was closed")]
    Closed,
    /// The client has as many sessions as it may have.
    #[error("the client has as many sessions as it may have")]
    TooManySessions,
    /// The number to be called again was never used, is unresolved, or lies too far back.
    #[error(
        "request {0} cannot be called again: it is unresolved, too far back, or was never called"
    )]
    NotAgain(Seq),
}

/// What a [`ClientCore`] wants done. A sink; infallible: what a link drops, a retry repairs.
pub trait ClientEffects {
    /// Send a message to these nodes, over the links of this client.
    fn send(&mut self, to: NodeSet, message: &Message<'_>);
    /// A session is open, or could not be opened; then its handle is void.
    fn opened(&mut self, session: SessionHandle, token: u64, result: Result<SessionId, OpenError>);
    /// A call ended. `token` is what the host passed with the call.
    fn done(&mut self, session: SessionHandle, token: u64, outcome: CallOutcome<'_>);
}
