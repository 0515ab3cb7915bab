//! What a node says about itself: the answer to `status` on its control socket. JSON; every field is explained here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::signatures::Signatures;
use crate::types::NodeId;

/// One node, as it is now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its number.
    pub node: u16,
    /// The cluster's id.
    pub cluster: String,
    /// The digest of its list of clients: nodes whose lists differ can stall the order.
    pub clients_digest: String,
    /// The fault model, `fab` or `crash`.
    pub mode: String,
    /// How many faulty nodes the cluster bears.
    pub f: usize,
    /// Its roles.
    pub roles: String,
    /// The version of the program.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Where it listens.
    pub listen: String,
    /// The driver of its event loop, and why this one.
    pub driver: String,
    /// Seconds since it started.
    pub uptime_s: f64,
    /// CPU time of the process, user and system. Seconds.
    pub cpu_s: f64,
    /// Memory of the process that is resident. Bytes; 0 where the system does not tell.
    pub resident_bytes: u64,
    /// Whether it lies; none for a node that cannot be told to.
    pub misbehaviour: Option<Misbehaviour>,
    /// The signatures that it made, by what they stand under. Under steady load only checkpoints move.
    pub signatures_made: Signatures,
    /// The signatures that it checked, valid or not.
    pub signatures_checked: Signatures,
    /// Whether every quorum answers.
    pub ready: bool,
    /// The nodes that do not serve, and why.
    pub missing: Vec<MissingNode>,
    /// Why it neither votes nor proposes (`lost disk`), if so.
    pub abstaining: Option<String>,
    /// Until when; none if it does not abstain, or too few others have told it yet what they remember.
    #[serde(default)]
    pub abstains_until: Option<AbstainsUntil>,
    /// The nodes that say that they have lost their disks, itself included. More than f of them cannot come back.
    #[serde(default)]
    pub without_disks: Vec<u16>,
    /// The regency it is in.
    pub regency: u64,
    /// The node that leads it.
    pub leader: u16,
    /// The newest certified checkpoint.
    pub low: u64,
    /// The highest decree up to which everything is learned.
    pub learned: u64,
    /// The highest executed decree.
    pub executed: u64,
    /// As leader: the highest proposed decree.
    pub proposed: u64,
    /// As leader: bundles that wait.
    pub waiting: usize,
    /// The decree at which its results stood against the others': it stopped executing.
    pub diverged: Option<u64>,
    /// The digests of a learner, all at the same decree; none for a node that does not learn, and if not asked for.
    pub digests: Option<Digests>,
    /// Every other node.
    pub peers: Vec<PeerStatus>,
    /// Links of clients that are up.
    pub client_links: usize,
    /// What was refused, by name: links (with `link.` in front), then what peers and clients said.
    pub refusals: BTreeMap<String, u64>,
    /// How often a peer refused this node, by name.
    pub refused_by_peers: BTreeMap<String, u64>,
    /// What happened on links and in the protocol, by name.
    pub counters: BTreeMap<String, u64>,
    /// What survives a crash: `sync`, everything that the node has said, or `memory`, nothing.
    #[serde(default)]
    pub durability: String,
    /// Where the key-value store has its state: `memory` or `disk`.
    #[serde(default)]
    pub state: String,
    /// Its journal; none in memory mode.
    #[serde(default)]
    pub journal: Option<JournalStatus>,
    /// Where the time goes: `receive`, `check`, `batch`, `quorum`, `sync`, `execute`, `reply`, as far as the node has such a stage.
    pub stages: BTreeMap<String, StageStatus>,
}

/// The journal of a node, as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// `ok`, `slow`, `full` or `failed`; a sync that does not return for some seconds counts as failed.
    pub state: String,
    /// What went wrong last, if anything.
    pub error: Option<String>,
    /// Length of its files together. Bytes.
    pub bytes: u64,
    /// How many there are.
    pub segments: u64,
    /// Whether little room is left.
    pub low_space: bool,
    /// The last durable record, counted from the start of the process.
    pub durable: u64,
    /// Records that are durable since then.
    pub records: u64,
    /// Bytes that were written for them.
    pub written_bytes: u64,
}

/// How long one stage of the way of a request took since the node started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageStatus {
    /// How often it was measured.
    pub count: u64,
    /// Half of the times. Nanoseconds.
    pub p50_ns: u64,
    /// 99 of 100. Nanoseconds.
    pub p99_ns: u64,
    /// 999 of 1000. Nanoseconds.
    pub p999_ns: u64,
    /// The longest. Nanoseconds.
    pub max_ns: u64,
}

/// What a node was told to lie.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Misbehaviour {
    /// What it lies now; none while it is truthful.
    pub strategy: Option<String>,
    /// How often it lied, or withheld something, since it started.
    pub lies: u64,
}

/// Until when a node without its disk abstains: both must be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbstainsUntil {
    /// The regency that it must be in.
    pub regency: u64,
    /// The decree that must be certified.
    pub low: u64,
}

/// A node that does not serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingNode {
    /// Its number.
    pub node: u16,
    /// Why, as far as it is known.
    pub why: String,
}

/// Digests by which learners are compared. Comparable only at equal decrees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digests {
    /// The decree up to which all three are.
    pub decree: u64,
    /// Of the order; none while the node has learned more than it executed.
    pub chain: Option<String>,
    /// Of all replies.
    pub results: String,
    /// Of the session table and the state machine.
    pub state: String,
}

/// Another node, as this one sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its number.
    pub node: u16,
    /// Where it listens.
    pub address: String,
    /// Whether the link is up.
    pub up: bool,
    /// Why it is not, or why it was down the last time.
    pub why: Option<String>,
    /// Milliseconds since its last `Status`.
    pub heard_ms_ago: Option<u64>,
    /// Its newest certified checkpoint, as it said.
    pub low: Option<u64>,
    /// What it has learned, as it said.
    pub learned: Option<u64>,
    /// Whether it said that it abstains.
    pub abstaining: bool,
}

/// Why each of these nodes does not serve, as this node sees it.
pub(super) fn missing(
    peers: &[PeerStatus],
    nodes: &[NodeId],
    own: Option<NodeId>,
) -> Vec<MissingNode> {
    let why = |node: &NodeId| {
        let peer = peers.iter().find(|peer| peer.node == node.0);
        let why = match peer {
            _ if own == Some(*node) => "abstaining: lost disk".to_owned(),
            None => "unknown".to_owned(),
            Some(peer) if !peer.up => {
                let why = peer.why.as_deref().unwrap_or("no link");
                format!("not connected to {}: {why}", peer.address)
            }
            Some(peer) if peer.abstaining => "abstaining: lost disk".to_owned(),
            Some(peer) => match peer.heard_ms_ago {
                Some(ms) => format!("connected, but silent for {ms} ms"),
                None => "connected, but it has said nothing yet".to_owned(),
            },
        };
        MissingNode { node: node.0, why }
    };
    nodes.iter().map(why).collect()
}
