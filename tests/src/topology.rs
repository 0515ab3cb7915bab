//! Which node holds which roles, and the configurations made of that.
//!
//! Identities are made once per process and shared by all worlds: their keys cost far more than a short run.

use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};
use twostep_crypto::Identity;
use twostep_engine::configuration::{
    Admission, Configuration, ConfigurationError, Limits, Member, Roles,
};
use twostep_engine::quorum::FaultModel;
use twostep_engine::types::NODES_MAX;

/// The most clients of one world.
pub const CLIENTS_MAX: usize = 64;

/// How roles are spread over nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Topology {
    /// As in production: every node accepts and the first ones also propose and learn; in mode C every node
    /// holds every role.
    Shared,
    /// Every role on a node of its own: proposers first, then acceptors, then learners.
    Separate,
}

/// How many agents of each class a fault model has. The simulator's own arithmetic, from the table of
/// PROTOCOL.md section 2, so that a wrong formula in the engine cannot hide behind itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classes {
    /// Acceptors.
    pub acceptors: usize,
    /// Proposers.
    pub proposers: usize,
    /// Learners.
    pub learners: usize,
    /// Equal votes that decide.
    pub learn: usize,
    /// Equal replies that a client believes.
    pub reply: usize,
}

impl Classes {
    /// The classes that bear `f` faults.
    #[must_use]
    pub fn of(model: FaultModel, f: usize) -> Classes {
        match model {
            FaultModel::Fab => Classes {
                acceptors: 5 * f + 1,
                proposers: 3 * f + 1,
                learners: 3 * f + 1,
                learn: 4 * f + 1,
                reply: f + 1,
            },
            FaultModel::Crash => Classes {
                acceptors: 2 * f + 1,
                proposers: 2 * f + 1,
                learners: 2 * f + 1,
                learn: f + 1,
                reply: 1,
            },
        }
    }
}

/// The roles of every node, by id.
#[must_use]
pub fn roles(model: FaultModel, f: usize, topology: Topology) -> Vec<Roles> {
    let classes = Classes::of(model, f);
    match topology {
        Topology::Shared => (0..classes.acceptors)
            .map(|node| {
                if node < classes.learners {
                    Roles::ALL
                } else {
                    Roles::ACCEPTOR
                }
            })
            .collect(),
        Topology::Separate => [
            vec![Roles::PROPOSER; classes.proposers],
            vec![Roles::ACCEPTOR; classes.acceptors],
            vec![Roles::LEARNER; classes.learners],
        ]
        .concat(),
    }
}

/// A checked configuration of nodes with the identities of [`node_identity`].
///
/// # Errors
/// [`ConfigurationError`] when the limits contradict each other or f is too large for one configuration.
pub fn configuration(
    model: FaultModel,
    f: usize,
    topology: Topology,
    limits: Limits,
) -> Result<Configuration, ConfigurationError> {
    let roles = roles(model, f, topology);
    if roles.len() > NODES_MAX {
        return Err(ConfigurationError::Members(roles.len()));
    }
    let members = roles
        .into_iter()
        .enumerate()
        .map(|(node, roles)| Member {
            roles,
            public: node_identity(node).public(),
        })
        .collect();
    let admission = match model {
        FaultModel::Fab => Admission::Mac,
        FaultModel::Crash => Admission::Link,
    };
    Configuration::new(model, f, members, limits, admission, *b"twostep simulate")
}

/// The identity of a node.
///
/// # Panics
/// If `node` is not below [`NODES_MAX`].
#[must_use]
pub fn node_identity(node: usize) -> Arc<Identity> {
    static NODES: [OnceLock<Arc<Identity>>; NODES_MAX] = [const { OnceLock::new() }; NODES_MAX];
    made(&NODES[node], 0, node)
}

/// The identity of a client.
///
/// # Panics
/// If `client` is not below [`CLIENTS_MAX`].
#[must_use]
pub fn client_identity(client: usize) -> Arc<Identity> {
    static CLIENTS: [OnceLock<Arc<Identity>>; CLIENTS_MAX] =
        [const { OnceLock::new() }; CLIENTS_MAX];
    made(&CLIENTS[client], 1, client)
}

fn made(cell: &OnceLock<Arc<Identity>>, class: u8, place: usize) -> Arc<Identity> {
    let make = || {
        let mut seed = [class; 32];
        seed[..8].copy_from_slice(&(place as u64).to_le_bytes());
        Arc::new(Identity::from_seed(seed))
    };
    Arc::clone(cell.get_or_init(make))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topology_makes_a_configuration() {
        for model in [FaultModel::Fab, FaultModel::Crash] {
            for f in 1..=3 {
                for topology in [Topology::Shared, Topology::Separate] {
                    let configuration =
                        configuration(model, f, topology, Limits::default()).expect("sizes fit");
                    let classes = Classes::of(model, f);
                    assert_eq!(configuration.acceptors().len(), classes.acceptors);
                    assert_eq!(configuration.learners().len(), classes.learners);
                    assert_eq!(configuration.proposers().len(), classes.proposers);
                }
            }
        }
    }

    #[test]
    fn too_many_nodes_are_refused() {
        let refused = configuration(FaultModel::Fab, 40, Topology::Separate, Limits::default());
        assert!(matches!(refused, Err(ConfigurationError::Members(_))));
    }
}
