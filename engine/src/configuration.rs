//! What a cluster is: fault model, f, members and keys, and the limits that all nodes must share.
//!
//! The digest of a [`Configuration`] is the cluster id, so nodes that differ in any of it refuse each other
//! by name at the first packet (PROTOCOL.md section 1). What may differ from node to node is [`Tuning`].

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use twostep_crypto::{Context, PublicIdentity, Scope, digest_unscoped};

use crate::quorum::{FaultModel, QuorumError, Quorums};
use crate::types::{ClusterId, Epoch, NODES_MAX, NodeId, NodeSet, Regency};

/// The roles that one node holds. Roles may share a process (PROTOCOL.md section 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roles {
    /// Proposes batches when it leads, votes for leaders.
    pub proposer: bool,
    /// Votes for proposals.
    pub acceptor: bool,
    /// Learns decrees, executes them and answers clients: an execution replica.
    pub learner: bool,
}

impl Roles {
    /// Every role.
    pub const ALL: Roles = Roles {
        proposer: true,
        acceptor: true,
        learner: true,
    };
    /// Only votes.
    pub const ACCEPTOR: Roles = Roles {
        proposer: false,
        acceptor: true,
        learner: false,
    };
    /// Only proposes.
    pub const PROPOSER: Roles = Roles {
        proposer: true,
        acceptor: false,
        learner: false,
    };
    /// Only learns and executes.
    pub const LEARNER: Roles = Roles {
        proposer: false,
        acceptor: false,
        learner: true,
    };
}

/// One node of a cluster. Its [`NodeId`] is its position in [`Configuration::members`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// What it does.
    pub roles: Roles,
    /// Its public keys.
    pub public: PublicIdentity,
}

/// The limits that all nodes of a cluster share. Defaults are those of PROTOCOL.md section 5.8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// W: acceptors vote only for decrees in `(low, low + window]`. Decrees.
    pub window: u64,
    /// K: learners sign a checkpoint every so many decrees; `window ≥ 2·checkpoint_every`. Decrees.
    pub checkpoint_every: u64,
    /// S: learners sign a snapshot every so many decrees, a multiple of K. Decrees.
    pub snapshot_every: u64,
    /// E: a session that executed nothing for so many decrees is dropped. Decrees.
    pub session_decrees: u64,
    /// The most sessions that are open at once; the longest idle one makes room.
    pub sessions_max: u32,
    /// The most sessions that one client has open at once; its own longest idle one makes room, so that no client
    /// closes the sessions of another. At most `sessions_max`.
    pub sessions_per_client_max: u32,
    /// The largest body of a batch. Bytes.
    pub body_bytes_max: u32,
    /// The largest operation of one request. Bytes.
    pub request_bytes_max: u32,
    /// The largest reply of one request. Bytes.
    pub reply_bytes_max: u32,
    /// The most bytes of replies that one decree, or one look-up for a retry, sends in full; of the rest only
    /// digests are sent, where these are shorter, and a retry fetches the reply. At least 64 more than `reply_bytes_max`. Bytes.
    pub decree_reply_bytes_max: u32,
    /// The most bytes of replies that a session keeps for repeats; beyond it only their digests. Bytes.
    pub session_reply_bytes_max: u32,
    /// The most bytes of replies that all sessions together keep. Bytes.
    pub reply_bytes_total_max: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            window: 256,
            checkpoint_every: 128,
            snapshot_every: 16_384,
            session_decrees: 1 << 22,
            sessions_max: 65_536,
            sessions_per_client_max: 4096,
            body_bytes_max: 1 << 20,
            request_bytes_max: 256 << 10,
            reply_bytes_max: 64 << 10,
            decree_reply_bytes_max: 1 << 20,
            session_reply_bytes_max: 256 << 10,
            reply_bytes_total_max: 1 << 30,
        }
    }
}

/// How clients prove that a request is theirs (PROTOCOL.md section 5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admission {
    /// One 16-byte tag for every node that accepts or proposes; a signature is taken as well. The default of mode F.
    #[default]
    Mac,
    /// An Ed25519 signature on every bundle.
    Signed,
    /// None: the links authenticate. Mode C only.
    Link,
}

/// The shared definition of a cluster, checked: every one that exists is consistent.
#[derive(Clone, Debug)]
pub struct Configuration {
    model: FaultModel,
    f: usize,
    epoch: Epoch,
    members: Vec<Member>,
    limits: Limits,
    admission: Admission,
    quorums: Quorums,
    cluster: ClusterId,
    acceptors: NodeSet,
    learners: NodeSet,
    proposers: Vec<NodeId>,
    voting: Vec<NodeId>,
}

/// Why a configuration is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigurationError {
    /// The classes of agents do not fit the fault model.
    #[error(transparent)]
    Quorum(#[from] QuorumError),
    /// More members than a node set can hold.
    #[error("{0} members are more than the {NODES_MAX} that one configuration can have")]
    Members(usize),
    /// A member without any role, or with a key that another member has too.
    #[error("member {node}: {what}")]
    Member {
        /// Which member.
        node: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Limits that contradict each other.
    #[error("{0}")]
    Limits(String),
}

impl Configuration {
    /// Checks and indexes a definition. `nonce` makes two clusters of the same members different.
    ///
    /// # Errors
    /// [`ConfigurationError`], which says which part contradicts what.
    pub fn new(
        model: FaultModel,
        f: usize,
        members: Vec<Member>,
        limits: Limits,
        admission: Admission,
        nonce: [u8; 16],
    ) -> Result<Configuration, ConfigurationError> {
        if members.len() > NODES_MAX {
            return Err(ConfigurationError::Members(members.len()));
        }
        for (node, member) in members.iter().enumerate() {
            let what = if member.roles == Roles::default() {
                "has no role; give it at least one of proposer, acceptor, learner"
            } else if members[..node]
                .iter()
                .any(|other| other.public == member.public)
            {
                "has the keys of an earlier member; every node needs an identity of its own"
            } else {
                continue;
            };
            return Err(ConfigurationError::Member { node, what });
        }
        check_limits(&limits, admission, model)?;
        let with = |role: fn(&Roles) -> bool| {
            let ids = members
                .iter()
                .enumerate()
                .filter(move |(_, member)| role(&member.roles));
            ids.map(|(node, _)| NodeId(u16::try_from(node).expect("at most NODES_MAX members")))
        };
        let acceptors: NodeSet = with(|roles| roles.acceptor).collect();
        let learners: NodeSet = with(|roles| roles.learner).collect();
        let proposers: Vec<NodeId> = with(|roles| roles.proposer).collect();
        let voting = with(|roles| roles.acceptor || roles.proposer).collect();
        let quorums = Quorums::new(model, f, acceptors.len(), learners.len(), proposers.len())?;
        let epoch = Epoch(0);
        let cluster = cluster_id(model, f, epoch, &members, &limits, admission, nonce);
        Ok(Configuration {
            model,
            f,
            epoch,
            members,
            limits,
            admission,
            quorums,
            cluster,
            acceptors,
            learners,
            proposers,
            voting,
        })
    }

    /// Which faults are borne.
    #[must_use]
    pub fn model(&self) -> FaultModel {
        self.model
    }

    /// How many are borne in each class of agents.
    #[must_use]
    pub fn f(&self) -> usize {
        self.f
    }

    /// The digest of all of this: who belongs together.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The keys of every digest, MAC and signature of this cluster and epoch.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope::new(self.cluster, self.epoch)
    }

    /// All members, by [`NodeId`].
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// One member.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.get(usize::from(node.0))
    }

    /// The shared limits.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// How clients prove their requests.
    #[must_use]
    pub fn admission(&self) -> Admission {
        self.admission
    }

    /// The thresholds.
    #[must_use]
    pub fn quorums(&self) -> &Quorums {
        &self.quorums
    }

    /// The acceptors.
    #[must_use]
    pub fn acceptors(&self) -> NodeSet {
        self.acceptors
    }

    /// The learners.
    #[must_use]
    pub fn learners(&self) -> NodeSet {
        self.learners
    }

    /// The proposers, ascending: `leader(r)` is the one at `r mod P`.
    #[must_use]
    pub fn proposers(&self) -> &[NodeId] {
        &self.proposers
    }

    /// Every node.
    #[must_use]
    pub fn nodes(&self) -> NodeSet {
        (0..self.members.len())
            .map(|node| NodeId(u16::try_from(node).expect("at most NODES_MAX members")))
            .collect()
    }

    /// The nodes that accept or propose, ascending: the order of the tags in a client's authenticator.
    #[must_use]
    pub fn voting(&self) -> &[NodeId] {
        &self.voting
    }

    /// Who leads in `regency`.
    #[must_use]
    pub fn leader(&self, regency: Regency) -> NodeId {
        let place = regency.0 % self.proposers.len() as u64;
        self.proposers[usize::try_from(place).expect("below the number of proposers")]
    }
}

/// More than the headers and the largest authenticator (16 bytes for each of [`NODES_MAX`] nodes) of a bundle.
const BUNDLE_OVERHEAD_BYTES: u32 = 3072;

fn check_limits(
    limits: &Limits,
    admission: Admission,
    model: FaultModel,
) -> Result<(), ConfigurationError> {
    let wrong = |what: String| Err(ConfigurationError::Limits(what));
    let (window, every) = (limits.window, limits.checkpoint_every);
    if every == 0 || window < every.saturating_mul(2) {
        return wrong(format!(
            "window {window} must be at least twice checkpoint_every {every}, which must be at least 1"
        ));
    }
    if window > 1 << 16 {
        return wrong(format!(
            "window {window} is above the 65536 decrees that a report can carry"
        ));
    }
    if limits.snapshot_every == 0 || !limits.snapshot_every.is_multiple_of(every) {
        return wrong(format!(
            "snapshot_every {} must be a multiple of checkpoint_every {every}",
            limits.snapshot_every
        ));
    }
    if limits.body_bytes_max < 4096 || limits.body_bytes_max > 1 << 26 {
        return wrong(format!(
            "body_bytes_max {} must be between 4096 and 67108864 bytes",
            limits.body_bytes_max
        ));
    }
    // A bundle of one request with its authenticator must fit a body.
    if limits
        .request_bytes_max
        .saturating_add(BUNDLE_OVERHEAD_BYTES)
        > limits.body_bytes_max
    {
        return wrong(format!(
            "request_bytes_max {} leaves no room for its authenticator in body_bytes_max {}",
            limits.request_bytes_max, limits.body_bytes_max
        ));
    }
    if limits.decree_reply_bytes_max < limits.reply_bytes_max.saturating_add(64) {
        return wrong(format!(
            "decree_reply_bytes_max {} has no room for the largest reply: raise it to at least reply_bytes_max {} + 64",
            limits.decree_reply_bytes_max, limits.reply_bytes_max
        ));
    }
    if limits.sessions_max == 0 || limits.session_decrees == 0 {
        return wrong("sessions_max and session_decrees must be at least 1".to_owned());
    }
    let (share, sessions) = (limits.sessions_per_client_max, limits.sessions_max);
    if share == 0 || share > sessions {
        return wrong(format!(
            "sessions_per_client_max {share} must be between 1 and sessions_max {sessions}"
        ));
    }
    if admission == Admission::Link && model != FaultModel::Crash {
        return wrong("admission \"link\" trusts the leader with clients' requests, which only mode crash may".to_owned());
    }
    Ok(())
}

fn cluster_id(
    model: FaultModel,
    f: usize,
    epoch: Epoch,
    members: &[Member],
    limits: &Limits,
    admission: Admission,
    nonce: [u8; 16],
) -> ClusterId {
    let mut bytes = Vec::new();
    bytes.push(match model {
        FaultModel::Fab => b'F',
        FaultModel::Crash => b'C',
    });
    bytes.push(match admission {
        Admission::Mac => b'm',
        Admission::Signed => b's',
        Admission::Link => b'l',
    });
    bytes.extend_from_slice(&nonce);
    let numbers = [
        f as u64,
        u64::from(epoch.0),
        members.len() as u64,
        limits.window,
        limits.checkpoint_every,
        limits.snapshot_every,
        limits.session_decrees,
        u64::from(limits.sessions_max),
        u64::from(limits.sessions_per_client_max),
        u64::from(limits.body_bytes_max),
        u64::from(limits.request_bytes_max),
        u64::from(limits.reply_bytes_max),
        u64::from(limits.decree_reply_bytes_max),
        u64::from(limits.session_reply_bytes_max),
        limits.reply_bytes_total_max,
    ];
    for number in numbers {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    for member in members {
        let roles = member.roles;
        bytes.extend([
            u8::from(roles.proposer),
            u8::from(roles.acceptor),
            u8::from(roles.learner),
        ]);
        bytes.extend_from_slice(&member.public.to_bytes());
    }
    ClusterId(digest_unscoped(Context::Configuration, &bytes).0)
}

/// What a node may choose for itself. Defaults are those of PROTOCOL.md section 5.8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// T0: the unit of every time-out and retransmission.
    pub t0: Duration,
    /// The most decrees that the leader has proposed and not yet seen acknowledged by f+1 learners.
    pub in_flight_max: u64,
    /// The most bundles that wait at the leader; beyond it clients are told `Busy`.
    pub waiting_bundles_max: usize,
    /// The most bytes of bundles that wait at the leader.
    pub waiting_bytes_max: usize,
    /// The most decrees that a learner keeps for others to pull.
    pub log_decrees_max: usize,
    /// The most bytes of bodies that a learner keeps for others to pull.
    pub log_bytes_max: usize,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            t0: Duration::from_millis(500),
            in_flight_max: 16,
            waiting_bundles_max: 16_384,
            waiting_bytes_max: 64 << 20,
            log_decrees_max: 1 << 20,
            log_bytes_max: 64 << 20,
        }
    }
}
