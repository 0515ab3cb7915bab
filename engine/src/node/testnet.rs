//! A new cluster as folders: one for every node and client, with identities, the cluster file and configuration.
//!
//! ```text
//! DIR/node-0/    config.toml  identity  cluster.toml  journal/   move each folder to its machine, correct the addresses,
//! DIR/node-1/    …                                               start `twostep node --config node-K/config.toml`
//! DIR/client-0/  identity  cluster.toml
//! ```
//!
//! The journal says that its node has never run; nothing else may say that. With `durability = "memory"` there is none, and
//! the first start is said by a flag (`--first-start`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;
use twostep_crypto::{Identity, KeyError};
use twostep_net::Carrier;

use crate::configuration::{Admission, Configuration, ConfigurationError, Limits, Member, Roles};
use crate::journal::JournalError;
use crate::node::cluster::{CLUSTER_FILE, ClusterPlan, IDENTITY_FILE};
use crate::node::config::{CONFIG_FILE, config_text};
use crate::node::durable;
use crate::node::tunables::{Durability, NodeOptions};
use crate::quorum::FaultModel;
use crate::types::NodeId;

/// What is to be made.
#[derive(Clone, Debug)]
pub struct TestnetPlan {
    /// Which faults the cluster bears.
    pub mode: FaultModel,
    /// How many.
    pub f: usize,
    /// How clients prove their requests; the mode's default if not said.
    pub admission: Option<Admission>,
    /// The address of every node.
    pub addresses: Vec<String>,
    /// How many clients get an identity.
    pub clients: usize,
    /// The shared limits.
    pub limits: Limits,
    /// What every node's file says.
    pub options: NodeOptions,
    /// How nodes and clients talk to each other.
    pub carrier: Carrier,
    /// Whether nodes and clients may be told to lie.
    pub misbehaviour: bool,
}

/// Why no folders were made.
#[derive(Debug, Error)]
pub enum TestnetError {
    /// The folder holds something already.
    #[error(
        "{0}: already holds a cluster; choose another folder, or remove this one (its keys are then lost)"
    )]
    Exists(PathBuf),
    /// The plan contradicts itself.
    #[error(transparent)]
    Plan(#[from] ConfigurationError),
    /// A tunable is out of bounds.
    #[error("{0}")]
    Options(String),
    /// A number that cannot be.
    #[error("{0}")]
    Number(String),
    /// A file or folder could not be made.
    #[error("{path}: cannot make it: {source}", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An identity could not be made.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A journal could not be made.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// The nodes that a mode needs to bear `f` faults when roles share processes.
#[must_use]
pub fn nodes_of(mode: FaultModel, f: usize) -> usize {
    mode.acceptors(f)
}

/// The roles of `node` when roles share processes: all accept; in mode F the first 3f+1 propose, learn and execute
/// too, in mode C every node does everything (PROTOCOL.md section 2).
#[must_use]
pub fn roles_of(mode: FaultModel, f: usize, node: usize) -> Roles {
    if mode == FaultModel::Crash || node < mode.learners(f) {
        Roles::ALL
    } else {
        Roles::ACCEPTOR
    }
}

/// The folder of a node in the folder of a testnet.
#[must_use]
pub fn node_folder(folder: &Path, node: NodeId) -> PathBuf {
    folder.join(format!("node-{node}"))
}

/// The folder of a client in the folder of a testnet.
#[must_use]
pub fn client_folder(folder: &Path, client: usize) -> PathBuf {
    folder.join(format!("client-{client}"))
}

/// The most clients that one call makes identities for.
pub const CLIENTS_MAX: usize = 10_000;

/// Makes the folders of a new cluster under `folder`, which is made if it does not exist.
///
/// # Errors
/// [`TestnetError`]; nothing that exists is overwritten.
pub fn create(folder: &Path, plan: &TestnetPlan) -> Result<Configuration, TestnetError> {
    let expected = nodes_of(plan.mode, plan.f);
    if plan.addresses.len() != expected {
        let found = plan.addresses.len();
        return Err(TestnetError::Number(format!(
            "mode {} with f = {} has {expected} nodes, {found} addresses were given",
            plan.mode, plan.f
        )));
    }
    if plan.clients == 0 || plan.clients > CLIENTS_MAX {
        return Err(TestnetError::Number(format!(
            "{} clients: expected 1 to {CLIENTS_MAX}",
            plan.clients
        )));
    }
    if node_folder(folder, NodeId(0)).exists() || client_folder(folder, 0).exists() {
        return Err(TestnetError::Exists(folder.to_owned()));
    }
    let node_keys = identities(expected)?;
    let client_keys = identities(plan.clients)?;
    let nodes = node_keys
        .iter()
        .zip(&plan.addresses)
        .enumerate()
        .map(|(node, (keys, address))| {
            let roles = roles_of(plan.mode, plan.f, node);
            (
                address.clone(),
                Member {
                    roles,
                    public: keys.public(),
                },
            )
        });
    // The nonce only has to differ from cluster to cluster; a fresh public key does.
    let mut nonce = [0; 16];
    nonce.copy_from_slice(&Identity::generate()?.public().agree[..16]);
    let default_admission = if plan.mode == FaultModel::Crash {
        Admission::Link
    } else {
        Admission::Mac
    };
    let (cluster_text, configuration) = ClusterPlan {
        mode: plan.mode,
        f: plan.f,
        admission: plan.admission.unwrap_or(default_admission),
        nonce,
        limits: plan.limits,
        nodes: nodes.collect(),
        clients: client_keys.iter().map(Identity::public).collect(),
        carrier: plan.carrier,
        misbehaviour: plan.misbehaviour,
    }
    .write()?;
    plan.options
        .check(&plan.limits)
        .map_err(TestnetError::Options)?;
    for (node, keys) in configuration.nodes().iter().zip(&node_keys) {
        let folder = node_folder(folder, node);
        write_folder(&folder, keys, &cluster_text)?;
        write_file(&folder.join(CONFIG_FILE), &config_text(node, &plan.options))?;
        if plan.options.durability == Durability::Sync {
            durable::bear(&folder, &configuration, node, &plan.options)?;
        }
    }
    for (client, keys) in client_keys.iter().enumerate() {
        write_folder(&client_folder(folder, client), keys, &cluster_text)?;
    }
    Ok(configuration)
}

fn identities(count: usize) -> Result<Vec<Identity>, KeyError> {
    (0..count).map(|_| Identity::generate()).collect()
}

fn write_folder(folder: &Path, keys: &Identity, cluster_text: &str) -> Result<(), TestnetError> {
    fs::create_dir_all(folder).map_err(|source| TestnetError::Io {
        path: folder.to_owned(),
        source,
    })?;
    keys.save(&folder.join(IDENTITY_FILE))?;
    write_file(&folder.join(CLUSTER_FILE), cluster_text)
}

fn write_file(path: &Path, text: &str) -> Result<(), TestnetError> {
    fs::write(path, text).map_err(|source| TestnetError::Io {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::cluster::ClientFolder;
    use crate::node::config::{ConfigError, NodeConfig, Override, overrides_of_environment};

    fn plan(mode: FaultModel, f: usize) -> TestnetPlan {
        let addresses = (0..nodes_of(mode, f)).map(|node| format!("127.0.0.1:{}", 27_100 + node));
        TestnetPlan {
            mode,
            f,
            admission: None,
            addresses: addresses.collect(),
            clients: 2,
            limits: Limits::default(),
            options: NodeOptions::default(),
            carrier: Carrier::default(),
            misbehaviour: false,
        }
    }

    fn load(folder: &Path, overrides: &[Override]) -> Result<NodeConfig, ConfigError> {
        NodeConfig::load(&folder.join("node-0").join(CONFIG_FILE), overrides)
    }

    fn edit(path: &Path, old: &str, new: &str) {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.contains(old), "{old} is in {}", path.display());
        fs::write(path, text.replacen(old, new, 1)).unwrap();
    }

    #[test]
    fn every_folder_loads_and_belongs_to_one_cluster() {
        for (mode, f, nodes, learners) in [
            (FaultModel::Fab, 1, 6, 4),
            (FaultModel::Fab, 2, 11, 7),
            (FaultModel::Crash, 1, 3, 3),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let made = create(folder.path(), &plan(mode, f)).unwrap();
            assert_eq!(
                (made.members().len(), made.learners().len()),
                (nodes, learners)
            );
            for node in made.nodes().iter() {
                let config =
                    NodeConfig::load(&node_folder(folder.path(), node).join(CONFIG_FILE), &[])
                        .unwrap();
                assert_eq!(
                    (config.node, config.cluster.configuration.cluster()),
                    (node, made.cluster())
                );
                assert_eq!(config.options, NodeOptions::default());
            }
            for client in 0..2 {
                let client = ClientFolder::load(&client_folder(folder.path(), client)).unwrap();
                assert!(client.cluster.clients.contains(&client.identity.public()));
            }
            let again = create(folder.path(), &plan(mode, f)).expect_err("must not overwrite keys");
            assert!(
                again.to_string().contains("already holds a cluster"),
                "{again}"
            );
        }
    }

    #[test]
    fn layers_win_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut plan = plan(FaultModel::Crash, 1);
        plan.options.t0_ms = 300;
        create(folder.path(), &plan).unwrap();
        assert_eq!(load(folder.path(), &[]).unwrap().options.t0_ms, 300);
        let variable = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
        let mut layers = overrides_of_environment(variable("TWOSTEP_T0_MS", "400")).unwrap();
        assert_eq!(load(folder.path(), &layers).unwrap().options.t0_ms, 400);
        layers.push(Override {
            key: "t0_ms",
            value: "500".to_owned(),
            said_by: "--t0-ms".to_owned(),
        });
        assert_eq!(load(folder.path(), &layers).unwrap().options.t0_ms, 500);
        let unknown = overrides_of_environment(variable("TWOSTEP_TO_MS", "1"))
            .err()
            .unwrap()
            .to_string();
        assert!(
            unknown.starts_with(
                "environment: unknown variable `TWOSTEP_TO_MS`; did you mean `TWOSTEP_T0_MS`?"
            ),
            "{unknown}"
        );
        let bad = overrides_of_environment(variable("TWOSTEP_T0_MS", "soon")).unwrap();
        let error = load(folder.path(), &bad).err().unwrap().to_string();
        assert_eq!(
            error,
            "TWOSTEP_T0_MS: expected a whole number, found \"soon\""
        );
    }

    #[test]
    fn what_newcomers_get_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        create(folder.path(), &plan(FaultModel::Fab, 1)).unwrap();
        let config = folder.path().join("node-0").join(CONFIG_FILE);
        let error = |expected: &str| {
            let error = load(folder.path(), &[]).err().expect(expected).to_string();
            assert!(error.contains(expected), "{error}");
        };
        edit(&config, "# t0_ms = 500", "t0ms = 500");
        error("unknown key `t0ms`; did you mean `t0_ms`?");
        edit(&config, "t0ms = 500", "t0_ms = \"soon\"");
        error("t0_ms: expected a whole number, found \"soon\"");
        edit(&config, "t0_ms = \"soon\"", "t0_ms = 1");
        error("t0_ms = 1: expected 5 to 3600000");
        edit(&config, "t0_ms = 1", "t0_ms = 10");
        edit(&config, "node = 0", "node = 9");
        error("has the nodes 0 to 5");
        edit(&config, "node = 9", "node = 1");
        error("is not the one of node 1");
        edit(&config, "node = 1", "# node = 1");
        error("the key `node` is missing");
        edit(&config, "# node = 1", "node = 0");
        load(folder.path(), &[]).unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        let identity = folder.path().join("node-0").join(IDENTITY_FILE);
        fs::set_permissions(&identity, fs::Permissions::from_mode(0o644)).unwrap();
        error("chmod 600");
        let nowhere = ClientFolder::load(folder.path()).err().unwrap().to_string();
        assert!(
            nowhere.contains("expected the folder of a client, such as client-0"),
            "{nowhere}"
        );
    }
}
