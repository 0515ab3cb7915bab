//! The floor: what the message pattern alone costs on this machine.
//!
//! As many processes as the real cluster has move the same bytes between the same parties over the same driver, with no
//! protocol, no MACs and no hashing. What the real cluster costs above that is what its protocol costs.
//!
//! * **A lone operation** is replayed: [`trace`] records from real replicas and a real client who says what to whom for one
//!   operation, in how many bytes, and after having heard what. Each process says its part once it has heard as many
//!   messages of each kind as its model had. Messages to oneself are left out, acknowledgements are in, the periodic
//!   `Status` is not.
//! * **Under load** the processes follow the [`pattern`]: bundles to the leader, a batch whenever one of the same number of
//!   slots is free, bodies to acceptors and learners, votes, replies at the quorum, cumulative acknowledgements. The
//!   sizes come from recordings too.
//!
//! ```text
//! client ──► leader ──► acceptors ──► learners ──► client      frames: length u32 | kind u8 | number u64 | …
//! ```
//!
//! By datagrams only lone operations are replayed: under load some would be lost, and what repairs that is the protocol.
//!
//! [`links`] coalesces as the real links do: one buffer for each other process, written at the end of each turn; 32 bytes
//! stand in for the header of each packet. [`node`] and [`client`] are the two kinds of processes.

pub mod client;
pub mod links;
pub mod node;
pub mod pattern;
pub mod trace;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use client::{FloorClient, FloorReport};
pub use links::NodeCounters;
pub use node::serve;

/// Marks the messages of a replayed operation; those under load bear their kind alone.
const LONE: u8 = 1 << 6;
/// Asks a node for its [`NodeCounters`].
const ASK: u8 = 1 << 7;
/// The answer.
const TOLD: u8 = ASK + 1;

/// Everything that a process of the floor is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FloorPlan {
    /// Where the nodes listen, by number. The client has the number after the last one.
    pub addresses: Vec<SocketAddr>,
    /// What to say for a lone operation.
    pub trace: trace::Trace,
    /// What to say under load.
    pub pattern: pattern::Pattern,
    /// The driver that the real nodes are told to use, by its name.
    pub driver: String,
    /// Most bytes of a datagram, where the real nodes talk by datagrams; none for streams. Nothing repairs loss here, so
    /// datagrams serve lone operations only.
    pub datagram_bytes: Option<usize>,
    /// Microseconds to look for work before sleeping, as the real nodes are told.
    pub spin_us: u32,
    /// Whether never to sleep, as the real nodes are told.
    pub busy_poll: bool,
}
