//! The configuration of one node, in layers: its file, then `TWOSTEP_*` variables, then flags. The last one wins.
//!
//! ```toml
//! node = 0                   # which member of the cluster this is
//! cluster = "cluster.toml"   # relative to this file
//! identity = "identity"
//! t0_ms = 250                # any tunable of `TUNABLES`
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use toml::de::{DeTable, DeValue};
use twostep_crypto::{Identity, KeyError};

use crate::node::cluster::{CLUSTER_FILE, ClusterFile, IDENTITY_FILE};
use crate::node::file::{self, FileError};
use crate::node::tunables::{NodeOptions, TUNABLES, Tunable};
use crate::types::NodeId;

/// The name of a node's configuration file in its folder.
pub const CONFIG_FILE: &str = "config.toml";

/// Everything that one node needs to run, read and checked.
#[derive(Clone)]
pub struct NodeConfig {
    /// The node's folder: where its file lies, its lock, its `started` file and its control socket.
    pub folder: PathBuf,
    /// Which member it is.
    pub node: NodeId,
    /// The cluster.
    pub cluster: ClusterFile,
    /// Its keys; their public halves are the member's.
    pub identity: Arc<Identity>,
    /// What it chose for itself.
    pub options: NodeOptions,
}

/// Why a node's configuration is refused.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// A file is wrong.
    #[error(transparent)]
    File(#[from] FileError),
    /// The identity cannot be read.
    #[error(transparent)]
    Identity(#[from] KeyError),
    /// A variable or flag is wrong.
    #[error("{source_name}: {what}")]
    Setting {
        /// The variable or flag.
        source_name: String,
        /// What is wrong.
        what: String,
    },
    /// The keys do not belong to the member.
    #[error(
        "identity {identity}: its public identity {found} is not the one of node {node} in {cluster}; \
         use the identity that was made with this cluster, or correct `node`"
    )]
    Foreign {
        /// The identity file.
        identity: PathBuf,
        /// The cluster file.
        cluster: PathBuf,
        /// The node it should belong to.
        node: NodeId,
        /// Its public identity.
        found: String,
    },
}

/// A value that overrides the file, and where it was said.
#[derive(Clone, Debug)]
pub struct Override {
    /// The key of the tunable.
    pub key: &'static str,
    /// The value as text.
    pub value: String,
    /// The variable or flag, for messages.
    pub said_by: String,
}

/// The overrides that the environment says, and a complaint about variables that look like one and are none.
///
/// # Errors
/// An unknown `TWOSTEP_*` variable, with the nearest known one.
pub fn overrides_of_environment(
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Vec<Override>, ConfigError> {
    let mut overrides = Vec::new();
    for (name, value) in variables {
        if !name.starts_with("TWOSTEP_") {
            continue;
        }
        let Some(tunable) = TUNABLES.iter().find(|tunable| tunable.variable() == name) else {
            let known: Vec<String> = TUNABLES.iter().map(Tunable::variable).collect();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            return Err(ConfigError::Setting {
                what: file::unknown_key(&name, &known).replacen(
                    "unknown key",
                    "unknown variable",
                    1,
                ),
                source_name: "environment".to_owned(),
            });
        };
        overrides.push(Override {
            key: tunable.key,
            value,
            said_by: name,
        });
    }
    Ok(overrides)
}

impl NodeConfig {
    /// Reads a node's file and applies the overrides in order: environment first, then flags.
    ///
    /// # Errors
    /// [`ConfigError`] says what is wrong, where, and what to do.
    pub fn load(path: &Path, overrides: &[Override]) -> Result<NodeConfig, ConfigError> {
        let text = file::read(path)?;
        let document = Document::parse(path, &text)?;
        let mut options = document.options;
        for said in overrides {
            let tunable = Tunable::named(said.key).expect("overrides are made from the table");
            (tunable.set)(&mut options, &said.value).map_err(|what| ConfigError::Setting {
                source_name: said.said_by.clone(),
                what,
            })?;
        }
        let folder = match path.parent() {
            Some(folder) if folder != Path::new("") => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        let cluster = ClusterFile::load(&folder.join(document.cluster))?;
        let node = document.node;
        let Some(member) = cluster.configuration.member(node) else {
            let members = cluster.configuration.members().len();
            return Err(FileError::whole(
                path,
                format!(
                    "node = {node}, but {} has the nodes 0 to {}",
                    cluster.path.display(),
                    members - 1
                ),
            )
            .into());
        };
        options
            .check(cluster.configuration.limits())
            .map_err(|what| FileError::whole(path, what))?;
        let identity_path = folder.join(document.identity);
        let identity = Identity::load(&identity_path)?;
        if identity.public() != member.public {
            return Err(ConfigError::Foreign {
                identity: identity_path,
                cluster: cluster.path,
                node,
                found: identity.public().to_string(),
            });
        }
        Ok(NodeConfig {
            folder,
            node,
            cluster,
            identity: Arc::new(identity),
            options,
        })
    }
}

/// The text of a node's file as `testnet` writes it: what is needed, and every tunable with its default as a comment.
#[must_use]
pub fn config_text(node: NodeId, chosen: &NodeOptions) -> String {
    let mut text = format!(
        "# Node {node}. Every key is also a variable (TWOSTEP_T0_MS) and a flag (--t0-ms); a flag wins over a variable,\n\
         # a variable over this file. Commented keys show the defaults.\n\
         node = {node}\ncluster = \"{CLUSTER_FILE}\"\nidentity = \"{IDENTITY_FILE}\"\n"
    );
    let defaults = NodeOptions::default();
    for tunable in TUNABLES {
        let value = (tunable.show)(chosen);
        let comment = if value == (tunable.show)(&defaults) {
            "# "
        } else {
            ""
        };
        let plain = value.parse::<u64>().is_ok() || value.parse::<bool>().is_ok();
        let value = if plain { value } else { format!("{value:?}") };
        text.push_str(&format!(
            "\n# {}.\n{comment}{} = {value}\n",
            tunable.help, tunable.key
        ));
    }
    text
}

struct Document {
    node: NodeId,
    cluster: String,
    identity: String,
    options: NodeOptions,
}

impl Document {
    fn parse(path: &Path, text: &str) -> Result<Document, FileError> {
        let at = |span, what: String| FileError {
            path: path.to_owned(),
            line: Some(file::line(text, &span)),
            what,
        };
        let table = DeTable::parse(text).map_err(|error| FileError {
            path: path.to_owned(),
            line: error.span().map(|span| file::line(text, &span)),
            what: error.message().to_owned(),
        })?;
        let mut node = None;
        let mut document = Document {
            node: NodeId(0),
            cluster: CLUSTER_FILE.to_owned(),
            identity: IDENTITY_FILE.to_owned(),
            options: NodeOptions::default(),
        };
        for (key, value) in table.get_ref() {
            let (key, at_key) = (key.get_ref().as_ref(), key.span());
            let said = as_text(value.get_ref()).ok_or_else(|| {
                at(
                    value.span(),
                    format!("{key}: expected a number, true, false or text"),
                )
            })?;
            match key {
                "node" => {
                    let number = said.parse().map_err(|_| {
                        at(
                            value.span(),
                            format!("node: expected the number of a node, found {said}"),
                        )
                    })?;
                    node = Some(NodeId(number));
                }
                "cluster" => document.cluster = said,
                "identity" => document.identity = said,
                _ => {
                    let Some(tunable) = Tunable::named(key) else {
                        let known: Vec<&str> = ["node", "cluster", "identity"]
                            .into_iter()
                            .chain(TUNABLES.iter().map(|t| t.key))
                            .collect();
                        return Err(at(at_key, file::unknown_key(key, &known)));
                    };
                    (tunable.set)(&mut document.options, &said)
                        .map_err(|what| at(value.span(), format!("{key}: {what}")))?;
                }
            }
        }
        document.node = node.ok_or_else(|| {
            FileError::whole(
                path,
                "the key `node` is missing: which member of the cluster is this?",
            )
        })?;
        Ok(document)
    }
}

fn as_text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
        DeValue::Boolean(flag) => Some(flag.to_string()),
        _ => None,
    }
}
