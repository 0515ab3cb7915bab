//! Who is who: the identifiers that every digest, MAC and signature covers (PROTOCOL.md section 3).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::hex_text::hex_newtype;

/// Version of the protocol; part of every [`Scope`](crate::Scope), so versions never accept each other's bytes.
pub const PROTOCOL_VERSION: u16 = 2;

/// Names one cluster; made from the configuration's digest, so nodes whose configurations differ refuse each other (PROTOCOL.md section 1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub [u8; 32]);

/// Number of a configuration in the life of a cluster; 0 at the start, one more with every reconfiguration.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Epoch(pub u32);

/// Number of a node in the configuration, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u16);

/// Names a client: the head of the digest of its public identity ([`PublicIdentity::client_id`](crate::PublicIdentity::client_id)), so it cannot be chosen to collide with another's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub [u8; 16]);

/// Who stands at one end of a link, or signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// A member of the configuration.
    Node(NodeId),
    /// A client.
    Client(ClientId),
}

/// Bytes that are no [`Party`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadParty {
    /// The first byte is neither 0 (node) nor 1 (client).
    #[error("party: expected kind 0 (node) or 1 (client), got {0}")]
    Kind(u8),
    /// A node's encoding has other bytes than zero after the number.
    #[error("party: expected zero bytes after the node number")]
    Padding,
}

impl Party {
    /// Length of [`encode`](Party::encode), the same for every party, so that what follows it in a digest cannot shift.
    pub const ENCODED_BYTES: usize = 17;

    /// Kind (0 node, 1 client), then the client id, or the node number in little endian and zeroes.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::ENCODED_BYTES] {
        let mut out = [0; Self::ENCODED_BYTES];
        match self {
            Party::Node(node) => out[1..3].copy_from_slice(&node.0.to_le_bytes()),
            Party::Client(client) => {
                out[0] = 1;
                out[1..].copy_from_slice(&client.0);
            }
        }
        out
    }

    /// Reads what [`encode`](Party::encode) wrote and nothing else: every party has one encoding.
    ///
    /// # Errors
    /// [`BadParty`] for an unknown kind or padding that is not zero.
    pub fn decode(bytes: &[u8; Self::ENCODED_BYTES]) -> Result<Party, BadParty> {
        let [kind, id @ ..] = bytes;
        match kind {
            0 if id[2..] != [0; 14] => Err(BadParty::Padding),
            0 => Ok(Party::Node(NodeId(u16::from_le_bytes([id[0], id[1]])))),
            1 => Ok(Party::Client(ClientId(*id))),
            &other => Err(BadParty::Kind(other)),
        }
    }

    /// The node number, if this is a node.
    #[must_use]
    pub fn node(&self) -> Option<NodeId> {
        match self {
            Party::Node(node) => Some(*node),
            Party::Client(_) => None,
        }
    }

    /// The client id, if this is a client.
    #[must_use]
    pub fn client(&self) -> Option<ClientId> {
        match self {
            Party::Node(_) => None,
            Party::Client(client) => Some(*client),
        }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Party::Node(node) => write!(f, "node {node}"),
            Party::Client(client) => write!(f, "client {client}"),
        }
    }
}

impl From<NodeId> for Party {
    fn from(node: NodeId) -> Party {
        Party::Node(node)
    }
}

impl From<ClientId> for Party {
    fn from(client: ClientId) -> Party {
        Party::Client(client)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for NodeId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<NodeId, Self::Err> {
        text.parse().map(NodeId)
    }
}

hex_newtype!(ClusterId, "cluster id");
hex_newtype!(ClientId, "client id");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_party_has_exactly_one_encoding() {
        let node = Party::Node(NodeId(0x0102));
        let client = Party::Client(ClientId([7; 16]));
        assert_eq!(node.encode()[..4], [0, 2, 1, 0]);
        for party in [node, client] {
            assert_eq!(Party::decode(&party.encode()), Ok(party));
        }
        for place in 3..Party::ENCODED_BYTES {
            let mut bytes = node.encode();
            bytes[place] = 1;
            assert_eq!(Party::decode(&bytes), Err(BadParty::Padding));
        }
        let mut bytes = client.encode();
        bytes[0] = 2;
        assert_eq!(Party::decode(&bytes), Err(BadParty::Kind(2)));
    }

    #[test]
    fn a_node_and_a_client_with_the_same_bytes_differ() {
        let mut id = [0; 16];
        id[0] = 5;
        assert_ne!(
            Party::Node(NodeId(5)).encode(),
            Party::Client(ClientId(id)).encode()
        );
    }

    #[test]
    fn ids_read_what_they_write() {
        let cluster = ClusterId([0xab; 32]);
        assert_eq!(cluster.to_string().parse(), Ok(cluster));
        assert_eq!(format!("{cluster:?}"), "ClusterId(abababab…)");
        let error = "ab".parse::<ClientId>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "client id: expected 32 hexadecimal characters, got 2"
        );
        assert_eq!(Party::Node(NodeId(3)).to_string(), "node 3");
    }
}
