//! Key agreement: static X25519 between two identities, and the MAC keys made from it.
//!
//! ```text
//! link key (one per direction) = derive_key("twostep v1 link key",
//!         key of the scope ‖ X25519 ‖ sender ‖ receiver ‖ both public identities ‖ both boot nonces, the sender's first)
//! authenticator key            = derive_key("twostep v1 authenticator key", key of the scope ‖ X25519 ‖ client ‖ node)
//! ```
//!
//! The key of the scope stands for version, cluster and epoch. Every field has a fixed size, so none can shift into the next. A nonce is fresh at each boot,
//! so that packets of an earlier boot fit no key of a later one; the authenticator key has none, since a bundle may be checked long after it was sent and replays are caught by
//! the session table. Nothing is encrypted, so there is no forward secrecy to lose. Cost: 40 µs, once per link.
//!
//! A link must have two ends: with a peer of the same name or key both directions could share a key, and whoever sent our own packets back to us would pass as that peer.

use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use crate::digest::Context;
use crate::ids::{ClientId, NodeId, Party};
use crate::keys::{Identity, PublicIdentity};
use crate::mac::MacKey;
use crate::scope::Scope;

/// The two keys of one link, seen from one end.
#[derive(Clone, Debug)]
pub struct LinkKeys {
    /// Tags what this end sends; the peer's `receive`.
    pub send: MacKey,
    /// Checks what this end receives; the peer's `send`.
    pub receive: MacKey,
}

/// No secret can be shared with this peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WeakKey {
    /// The peer's agreement key has small order: anybody could compute the shared secret.
    #[error(
        "the peer's agreement key has small order, so anybody could compute the shared key; its owner must make a new identity"
    )]
    SmallOrder,
    /// The peer has this end's own name or keys.
    #[error(
        "the peer has the same name or the same keys as this end; give every node and client an identity of its own"
    )]
    OwnIdentity,
}

/// The keys of the link between `my` and `peer`, the same from both ends with send and receive exchanged.
///
/// `my_nonce` and `peer_nonce` are the boot nonces of the two ends: random, one per start of the process.
///
/// # Errors
/// [`WeakKey`] if the peer's key is unusable or the peer is this end itself.
pub fn link_keys(
    scope: &Scope,
    me: &Identity,
    my: Party,
    peer: Party,
    peer_public: &PublicIdentity,
    my_nonce: [u8; 16],
    peer_nonce: [u8; 16],
) -> Result<LinkKeys, WeakKey> {
    if my == peer {
        return Err(WeakKey::OwnIdentity);
    }
    let shared = shared_secret(me, peer_public)?;
    let my_end = (my, me.public(), my_nonce);
    let peer_end = (peer, *peer_public, peer_nonce);
    let direction = |sender: &End, receiver: &End| {
        derive(
            scope,
            Context::LinkKey,
            &shared,
            &[
                &sender.0.encode(),
                &receiver.0.encode(),
                &sender.1.to_bytes(),
                &receiver.1.to_bytes(),
                &sender.2,
                &receiver.2,
            ],
        )
    };
    Ok(LinkKeys {
        send: direction(&my_end, &peer_end),
        receive: direction(&peer_end, &my_end),
    })
}

/// The key of the tags that `client` puts beside its bundles for `node`; the same from both ends, for the whole epoch.
///
/// # Errors
/// [`WeakKey`] as for [`link_keys`].
pub fn authenticator_key(
    scope: &Scope,
    me: &Identity,
    peer_public: &PublicIdentity,
    client: ClientId,
    node: NodeId,
) -> Result<MacKey, WeakKey> {
    let shared = shared_secret(me, peer_public)?;
    Ok(derive(
        scope,
        Context::AuthenticatorKey,
        &shared,
        &[&Party::Client(client).encode(), &Party::Node(node).encode()],
    ))
}

/// Name, keys and boot nonce of one end.
type End = (Party, PublicIdentity, [u8; 16]);

fn shared_secret(me: &Identity, peer: &PublicIdentity) -> Result<Zeroizing<[u8; 32]>, WeakKey> {
    if me.public().agree == peer.agree {
        return Err(WeakKey::OwnIdentity);
    }
    exchange(me.agreement(), peer.agree)
}

fn exchange(secret: &StaticSecret, peer: [u8; 32]) -> Result<Zeroizing<[u8; 32]>, WeakKey> {
    let shared = secret.diffie_hellman(&peer.into());
    if shared.was_contributory() {
        Ok(Zeroizing::new(shared.to_bytes()))
    } else {
        Err(WeakKey::SmallOrder)
    }
}

fn derive(scope: &Scope, context: Context, shared: &[u8; 32], fields: &[&[u8]]) -> MacKey {
    let mut hasher = blake3::Hasher::new_derive_key(context.name());
    hasher.update(scope.key(context)).update(shared);
    for field in fields {
        hasher.update(field);
    }
    MacKey::from_bytes(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ClusterId, Epoch};
    use crate::mac::Tag;

    const A: Party = Party::Node(NodeId(1));
    const B: Party = Party::Node(NodeId(2));

    fn scope() -> Scope {
        Scope::new(ClusterId([3; 32]), Epoch(0))
    }

    fn identity(n: u8) -> Identity {
        Identity::from_seed([n; 32])
    }

    /// What tells keys apart without looking into them.
    fn print(key: &MacKey) -> Tag {
        key.tag(&[b"fingerprint"])
    }

    fn assert_all_differ(prints: &[Tag]) {
        for (i, a) in prints.iter().enumerate() {
            for (j, b) in prints.iter().enumerate().skip(i + 1) {
                assert_ne!(a, b, "{i} and {j}");
            }
        }
    }

    #[test]
    fn agrees_with_rfc_7748() {
        // Section 6.1.
        let bytes = |text| -> [u8; 32] { crate::hex_text::read("vector", text).unwrap() };
        let alice = bytes("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
        let alice_public = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";
        let bob = bytes("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
        let bob_public = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f";
        let shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742";
        for (secret, public) in [(alice, bob_public), (bob, alice_public)] {
            let secret = StaticSecret::from(secret);
            assert_eq!(*exchange(&secret, bytes(public)).unwrap(), bytes(shared));
        }
    }

    #[test]
    fn both_ends_agree_and_directions_differ() {
        let (a, b) = (identity(1), identity(2));
        // Equal nonces are the hardest case: then only the names tell the directions apart.
        for (na, nb) in [([1; 16], [2; 16]), ([1; 16], [1; 16])] {
            let at_a = link_keys(&scope(), &a, A, B, &b.public(), na, nb).unwrap();
            let at_b = link_keys(&scope(), &b, B, A, &a.public(), nb, na).unwrap();
            assert_eq!(print(&at_a.send), print(&at_b.receive));
            assert_eq!(print(&at_a.receive), print(&at_b.send));
            assert_ne!(print(&at_a.send), print(&at_a.receive));
        }
    }

    #[test]
    fn every_field_of_a_link_key_counts() {
        let (a, b) = (identity(1), identity(2).public());
        let n = |byte| [byte; 16];
        let other_cluster = Scope::new(ClusterId([4; 32]), Epoch(0));
        let other_epoch = Scope::new(ClusterId([3; 32]), Epoch(1));
        let client = Party::Client(ClientId([2; 16]));
        // The same agreement key in another identity: only the public identities tell them apart.
        let mixed = PublicIdentity {
            sign: identity(3).public().sign,
            agree: b.agree,
        };
        let keys = [
            link_keys(&scope(), &a, A, B, &b, n(1), n(2)),
            link_keys(&scope(), &a, A, B, &b, n(1), n(3)),
            link_keys(&scope(), &a, A, B, &b, n(3), n(2)),
            link_keys(&scope(), &a, A, B, &b, n(2), n(1)),
            link_keys(&scope(), &a, A, client, &b, n(1), n(2)),
            link_keys(&scope(), &a, client, B, &b, n(1), n(2)),
            link_keys(&scope(), &a, A, B, &mixed, n(1), n(2)),
            link_keys(&scope(), &a, A, B, &identity(3).public(), n(1), n(2)),
            link_keys(&scope(), &identity(3), A, B, &b, n(1), n(2)),
            link_keys(&other_cluster, &a, A, B, &b, n(1), n(2)),
            link_keys(&other_epoch, &a, A, B, &b, n(1), n(2)),
        ];
        let prints: Vec<Tag> = keys
            .into_iter()
            .map(Result::unwrap)
            .flat_map(|keys| [print(&keys.send), print(&keys.receive)])
            .collect();
        assert_all_differ(&prints);
    }

    #[test]
    fn authenticator_keys_agree_and_every_field_counts() {
        let (client, node) = (identity(1), identity(2));
        let id = client.public().client_id();
        let key = |scope: &Scope, me: &Identity, peer: &Identity, id, node| {
            print(&authenticator_key(scope, me, &peer.public(), id, node).unwrap())
        };
        let at_client = key(&scope(), &client, &node, id, NodeId(2));
        assert_eq!(at_client, key(&scope(), &node, &client, id, NodeId(2)));
        let other_epoch = Scope::new(ClusterId([3; 32]), Epoch(1));
        let link = link_keys(
            &scope(),
            &client,
            id.into(),
            B,
            &node.public(),
            [0; 16],
            [0; 16],
        );
        assert_all_differ(&[
            at_client,
            key(&scope(), &client, &node, id, NodeId(3)),
            key(&scope(), &client, &node, ClientId([0; 16]), NodeId(2)),
            key(&scope(), &identity(3), &node, id, NodeId(2)),
            key(&other_epoch, &client, &node, id, NodeId(2)),
            print(&link.unwrap().send),
        ]);
    }

    #[test]
    fn peers_without_a_secret_are_refused() {
        let (a, b) = (identity(1), identity(2).public());
        let link = |peer, public: &PublicIdentity| {
            link_keys(&scope(), &a, A, peer, public, [1; 16], [1; 16]).map(|_| ())
        };
        assert_eq!(link(B, &b), Ok(()));
        assert_eq!(link(A, &b), Err(WeakKey::OwnIdentity));
        assert_eq!(link(B, &a.public()), Err(WeakKey::OwnIdentity));
        let mut one = [0; 32];
        one[0] = 1;
        for agree in [[0; 32], one] {
            let weak = PublicIdentity { agree, ..b };
            assert_eq!(link(B, &weak), Err(WeakKey::SmallOrder));
            let key = authenticator_key(&scope(), &a, &weak, ClientId([0; 16]), NodeId(1));
            assert_eq!(key.map(|_| ()), Err(WeakKey::SmallOrder));
        }
    }

    #[test]
    fn the_derivation_is_pinned() {
        // Two versions of this crate that derive differently could not talk to each other: changing these is a new protocol version.
        let (a, b) = (identity(1), identity(2).public());
        let link = link_keys(&scope(), &a, A, B, &b, [1; 16], [2; 16]).unwrap();
        let static_key = authenticator_key(&scope(), &a, &b, ClientId([5; 16]), NodeId(2)).unwrap();
        assert_eq!(
            hex::encode(print(&link.send).0),
            "f16b7ada049f1795505b035ce26db01b"
        );
        assert_eq!(
            hex::encode(print(&static_key).0),
            "52700a32c27fd6fd2b804d1ede5dba71"
        );
    }
}
