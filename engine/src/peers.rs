//! What a node last heard from its peers, and whom it answered lately.
//!
//! Every node sends every peer its [`Status`] each T0, idle or not, and whoever is ahead answers with what is
//! missing, at most once per T0/4 and peer (PROTOCOL.md section 3, "Nothing is said only once").

use std::time::Duration;

use crate::configuration::Configuration;
use crate::message::Status;
use crate::types::{NodeId, NodeSet, Time};

/// The most that one peer is served in T0/4, give or take one body. Bytes.
const SERVED_BYTES_MAX: usize = 16 << 20;

/// One entry per node of the configuration.
#[derive(Debug)]
pub struct Peers {
    peers: Vec<Peer>,
    me: NodeId,
}

#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    status: Status,
    heard_at: Option<Time>,
    answered_at: Option<Time>,
    /// What was served to it since `served_since`. Bytes.
    served: usize,
    served_since: Time,
}

/// Whether every quorum answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// Whether the leader and a quorum of each class of agents were heard lately and do not abstain.
    pub ready: bool,
    /// The nodes that were not heard lately, or abstain.
    pub missing: NodeSet,
}

impl Peers {
    /// Nobody heard yet.
    #[must_use]
    pub fn new(configuration: &Configuration, me: NodeId) -> Peers {
        Peers {
            peers: vec![Peer::default(); configuration.members().len()],
            me,
        }
    }

    /// Takes a peer's status.
    pub fn heard(&mut self, node: NodeId, status: Status, now: Time) {
        if let Some(peer) = self.peers.get_mut(usize::from(node.0)) {
            peer.status = status;
            peer.heard_at = Some(now);
        }
    }

    /// What a peer last said of itself, and when.
    #[must_use]
    pub fn last(&self, node: NodeId) -> Option<(Status, Time)> {
        let peer = self.peers.get(usize::from(node.0))?;
        peer.heard_at.map(|at| (peer.status, at))
    }

    /// Whether this peer may be answered now; if so, it may not again for T0/4.
    pub fn may_answer(&mut self, node: NodeId, now: Time, t0: Duration) -> bool {
        let Some(peer) = self.peers.get_mut(usize::from(node.0)) else {
            return false;
        };
        let may = peer.answered_at.is_none_or(|at| now.since(at) >= t0 / 4);
        if may {
            peer.answered_at = Some(now);
        }
        may
    }

    /// Whether this peer may be served so many bytes more: bodies and values that it asks for are bounded by
    /// 16 MiB in T0/4, so that nobody can keep a node busy with questions.
    pub fn may_serve(&mut self, node: NodeId, bytes: usize, now: Time, t0: Duration) -> bool {
        let Some(peer) = self.peers.get_mut(usize::from(node.0)) else {
            return false;
        };
        if now.since(peer.served_since) >= t0 / 4 {
            (peer.served, peer.served_since) = (0, now);
        }
        let may = peer.served < SERVED_BYTES_MAX;
        if may {
            peer.served += bytes;
        }
        may
    }

    /// Whether every peer was heard at least once.
    #[must_use]
    pub fn all_heard(&self) -> bool {
        let me = usize::from(self.me.0);
        self.peers
            .iter()
            .enumerate()
            .all(|(node, peer)| node == me || peer.heard_at.is_some())
    }

    /// Whether every quorum answers, judged by what was heard within the last 3·T0. `abstaining` is this node's own state.
    #[must_use]
    pub fn readiness(
        &self,
        configuration: &Configuration,
        leader: NodeId,
        abstaining: bool,
        now: Time,
        t0: Duration,
    ) -> Readiness {
        let lately = |node: NodeId| {
            let peer = &self.peers[usize::from(node.0)];
            node == self.me || peer.heard_at.is_some_and(|at| now.since(at) <= t0 * 3)
        };
        let abstains = |node: NodeId| {
            if node == self.me {
                abstaining
            } else {
                self.peers[usize::from(node.0)].status.abstaining
            }
        };
        let heard: NodeSet = configuration
            .nodes()
            .iter()
            .filter(|node| lately(*node))
            .collect();
        let serving: NodeSet = heard.iter().filter(|node| !abstains(*node)).collect();
        let of = |class: NodeSet, among: NodeSet| class.minus(class.minus(among)).len();
        let quorums = configuration.quorums();
        let ready = serving.contains(leader)
            && of(configuration.acceptors(), serving) >= quorums.learn
            && of(configuration.learners(), heard) >= quorums.ack;
        Readiness {
            ready,
            missing: configuration.nodes().minus(serving),
        }
    }
}
