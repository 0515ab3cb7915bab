//! What a client is made from: its cluster, its identity and keys, and what it may choose.

use std::sync::Arc;
use std::time::Duration;

use twostep_crypto::{Identity, MacKey, WeakKey, authenticator_key};

use crate::configuration::Configuration;
use crate::types::NodeId;

/// What a client may choose for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientTuning {
    /// How long to wait for an answer before the first retry, at least: where answers take longer than that, it is what
    /// they take and four times the deviation of it. Each further retry waits twice as long.
    pub retry: Duration,
    /// The longest wait between two retries.
    pub retry_max: Duration,
    /// How long a call may take before it ends as unknown.
    pub deadline: Duration,
    /// Sign every bundle instead of tagging it: for clusters that do not take tags, and for clients whose tags are
    /// doubted. On in clusters with `signed` admission in any case.
    pub signed: bool,
    /// The most sessions at a time.
    pub sessions_max: u32,
    /// The most unresolved calls of one session, 1 to 64; others are cut to that. The memory of a session grows with it.
    pub window: usize,
}

impl Default for ClientTuning {
    fn default() -> ClientTuning {
        ClientTuning {
            retry: Duration::from_millis(200),
            retry_max: Duration::from_secs(2),
            deadline: Duration::from_secs(30),
            signed: false,
            sessions_max: 4096,
            window: 64,
        }
    }
}

/// The keys of the tags beside a client's bundles: one for each voting node, in ascending order.
/// Deriving them costs 40 µs each, so that they are made once and shared.
#[derive(Clone, Debug)]
pub struct AuthenticatorKeys(pub(super) Arc<[MacKey]>);

impl AuthenticatorKeys {
    /// Derives the keys of one client in one cluster.
    ///
    /// # Errors
    /// [`WeakKey`] if a node has an unusable key or is the client itself.
    pub fn derive(
        configuration: &Configuration,
        identity: &Identity,
    ) -> Result<AuthenticatorKeys, WeakKey> {
        let scope = configuration.scope();
        let client = identity.public().client_id();
        let key = |node: &NodeId| {
            let member = configuration
                .member(*node)
                .expect("voting nodes are members");
            authenticator_key(&scope, identity, &member.public, client, *node)
        };
        configuration
            .voting()
            .iter()
            .map(key)
            .collect::<Result<_, _>>()
            .map(AuthenticatorKeys)
    }
}

/// What a [`ClientCore`](super::ClientCore) is made from. Cheap to clone, so that the keys are derived once.
#[derive(Clone, Debug)]
pub struct ClientSetup {
    /// The cluster.
    pub configuration: Arc<Configuration>,
    /// Who the client is.
    pub identity: Arc<Identity>,
    /// The keys of its tags.
    pub keys: AuthenticatorKeys,
    /// What it chooses.
    pub tuning: ClientTuning,
    /// Where the nonces of its Opens start. It must be random and new at every start of the client: a nonce
    /// that comes twice gets the old session.
    pub seed: u64,
}

impl ClientSetup {
    /// Derives the keys of the tags and takes the default tuning.
    ///
    /// # Errors
    /// [`WeakKey`] if a node has an unusable key or is the client itself.
    pub fn new(
        configuration: Arc<Configuration>,
        identity: Arc<Identity>,
        seed: u64,
    ) -> Result<ClientSetup, WeakKey> {
        let keys = AuthenticatorKeys::derive(&configuration, &identity)?;
        Ok(ClientSetup {
            configuration,
            identity,
            keys,
            tuning: ClientTuning::default(),
            seed,
        })
    }
}
