//! Who may order: the check of a bundle's authenticator (PROTOCOL.md section 5.1).
//!
//! An acceptor checks its own tag before it votes, so a leader cannot invent a client's request: no correct
//! acceptor would vote for it. Validity that must be equal everywhere is never judged here: a learner
//! executes what was decided, whatever its own tag says.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use twostep_crypto::{
    Context, Identity, MacKey, PublicIdentity, Scope, Signature, Signed, Tag, VerifyingKey,
    WeakKey, authenticator_key, verify_batch,
};

use crate::batch::{Authenticator, BundleClaim, BundleView, TAG_BYTES};
use crate::configuration::{Admission, Configuration};
use crate::machine::Refusal;
use crate::signatures::Signatures;
use crate::types::{ClientId, Digest, NodeId, Party};

/// The clients that a node knows, by id.
#[derive(Clone, Debug, Default)]
pub struct ClientDirectory {
    clients: BTreeMap<ClientId, PublicIdentity>,
}

impl ClientDirectory {
    /// A directory of these clients.
    pub fn new(clients: impl IntoIterator<Item = PublicIdentity>) -> ClientDirectory {
        ClientDirectory {
            clients: clients
                .into_iter()
                .map(|public| (public.client_id(), public))
                .collect(),
        }
    }

    /// The public keys of a client.
    #[must_use]
    pub fn get(&self, client: ClientId) -> Option<&PublicIdentity> {
        self.clients.get(&client)
    }

    /// A digest of all clients with their keys. Nodes whose digests differ admit different requests, and may then
    /// not find the votes for what only some of them admit.
    #[must_use]
    pub fn digest(&self, scope: &Scope) -> Digest {
        let mut hasher = scope.hasher(Context::Configuration);
        for public in self.clients.values() {
            hasher.update(&public.to_bytes());
        }
        hasher.finish()
    }

    /// All clients, by id.
    pub fn iter(&self) -> impl Iterator<Item = (ClientId, &PublicIdentity)> {
        self.clients
            .iter()
            .map(|(client, public)| (*client, public))
    }
}

/// What one node needs to check the requests of every client it knows. Its loops may share it.
#[derive(Debug)]
pub struct Gate {
    scope: Scope,
    admission: Admission,
    /// This node's place among the tags; none if it neither accepts nor proposes.
    place: Option<usize>,
    /// The length of a complete set of tags: one for each voting node. Bytes.
    tags_bytes: usize,
    clients: BTreeMap<ClientId, ClientKeys>,
    /// Signatures of bundles that were checked, valid or not.
    checked: AtomicU64,
}

#[derive(Debug)]
struct ClientKeys {
    mac: Option<MacKey>,
    sign: VerifyingKey,
}

impl Gate {
    /// Derives the keys of node `me` with every client of `directory`.
    ///
    /// # Errors
    /// [`WeakKey`] if a client's public key is one with which no secret can be agreed.
    pub fn new(
        configuration: &Configuration,
        me: NodeId,
        identity: &Identity,
        directory: &ClientDirectory,
    ) -> Result<Gate, WeakKey> {
        let scope = configuration.scope();
        let admission = configuration.admission();
        let place = configuration.voting().iter().position(|node| *node == me);
        let mut clients = BTreeMap::new();
        for (client, public) in directory.iter() {
            let tagged = place.is_some() && admission == Admission::Mac;
            let mac = if tagged {
                Some(authenticator_key(&scope, identity, public, client, me)?)
            } else {
                None
            };
            clients.insert(
                client,
                ClientKeys {
                    mac,
                    sign: public.sign,
                },
            );
        }
        Ok(Gate {
            scope,
            admission,
            place,
            tags_bytes: configuration.voting().len() * TAG_BYTES,
            clients,
            checked: AtomicU64::new(0),
        })
    }

    /// The signatures that it checked.
    #[must_use]
    pub fn checked(&self) -> Signatures {
        Signatures {
            bundles: self.checked.load(Ordering::Relaxed),
            ..Signatures::default()
        }
    }

    /// Begins the check of the bundles of one batch.
    #[must_use]
    pub fn checker(&self) -> Checker<'_> {
        Checker {
            gate: self,
            verdict: Ok(()),
            signed: Vec::new(),
        }
    }

    /// Whether the client is known here.
    #[must_use]
    pub fn knows(&self, client: ClientId) -> bool {
        self.clients.contains_key(&client)
    }

    /// Whether this is the client's signature of the bundle with this digest.
    ///
    /// # Errors
    /// [`Refusal::UnknownClient`] or [`Refusal::BadSignature`].
    pub fn check_signature(
        &self,
        client: ClientId,
        bundle: Digest,
        signature: Signature,
    ) -> Result<(), Refusal> {
        let keys = self.clients.get(&client).ok_or(Refusal::UnknownClient)?;
        let claim = Signed {
            signer: Party::Client(client),
            content: BundleClaim(bundle),
            signature,
        };
        self.checked.fetch_add(1, Ordering::Relaxed);
        claim
            .check(&self.scope, &keys.sign)
            .map_err(|_| Refusal::BadSignature)
    }

    /// Whether the client made this bundle, as far as this node can tell.
    ///
    /// # Errors
    /// [`Refusal::UnknownClient`] or [`Refusal::Unauthentic`].
    pub fn check(&self, bundle: &BundleView<'_>, digest: &Digest) -> Result<(), Refusal> {
        let mut checker = self.checker();
        checker.see(bundle, digest);
        checker.finish()
    }
}

/// The check of the bundles of one batch: tags one by one, signatures together at the end.
pub struct Checker<'a> {
    gate: &'a Gate,
    verdict: Result<(), Refusal>,
    signed: Vec<(Signed<BundleClaim>, VerifyingKey)>,
}

impl Checker<'_> {
    /// Takes the next bundle.
    pub fn see(&mut self, bundle: &BundleView<'_>, digest: &Digest) {
        if self.verdict.is_ok() {
            self.verdict = self.judge(bundle, digest);
        }
    }

    /// The verdict on all of them.
    ///
    /// # Errors
    /// [`Refusal::UnknownClient`] or [`Refusal::Unauthentic`] for the first bundle that its client did not make.
    pub fn finish(self) -> Result<(), Refusal> {
        self.verdict?;
        if self.signed.is_empty() {
            return Ok(());
        }
        self.gate
            .checked
            .fetch_add(self.signed.len() as u64, Ordering::Relaxed);
        let results = verify_batch(&self.gate.scope, self.signed);
        results
            .into_iter()
            .try_for_each(|result| result.map(drop).map_err(|_| Refusal::Unauthentic))
    }

    fn judge(&mut self, bundle: &BundleView<'_>, digest: &Digest) -> Result<(), Refusal> {
        let gate = self.gate;
        let keys = gate
            .clients
            .get(&bundle.client)
            .ok_or(Refusal::UnknownClient)?;
        match (gate.admission, bundle.authenticator) {
            (Admission::Link, _) => Ok(()),
            (Admission::Mac | Admission::Signed, Authenticator::Signature(signature)) => {
                let signer = Party::Client(bundle.client);
                self.signed.push((
                    Signed {
                        signer,
                        content: BundleClaim(*digest),
                        signature,
                    },
                    keys.sign,
                ));
                Ok(())
            }
            (Admission::Mac, Authenticator::Mac(tags)) => {
                // Every node judges the length alike: tags for nobody would be carried and kept for nothing.
                if tags.len() != gate.tags_bytes {
                    return Err(Refusal::Unauthentic);
                }
                let place = gate.place.ok_or(Refusal::Unauthentic)?;
                let tag = bundle
                    .authenticator
                    .tag(place)
                    .ok_or(Refusal::Unauthentic)?;
                let key = keys.mac.as_ref().ok_or(Refusal::Unauthentic)?;
                key.verify(&[&digest.0], &Tag(tag))
                    .map_err(|_| Refusal::Unauthentic)
            }
            (Admission::Mac | Admission::Signed, Authenticator::None)
            | (Admission::Signed, Authenticator::Mac(_)) => Err(Refusal::Unauthentic),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Bundle, BundleWriter, Request, RequestKind};
    use crate::configuration::{Limits, Member, Roles};
    use crate::quorum::FaultModel;
    use crate::types::{Seq, SessionId};
    use twostep_net::pool::Body;

    struct World {
        configuration: Configuration,
        nodes: Vec<Identity>,
        client: Identity,
        gates: Vec<Gate>,
    }

    fn world(admission: Admission) -> World {
        let nodes: Vec<Identity> = (0..6).map(|seed| Identity::from_seed([seed; 32])).collect();
        let client = Identity::from_seed([99; 32]);
        let member = |(node, identity): (usize, &Identity)| Member {
            roles: if node < 4 {
                Roles::ALL
            } else {
                Roles::ACCEPTOR
            },
            public: identity.public(),
        };
        let members = nodes.iter().enumerate().map(member).collect();
        let configuration = Configuration::new(
            FaultModel::Fab,
            1,
            members,
            Limits::default(),
            admission,
            [0; 16],
        )
        .unwrap();
        let directory = ClientDirectory::new([client.public()]);
        let gate = |(node, identity): (usize, &Identity)| {
            Gate::new(
                &configuration,
                NodeId(u16::try_from(node).unwrap()),
                identity,
                &directory,
            )
            .unwrap()
        };
        let gates = nodes.iter().enumerate().map(gate).collect();
        World {
            configuration,
            nodes,
            client,
            gates,
        }
    }

    impl World {
        fn bundle(&self, finish: impl FnOnce(&mut BundleWriter, &Scope)) -> Bundle {
            let scope = self.configuration.scope();
            let mut writer = BundleWriter::new(self.client.public().client_id());
            let kind = RequestKind::Operation;
            assert!(writer.push(&Request {
                kind,
                session: SessionId::NONE,
                seq: Seq(1),
                operation: b"x"
            }));
            finish(&mut writer, &scope);
            let bytes = Body::from_vec(writer.bytes().to_vec());
            Bundle::parse(bytes, &scope, self.configuration.limits()).unwrap()
        }

        fn tags(&self, spoilt: Option<usize>) -> Bundle {
            self.some_tags(spoilt, self.nodes.len())
        }

        /// A bundle with the first `count` tags; those above the number of nodes repeat the first.
        fn some_tags(&self, spoilt: Option<usize>, count: usize) -> Bundle {
            let client = self.client.public().client_id();
            self.bundle(|writer, scope| {
                let key = |(node, identity): (usize, &Identity)| {
                    if spoilt == Some(node) {
                        return MacKey::from_bytes([0; 32]);
                    }
                    let node = NodeId(u16::try_from(node).unwrap());
                    authenticator_key(scope, &self.client, &identity.public(), client, node)
                        .unwrap()
                };
                let nodes = self.nodes.iter().enumerate().cycle();
                let keys: Vec<MacKey> = nodes.take(count).map(key).collect();
                writer.finish_mac(scope, &keys);
            })
        }

        fn verdicts(&self, bundle: &Bundle) -> Vec<Result<(), Refusal>> {
            self.gates
                .iter()
                .map(|gate| gate.check(&bundle.view(), &bundle.digest()))
                .collect()
        }
    }

    #[test]
    fn every_voting_node_checks_its_own_tag() {
        let world = world(Admission::Mac);
        assert_eq!(world.verdicts(&world.tags(None)), [Ok(()); 6]);
        let mut expected = [Ok(()); 6];
        expected[5] = Err(Refusal::Unauthentic);
        assert_eq!(
            world.verdicts(&world.tags(Some(5))),
            expected,
            "only the node with the bad tag can tell"
        );
    }

    #[test]
    fn the_digest_of_a_directory_is_that_of_its_clients() {
        let scope = world(Admission::Mac).configuration.scope();
        let digest = |seeds: &[u8]| {
            let public = |seed: &u8| Identity::from_seed([*seed; 32]).public();
            ClientDirectory::new(seeds.iter().map(public)).digest(&scope)
        };
        assert_eq!(
            digest(&[1, 2]),
            digest(&[2, 1, 2]),
            "the order of a list says nothing"
        );
        assert_ne!(digest(&[1, 2]), digest(&[1]));
        assert_ne!(digest(&[1, 2]), digest(&[1, 3]));
    }

    #[test]
    fn tags_too_few_or_too_many_convince_nobody() {
        let world = world(Admission::Mac);
        assert_eq!(world.verdicts(&world.some_tags(None, 6)), [Ok(()); 6]);
        for count in [0, 1, 5, 7, 12, 4095] {
            assert_eq!(
                world.verdicts(&world.some_tags(None, count)),
                [Err(Refusal::Unauthentic); 6],
                "{count} tags for 6 voting nodes"
            );
        }
    }

    #[test]
    fn a_signature_convinces_everyone_and_only_the_clients_own() {
        for admission in [Admission::Mac, Admission::Signed] {
            let world = world(admission);
            let signed = world.bundle(|writer, scope| {
                writer.finish_signed(scope, world.client.signing());
            });
            assert_eq!(world.verdicts(&signed), [Ok(()); 6]);
            let stolen = world.bundle(|writer, scope| {
                writer.finish_signed(scope, world.nodes[0].signing());
            });
            assert_eq!(world.verdicts(&stolen), [Err(Refusal::Unauthentic); 6]);
        }
    }

    #[test]
    fn no_authenticator_is_enough_only_where_links_are() {
        let world = world(Admission::Mac);
        let bare = world.bundle(|writer, scope| {
            writer.finish_bare(scope);
        });
        assert_eq!(world.verdicts(&bare), [Err(Refusal::Unauthentic); 6]);
        let signed_only = self::world(Admission::Signed);
        assert_eq!(
            signed_only.verdicts(&signed_only.tags(None)),
            [Err(Refusal::Unauthentic); 6]
        );
    }

    #[test]
    fn a_bad_signature_among_good_ones_is_found() {
        let world = world(Admission::Mac);
        let good = world.bundle(|writer, scope| {
            writer.finish_signed(scope, world.client.signing());
        });
        let bad = world.bundle(|writer, scope| {
            writer.finish_signed(scope, world.nodes[0].signing());
        });
        let mut checker = world.gates[0].checker();
        for bundle in [&good, &bad, &good] {
            checker.see(&bundle.view(), &bundle.digest());
        }
        assert_eq!(checker.finish(), Err(Refusal::Unauthentic));
    }
}
