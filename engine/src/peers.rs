//! What a node last heard from its peers, and whom it answered lately.
//!
//! Every node sends every peer its [`Status`] each T0, idle or not, and whoever is ahead answers with what is
//! missing, at most once per T0/4 and peer (PROTOCOL.md section 3, "Nothing is said only once").

use std::time::Duration;

use crate::configuration::Configuration;
use crate::message::Status;
use crate::types::{Decree, NodeId, NodeSet, Time};

/// The most that one peer is served in T0/4, give or take one body. Bytes.
const SERVED_BYTES_MAX: usize = 16 << 20;

/// The most bytes of snapshots that one peer is served in T0/4, give or take one chunk: less than a link carries, so that ordering goes
/// on. Bytes.
const CHUNK_BYTES_MAX: usize = 4 << 20;

/// The most bundles that one peer passes on and gets checked in T0/4: what a correct one says beyond it comes again.
const RELAYS_MAX: usize = 128;

/// One entry per node of the configuration.
#[derive(Debug)]
pub struct Peers {
    peers: Vec<Peer>,
    me: NodeId,
    /// The most signatures that one peer gets checked in T0/4.
    checks_max: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    status: Status,
    heard_at: Option<Time>,
    answered_at: Option<Time>,
    /// What was served to it since `served_since`. Bytes.
    served: usize,
    served_since: Time,
    /// Bytes of snapshots that it was served since `chunks_since`.
    chunks: usize,
    chunks_since: Time,
    /// When it was told of a snapshot last.
    offered_at: Option<Time>,
    /// It is about to ask for what is above this decree, as it showed at this time.
    needs: Option<(Decree, Time)>,
    /// Signatures that it showed since `checked_since`.
    checked: usize,
    checked_since: Time,
    /// Bundles that it passed on and that were checked since `relayed_since`.
    relayed: usize,
    relayed_since: Time,
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
        let quorums = configuration.quorums();
        // The largest message is a `NewRegency`: a proof, and reports with their certificates. What else a correct
        // node says in T0/4 comes to less than that.
        let proof = quorums.leadership.unwrap_or(0);
        let largest = proof + quorums.report * (1 + quorums.checkpoint);
        Peers {
            peers: vec![Peer::default(); configuration.members().len()],
            me,
            checks_max: 2 * largest,
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

    /// Whether this peer may be served so many bytes more of a snapshot.
    pub fn may_serve_chunk(&mut self, node: NodeId, bytes: usize, now: Time, t0: Duration) -> bool {
        let Some(peer) = self.peers.get_mut(usize::from(node.0)) else {
            return false;
        };
        if now.since(peer.chunks_since) >= t0 / 4 {
            (peer.chunks, peer.chunks_since) = (0, now);
        }
        let may = peer.chunks < CHUNK_BYTES_MAX;
        if may {
            peer.chunks += bytes;
        }
        may
    }

    /// This learner showed that it will need what is above `decree`.
    pub fn needs_above(&mut self, node: NodeId, decree: Decree, now: Time) {
        if let Some(peer) = self.peers.get_mut(usize::from(node.0)) {
            peer.needs = Some((decree, now));
        }
    }

    /// Above which decree somebody needs what was learned, as far as anybody showed it within the last 2·T0.
    #[must_use]
    pub fn needed_above(&self, now: Time, t0: Duration) -> Option<Decree> {
        let needs = self.peers.iter().filter_map(|peer| peer.needs);
        let fresh = needs.filter(|(_, at)| now.since(*at) <= t0 * 2);
        fresh.map(|(decree, _)| decree).min()
    }

    /// Whether this peer may be told of a snapshot now; if so, it may not again for T0/4.
    pub fn may_offer(&mut self, node: NodeId, now: Time, t0: Duration) -> bool {
        let Some(peer) = self.peers.get_mut(usize::from(node.0)) else {
            return false;
        };
        let may = peer.offered_at.is_none_or(|at| now.since(at) >= t0 / 4);
        if may {
            peer.offered_at = Some(now);
        }
        may
    }

    /// Whether so many more signatures of this peer may be checked: twice what the largest message holds in T0/4, so that
    /// nobody can keep a node busy with them. What a correct peer says beyond it comes again.
    pub fn may_check(&mut self, node: NodeId, signatures: usize, now: Time, t0: Duration) -> bool {
        let Some(peer) = self.peers.get_mut(usize::from(node.0)) else {
            return false;
        };
        if now.since(peer.checked_since) >= t0 / 4 {
            (peer.checked, peer.checked_since) = (0, now);
        }
        peer.checked = peer.checked.saturating_add(signatures);
        peer.checked <= self.checks_max
    }

    /// Whether one more bundle that this peer passes on may be checked: 128 in T0/4.
    pub fn may_check_relay(&mut self, node: NodeId, now: Time, t0: Duration) -> bool {
        let Some(peer) = self.peers.get_mut(usize::from(node.0)) else {
            return false;
        };
        if now.since(peer.relayed_since) >= t0 / 4 {
            (peer.relayed, peer.relayed_since) = (0, now);
        }
        peer.relayed += 1;
        peer.relayed <= RELAYS_MAX
    }

    /// Whether this peer gets no more signatures checked now, so that what shows some need not even be read.
    #[must_use]
    pub fn has_spent_checks(&self, node: NodeId, now: Time, t0: Duration) -> bool {
        let peer = self.peers.get(usize::from(node.0));
        peer.is_some_and(|peer| {
            peer.checked > self.checks_max && now.since(peer.checked_since) < t0 / 4
        })
    }

    /// A signature that this peer showed is bad. A correct node passes on only what it checked, so this one has shown
    /// enough for T0/4.
    pub fn showed_bad_signature(&mut self, node: NodeId, now: Time) {
        if let Some(peer) = self.peers.get_mut(usize::from(node.0)) {
            (peer.checked, peer.checked_since) = (usize::MAX, now);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::{Admission, Limits, Member, Roles};
    use crate::quorum::FaultModel;
    use twostep_crypto::Identity;

    fn six() -> Configuration {
        let member = |node: u8| Member {
            roles: if node < 4 {
                Roles::ALL
            } else {
                Roles::ACCEPTOR
            },
            public: Identity::from_seed([node + 1; 32]).public(),
        };
        let members = (0..6).map(member).collect();
        let (model, limits) = (FaultModel::Fab, Limits::default());
        Configuration::new(model, 1, members, limits, Admission::Mac, [0; 16]).unwrap()
    }

    #[test]
    fn a_peer_gets_two_of_the_largest_messages_checked_and_nothing_more_after_a_bad_signature() {
        let mut peers = Peers::new(&six(), NodeId(0));
        let (t0, at) = (Duration::from_millis(100), |ms: u64| Time(ms * 1_000_000));
        // A proof of 3 votes, 5 reports, each with a certificate of 3 voices.
        let largest = 3 + 5 * (1 + 3);
        let liar = NodeId(1);
        assert!(peers.may_check(liar, largest, at(0), t0));
        assert!(peers.may_check(liar, largest, at(1), t0));
        assert!(
            !peers.has_spent_checks(liar, at(24), t0),
            "not more than that"
        );
        assert!(!peers.may_check(liar, 1, at(24), t0));
        assert!(peers.has_spent_checks(liar, at(24), t0));
        assert!(!peers.has_spent_checks(liar, at(25), t0));
        assert!(
            peers.may_check(NodeId(2), largest, at(24), t0),
            "others are not hit"
        );
        assert!(
            peers.may_check(liar, 1, at(25), t0),
            "another quarter of T0"
        );
        peers.showed_bad_signature(liar, at(25));
        assert!(!peers.may_check(liar, 1, at(49), t0));
        assert!(peers.has_spent_checks(liar, at(49), t0));
        assert!(peers.may_check(liar, 1, at(50), t0));
        peers.showed_bad_signature(liar, at(200));
        assert!(
            peers.has_spent_checks(liar, at(224), t0),
            "also if it was quiet before"
        );
        assert!(!peers.may_check(NodeId(6), 1, at(50), t0), "not a member");

        let relays = |peers: &mut Peers, now: Time| {
            let all = (0..1000).map(|_| peers.may_check_relay(liar, now, t0));
            all.filter(|may| *may).count()
        };
        assert_eq!(relays(&mut peers, at(300)), RELAYS_MAX);
        assert_eq!(relays(&mut peers, at(324)), 0);
        assert_eq!(relays(&mut peers, at(325)), RELAYS_MAX);
    }

    #[test]
    fn what_somebody_needs_is_known_for_two_t0() {
        let mut peers = Peers::new(&six(), NodeId(0));
        let (t0, at) = (Duration::from_millis(100), |ms: u64| Time(ms * 1_000_000));
        assert_eq!(peers.needed_above(at(0), t0), None);
        peers.needs_above(NodeId(1), Decree(7), at(0));
        peers.needs_above(NodeId(2), Decree(9), at(50));
        assert_eq!(peers.needed_above(at(200), t0), Some(Decree(7)));
        assert_eq!(peers.needed_above(at(250), t0), Some(Decree(9)));
        assert_eq!(peers.needed_above(at(251), t0), None);
    }
}
