//! The cluster file: who belongs together, under which keys and limits, and where. Every node and every client
//! has the same one.
//!
//! ```toml
//! cluster = "3f0c…"          # digest of everything below but addresses, clients, transport and misbehaviour; checked when read
//! mode = "fab"               # or "crash"
//! f = 1
//! admission = "mac"          # or "signed"; "link" in mode crash
//! nonce = "90ab…"            # makes two clusters of the same members different
//! clients = ["77aa…"]        # the public identities that may order
//! transport = "udp"          # "tcp" if not said
//! mtu = 1472                 # with udp: most bytes of a datagram, 1472 if not said
//! misbehaviour = true        # only in clusters made for it: nodes and load generators may be told to lie
//! [limits]                   # see `Limits`
//! window = 256
//! [[node]]                   # node 0, node 1, …
//! address = "127.0.0.1:27100"
//! roles = ["proposer", "acceptor", "learner"]
//! public = "55ee…"
//! ```

use std::fmt::Write as _;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use twostep_crypto::{Identity, KeyError, PublicIdentity, WeakKey};
use twostep_net::{Carrier, Transport};

use crate::client::{ClientOptions, ClientSetup};
use crate::configuration::{Admission, Configuration, Limits, Member, Roles};
use crate::node::file::{self, FileError};
use crate::quorum::FaultModel;
use crate::types::NodeId;

/// The name of the cluster file in the folder of a node or client.
pub const CLUSTER_FILE: &str = "cluster.toml";
/// The name of the identity file in the folder of a node or client.
pub const IDENTITY_FILE: &str = "identity";

/// A cluster file that was read and checked.
#[derive(Clone, Debug)]
pub struct ClusterFile {
    /// Where it was read from; for messages.
    pub path: PathBuf,
    /// What all nodes share.
    pub configuration: Arc<Configuration>,
    /// The address of each node ("host:port"), by [`NodeId`].
    pub addresses: Vec<String>,
    /// Who may order.
    pub clients: Vec<PublicIdentity>,
    /// How nodes and clients talk to each other. It is not part of the cluster's id: nobody who differs gets a link.
    pub carrier: Carrier,
    /// Whether nodes and clients of this cluster may be told to lie (`node --misbehave`).
    pub misbehaviour: bool,
}

/// What a new cluster is made of; see [`ClusterPlan::write`].
#[derive(Clone, Debug)]
pub struct ClusterPlan {
    /// Which faults it bears.
    pub mode: FaultModel,
    /// How many.
    pub f: usize,
    /// How clients prove their requests.
    pub admission: Admission,
    /// Makes it different from another cluster of the same members.
    pub nonce: [u8; 16],
    /// The shared limits.
    pub limits: Limits,
    /// The nodes: address, roles, keys.
    pub nodes: Vec<(String, Member)>,
    /// Who may order.
    pub clients: Vec<PublicIdentity>,
    /// How its nodes and clients talk to each other.
    pub carrier: Carrier,
    /// Whether its nodes and clients may be told to lie.
    pub misbehaviour: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    cluster: String,
    mode: FaultModel,
    f: usize,
    #[serde(default)]
    admission: Admission,
    nonce: String,
    #[serde(default)]
    clients: Vec<PublicIdentity>,
    #[serde(default, skip_serializing_if = "TransportName::is_tcp")]
    transport: TransportName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mtu: Option<usize>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    misbehaviour: bool,
    #[serde(default)]
    limits: Limits,
    node: Vec<NodeEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeEntry {
    address: String,
    roles: Vec<Role>,
    public: PublicIdentity,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Role {
    Proposer,
    Acceptor,
    Learner,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum TransportName {
    #[default]
    Tcp,
    Udp,
}

impl TransportName {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    fn is_tcp(&self) -> bool {
        *self == TransportName::Tcp
    }
}

impl Document {
    fn carrier(&self) -> Result<Carrier, String> {
        let transport = match self.transport {
            TransportName::Tcp => Transport::Tcp,
            TransportName::Udp => Transport::Udp,
        };
        if transport == Transport::Tcp && self.mtu.is_some() {
            return Err("mtu: only with transport = \"udp\"".to_owned());
        }
        let mtu = self.mtu.unwrap_or(Carrier::default().mtu);
        let carrier = Carrier { transport, mtu };
        carrier.check().map(|()| carrier)
    }
}

impl ClusterFile {
    /// Reads and checks a cluster file.
    ///
    /// # Errors
    /// [`FileError`]: unreadable, malformed, contradictory, or changed since its cluster id was computed.
    pub fn load(path: &Path) -> Result<ClusterFile, FileError> {
        let text = file::read(path)?;
        let document: Document = file::parse(path, &text)?;
        let wrong = |what: String| FileError::whole(path, what);
        let carrier = document.carrier().map_err(wrong)?;
        let mut nonce = [0; 16];
        decode_hex(&document.nonce, &mut nonce).map_err(|found| {
            wrong(format!(
                "nonce: expected 32 hexadecimal characters, found {found}"
            ))
        })?;
        let members = document.node.iter().map(|entry| Member {
            roles: roles_of(&entry.roles),
            public: entry.public,
        });
        let configuration = Configuration::new(
            document.mode,
            document.f,
            members.collect(),
            document.limits,
            document.admission,
            nonce,
        )
        .map_err(|error| wrong(error.to_string()))?;
        let computed = configuration.cluster().to_string();
        if computed != document.cluster {
            return Err(wrong(format!(
                "cluster = \"{}\", but the rest of the file makes {computed}: something that all nodes share was \
                 changed (mode, f, admission, nonce, limits, or a node's roles or keys). Undo the change, or write the \
                 computed id into the file of every node and client and restart them all",
                document.cluster
            )));
        }
        for (node, entry) in document.node.iter().enumerate() {
            if !entry.address.contains(':') {
                return Err(wrong(format!(
                    "node {node}: address \"{}\" is no host:port",
                    entry.address
                )));
            }
        }
        Ok(ClusterFile {
            path: path.to_owned(),
            configuration: Arc::new(configuration),
            addresses: document
                .node
                .into_iter()
                .map(|entry| entry.address)
                .collect(),
            clients: document.clients,
            carrier,
            misbehaviour: document.misbehaviour,
        })
    }

    /// The socket address of every node, names resolved.
    ///
    /// # Errors
    /// [`FileError`] naming the node whose address does not resolve.
    pub fn resolve(&self) -> Result<Vec<(NodeId, SocketAddr)>, FileError> {
        let nodes = self.configuration.nodes();
        nodes
            .iter()
            .map(|node| Ok((node, self.resolve_one(node)?)))
            .collect()
    }

    /// The socket address of one node, its name resolved.
    ///
    /// # Errors
    /// [`FileError`] when it does not resolve or the cluster has no such node.
    pub fn resolve_one(&self, node: NodeId) -> Result<SocketAddr, FileError> {
        let wrong = |what: String| FileError::whole(&self.path, format!("node {node}: {what}"));
        let address = self.addresses.get(usize::from(node.0));
        let address = address.ok_or_else(|| wrong("the cluster has no such node".to_owned()))?;
        let resolved = address.to_socket_addrs();
        let resolved = resolved
            .map_err(|error| wrong(format!("address \"{address}\" does not resolve: {error}")))?;
        let mut resolved = resolved;
        resolved
            .next()
            .ok_or_else(|| wrong(format!("address \"{address}\" resolves to nothing")))
    }
}

impl ClusterPlan {
    /// The text of the cluster file, and the configuration that it describes.
    ///
    /// # Errors
    /// Says which part of the plan contradicts what.
    pub fn write(
        &self,
    ) -> Result<(String, Configuration), crate::configuration::ConfigurationError> {
        let members = self
            .nodes
            .iter()
            .map(|(_, member)| member.clone())
            .collect();
        let configuration = Configuration::new(
            self.mode,
            self.f,
            members,
            self.limits,
            self.admission,
            self.nonce,
        )?;
        let document = Document {
            cluster: configuration.cluster().to_string(),
            mode: self.mode,
            f: self.f,
            admission: self.admission,
            nonce: encode_hex(&self.nonce),
            clients: self.clients.clone(),
            transport: match self.carrier.transport {
                Transport::Tcp => TransportName::Tcp,
                Transport::Udp => TransportName::Udp,
            },
            mtu: (self.carrier.transport == Transport::Udp).then_some(self.carrier.mtu),
            misbehaviour: self.misbehaviour,
            limits: self.limits,
            node: self
                .nodes
                .iter()
                .map(|(address, member)| entry_of(address, member))
                .collect(),
        };
        let text =
            toml::to_string(&document).expect("every part of the document has a form in TOML");
        let heading = "# Who belongs to this cluster. The same file for every node and client: all but the addresses, clients,\n\
                       # transport, mtu and misbehaviour is covered by the cluster id, so nodes whose files differ refuse each other.\n";
        Ok((format!("{heading}{text}"), configuration))
    }
}

/// The folder of a client, as `testnet` writes it: its identity, and the cluster file.
pub struct ClientFolder {
    /// The cluster.
    pub cluster: ClusterFile,
    /// The client's keys.
    pub identity: Arc<Identity>,
}

/// Why a client's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClientFolderError {
    /// The cluster file.
    #[error(transparent)]
    Cluster(#[from] FileError),
    /// The identity.
    #[error(transparent)]
    Identity(#[from] KeyError),
    /// The folder is none of a client.
    #[error(
        "{0}: no cluster.toml in it; expected the folder of a client, such as client-0 in the folder that `twostep testnet` wrote"
    )]
    NoClient(PathBuf),
    /// No keys can be shared with a node.
    #[error("{path}: {source}", path = .path.display())]
    Weak {
        /// The cluster file.
        path: PathBuf,
        /// Why.
        source: WeakKey,
    },
}

impl ClientFolder {
    /// Reads the folder.
    ///
    /// # Errors
    /// [`ClientFolderError`].
    pub fn load(folder: &Path) -> Result<ClientFolder, ClientFolderError> {
        let path = folder.join(CLUSTER_FILE);
        if !path.exists() {
            return Err(ClientFolderError::NoClient(folder.to_owned()));
        }
        Ok(ClientFolder {
            cluster: ClusterFile::load(&path)?,
            identity: Arc::new(Identity::load(&folder.join(IDENTITY_FILE))?),
        })
    }

    /// What [`Client::connect`](crate::client::Client::connect) needs, with default time-outs. Resolves the names of the nodes.
    ///
    /// # Errors
    /// [`ClientFolderError`].
    pub fn options(&self) -> Result<ClientOptions, ClientFolderError> {
        let (configuration, identity) = (
            Arc::clone(&self.cluster.configuration),
            Arc::clone(&self.identity),
        );
        // The loop adds randomness of its own, so the seed may be the same at every start.
        let setup = ClientSetup::new(configuration, identity, 0);
        let setup = setup.map_err(|source| ClientFolderError::Weak {
            path: self.cluster.path.clone(),
            source,
        })?;
        let mut options = ClientOptions::new(setup, self.cluster.resolve()?);
        options.tuning.carrier = self.cluster.carrier;
        Ok(options)
    }
}

fn roles_of(roles: &[Role]) -> Roles {
    let mut set = Roles::default();
    for role in roles {
        match role {
            Role::Proposer => set.proposer = true,
            Role::Acceptor => set.acceptor = true,
            Role::Learner => set.learner = true,
        }
    }
    set
}

fn entry_of(address: &str, member: &Member) -> NodeEntry {
    let roles = [
        (member.roles.proposer, Role::Proposer),
        (member.roles.acceptor, Role::Acceptor),
        (member.roles.learner, Role::Learner),
    ];
    NodeEntry {
        address: address.to_owned(),
        roles: roles
            .iter()
            .filter(|(held, _)| *held)
            .map(|(_, role)| *role)
            .collect(),
        public: member.public,
    }
}

/// The roles in words, for people: "proposer, acceptor, learner".
#[must_use]
pub fn roles_in_words(roles: Roles) -> String {
    let names = [
        (roles.proposer, "proposer"),
        (roles.acceptor, "acceptor"),
        (roles.learner, "learner"),
    ];
    let held: Vec<&str> = names
        .iter()
        .filter(|(held, _)| *held)
        .map(|(_, name)| *name)
        .collect();
    held.join(", ")
}

fn encode_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

/// Fills `bytes` from exactly as many hexadecimal digits; otherwise says what was found.
fn decode_hex(text: &str, bytes: &mut [u8]) -> Result<(), String> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    match digits {
        Some(digits) if digits.len() == bytes.len() * 2 => {
            for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
                *byte = pair[0] << 4 | pair[1];
            }
            Ok(())
        }
        Some(digits) => Err(format!("{} of them", digits.len())),
        None => Err(format!("\"{text}\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn plan() -> ClusterPlan {
        let member = |seed: u8, roles| Member {
            roles,
            public: Identity::from_seed([seed; 32]).public(),
        };
        let nodes = (0u8..6).map(|node| {
            let roles = if node < 4 {
                Roles::ALL
            } else {
                Roles::ACCEPTOR
            };
            (
                format!("127.0.0.1:{}", 27_100 + u16::from(node)),
                member(node + 1, roles),
            )
        });
        ClusterPlan {
            mode: FaultModel::Fab,
            f: 1,
            admission: Admission::Mac,
            nonce: [7; 16],
            limits: Limits::default(),
            nodes: nodes.collect(),
            clients: vec![Identity::from_seed([99; 32]).public()],
            carrier: Carrier::default(),
            misbehaviour: false,
        }
    }

    fn load(text: &str) -> Result<ClusterFile, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(CLUSTER_FILE);
        fs::write(&path, text).unwrap();
        let prefix = format!("{}", folder.path().display());
        ClusterFile::load(&path).map_err(|error| error.to_string().replace(&prefix, ""))
    }

    #[test]
    fn what_is_written_is_read_again() {
        let (text, configuration) = plan().write().unwrap();
        let read = load(&text).unwrap();
        assert_eq!(read.configuration.cluster(), configuration.cluster());
        assert_eq!(read.configuration.members(), configuration.members());
        assert_eq!(read.clients, plan().clients);
        assert!(!read.misbehaviour && !text.contains("misbehaviour ="));
        let wild = ClusterPlan {
            misbehaviour: true,
            ..plan()
        };
        assert!(load(&wild.write().unwrap().0).unwrap().misbehaviour);
        assert_eq!(
            read.resolve().unwrap()[5],
            (NodeId(5), "127.0.0.1:27105".parse().unwrap())
        );
    }

    #[test]
    fn the_transport_is_said_where_it_is_not_tcp_and_may_differ_in_one_cluster_id() {
        let (text, configuration) = plan().write().unwrap();
        assert!(!text.contains("transport =") && !text.contains("mtu ="));
        assert_eq!(load(&text).unwrap().carrier, Carrier::default());
        let carrier = Carrier {
            transport: Transport::Udp,
            mtu: 9000,
        };
        let over_udp = ClusterPlan { carrier, ..plan() };
        let (text, other) = over_udp.write().unwrap();
        assert_eq!(load(&text).unwrap().carrier, carrier);
        assert_eq!(other.cluster(), configuration.cluster());
        let error = load(&text.replace("mtu = 9000", "mtu = 90000")).expect_err("above UDP");
        assert!(error.contains("mtu = 90000: expected 1200 to"), "{error}");
        let error = load(&text.replace("\"udp\"", "\"tcp\"")).expect_err("mtu without UDP");
        assert!(error.contains("only with transport = \"udp\""), "{error}");
    }

    #[test]
    fn a_change_of_what_is_shared_is_found() {
        let (text, _) = plan().write().unwrap();
        for (old, new) in [
            ("window = 256", "window = 512"),
            ("\"mac\"", "\"signed\""),
            ("nonce = \"07", "nonce = \"17"),
        ] {
            assert!(text.contains(old), "{old}");
            let error = load(&text.replacen(old, new, 1)).expect_err(new);
            assert!(
                error.contains("something that all nodes share was changed"),
                "{error}"
            );
        }
        // Addresses and clients may differ: they are not what the nodes agree on.
        load(&text.replace("127.0.0.1:27105", "10.0.0.9:1")).unwrap();
    }

    #[test]
    fn contradictions_and_typos_are_named() {
        let (text, _) = plan().write().unwrap();
        let cases = [
            (
                "window = 256",
                "window = 1",
                "must be at least twice checkpoint_every",
            ),
            (
                "f = 1",
                "f = 2",
                "mode fab with f = 2 needs exactly 11 acceptors",
            ),
            ("mode = \"fab\"", "mode = \"fap\"", "did you mean `fab`?"),
            (
                "[limits]",
                "[limit]",
                "unknown key `limit`; did you mean `limits`?",
            ),
            (
                "address = \"127.0.0.1:27103\"",
                "adress = \"127.0.0.1:27103\"",
                "did you mean `address`?",
            ),
            (
                "nonce = \"07",
                "nonce = \"7",
                "expected 32 hexadecimal characters, found 31 of them",
            ),
            (
                "127.0.0.1:27104",
                "localhost",
                "node 4: address \"localhost\" is no host:port",
            ),
        ];
        for (old, new, expected) in cases {
            assert!(text.contains(old), "{old}");
            let error = load(&text.replacen(old, new, 1)).expect_err(new);
            assert!(error.starts_with("/cluster.toml"), "{error}");
            assert!(error.contains(expected), "{error}");
        }
    }
}
