//! Who may order: the check of a bundle's authenticator (PROTOCOL.md section 5.1).
//!
//! An acceptor checks its own tag before it votes, so a leader cannot invent a client's request: no correct
//! acceptor would vote for it. Validity that must be equal everywhere is never judged here: a learner
//! executes what was decided, whatever its own tag says.

use std::collections::BTreeMap;

use twostep_crypto::{
    Identity, MacKey, PublicIdentity, Scope, Signed, Tag, VerifyingKey, WeakKey, authenticator_key,
};

use crate::batch::{Authenticator, BundleClaim, BundleView};
use crate::configuration::{Admission, Configuration};
use crate::machine::Refusal;
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

    /// All clients, by id.
    pub fn iter(&self) -> impl Iterator<Item = (ClientId, &PublicIdentity)> {
        self.clients
            .iter()
            .map(|(client, public)| (*client, public))
    }
}

/// What one node needs to check the requests of every client it knows.
#[derive(Debug)]
pub struct Gate {
    scope: Scope,
    admission: Admission,
    /// This node's place among the tags; none if it neither accepts nor proposes.
    place: Option<usize>,
    clients: BTreeMap<ClientId, ClientKeys>,
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
            clients,
        })
    }

    /// Whether the client made this bundle, as far as this node can tell.
    ///
    /// # Errors
    /// [`Refusal::UnknownClient`] or [`Refusal::Unauthentic`].
    pub fn check(&self, bundle: &BundleView<'_>, digest: &Digest) -> Result<(), Refusal> {
        let keys = self
            .clients
            .get(&bundle.client)
            .ok_or(Refusal::UnknownClient)?;
        match (self.admission, bundle.authenticator) {
            (Admission::Link, _) => Ok(()),
            (Admission::Mac | Admission::Signed, Authenticator::Signature(signature)) => {
                let signer = Party::Client(bundle.client);
                let claim = Signed {
                    signer,
                    content: BundleClaim(*digest),
                    signature,
                };
                claim
                    .check(&self.scope, &keys.sign)
                    .map_err(|_| Refusal::Unauthentic)
            }
            (Admission::Mac, Authenticator::Mac(_)) => {
                let place = self.place.ok_or(Refusal::Unauthentic)?;
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
