//! The protocol, the replica, the client and the node of `twostep`.
//!
//! FaB and Paxos are the same five rules with other numbers (PROTOCOL.md section 2):
//!
//! | rule | where | in one sentence |
//! |---|---|---|
//! | propose | [`proposer`] | the leader puts waiting bundles into the next decree |
//! | vote | [`acceptor`] | one value per regency and decree, open, planned and authentic |
//! | learn | [`learner`] | enough equal votes (decree, regency, value) decide |
//! | report | [`acceptor`] | tell every vote, and never vote in a lower regency again |
//! | select | [`quorum`] | what enough reports may hide must be proposed again |
//!
//! The thresholds of all fault models are in [`quorum`], the one place in which the modes differ.
//!
//! ```text
//! types → quorum → configuration → batch → message → { wire, record } → machine → window → recall → rules
//!       → { proposer, election, recovery, acceptor, learner, checkpoint, session } → replica, executor, client → journal → node
//! ```
//!
//! A leader that does not serve is replaced: [`tracking`] knows what waits, [`election`] when to suspect and what
//! votes prove, [`voucher`] what reports say, [`recovery`] what a new leader does with them. Two steps again after it.
//!
//! The way is told in [`guide::leader_change`]; where all this differs from the printed protocol, and which test shows
//! why, in [`guide::deviations`].
//!
//! A bundle that some acceptors cannot verify stops nobody: [`doubt`] is the acceptor's part of that,
//! [`complaint`] the proposer's.
//!
//! A node that stops goes on from its records ([`record`], [`replica::Replica::restore`]); one that lost them asks the
//! others before it takes part again: [`recall`].
//!
//! [`snapshot`] makes, certifies and keeps images of state and sessions; [`transfer`] is how a learner that lags beyond the logs, or
//! diverged, takes one up.
//!
//! [`prechecked`]: what another loop may check for the one that orders.
//!
//! [`replica`] puts the roles of one node behind one [`machine::Machine::step`]: messages in, effects out, no
//! clock, socket, thread or randomness. [`executor`] applies what is delivered: the session table (exactly
//! once) and the user's [`state_machine::StateMachine`]. [`node`] hosts both over real links; the simulator
//! hosts the very same code over virtual ones.

pub mod acceptor;
pub mod acks;
pub mod admission;
pub mod batch;
pub mod checkpoint;
pub mod client;
pub mod complaint;
pub mod configuration;
pub mod doubt;
pub mod election;
pub mod executor;
pub mod guide;
pub mod journal;
pub mod key_value;
pub mod learner;
mod letter;
pub mod log;
pub mod machine;
pub mod message;
pub mod node;
pub mod null;
pub mod peers;
pub mod prechecked;
pub mod proposer;
pub mod pull;
pub mod quorum;
pub mod recall;
pub mod record;
pub mod recovery;
pub mod replica;
pub mod resend;
pub mod retry_time;
pub mod rules;
pub mod session;
pub mod signatures;
pub mod snapshot;
pub mod state_machine;
pub mod tracking;
pub mod transfer;
pub mod types;
pub mod voucher;
mod wager;
pub mod window;
pub mod wire;
