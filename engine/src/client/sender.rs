//! From calls to bundles: which requests travel together, and how a bundle proves whose it is.

use std::sync::Arc;

use twostep_crypto::{Identity, Scope, Signature};

use super::ClientEffects;
use super::session::Session;
use super::setup::AuthenticatorKeys;
use super::tagged::Tagged;
use crate::batch::{BundleClaim, BundleWriter, RequestKind, request_bytes};
use crate::configuration::{Admission, Configuration};
use crate::message::Message;
use crate::types::{ClientId, Digest, NodeSet, Party};

/// How a bundle is to prove whose it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    Tags,
    Signature,
    Link,
}

/// Packs requests into bundles and sends them.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) configuration: Arc<Configuration>,
    scope: Scope,
    identity: Arc<Identity>,
    keys: AuthenticatorKeys,
    /// Whether everything is signed, always.
    signed: bool,
    /// Whether everything is signed until another leader is believed in: the present one asked for it.
    signed_for_now: bool,
    sent: Tagged,
    /// The most bytes of a bundle without its proof, so that with it a body can hold it.
    bundle_bytes_max: usize,
    tagged: BundleWriter,
    /// For what must be signed, and for what needs no proof.
    other: BundleWriter,
}

impl Sender {
    pub(super) fn new(
        configuration: Arc<Configuration>,
        identity: Arc<Identity>,
        keys: AuthenticatorKeys,
        client: ClientId,
        signed: bool,
    ) -> Sender {
        let proof_bytes_max = (configuration.voting().len() * 16).max(64);
        let body_header = 4;
        Sender {
            scope: configuration.scope(),
            signed: signed || configuration.admission() == Admission::Signed,
            bundle_bytes_max: configuration.limits().body_bytes_max as usize
                - body_header
                - proof_bytes_max,
            tagged: BundleWriter::new(client),
            other: BundleWriter::new(client),
            signed_for_now: false,
            sent: Tagged::new(),
            configuration,
            identity,
            keys,
        }
    }

    /// How a request of this kind proves whose it is when it is sent for the first time. An Open is always signed
    /// where links do not suffice; a retry proves itself like an Open.
    pub(super) fn proof(&self, kind: RequestKind) -> Proof {
        match self.configuration.admission() {
            Admission::Link if !self.signed => Proof::Link,
            Admission::Mac
                if !self.signed && !self.signed_for_now && kind == RequestKind::Operation =>
            {
                Proof::Tags
            }
            _ => Proof::Signature,
        }
    }

    /// The signature of a bundle that was sent with tags; none if this client never sent it.
    pub(super) fn signature(&mut self, client: ClientId, bundle: Digest) -> Option<Signature> {
        let (scope, signing) = (&self.scope, self.identity.signing());
        self.sent.signature(bundle, || {
            let claim = signing.sign(scope, Party::Client(client), BundleClaim(bundle));
            claim.signed().signature
        })
    }

    /// Signs everything from now on, or until further notice no more than it must; true if that is a change.
    pub(super) fn sign_for_now(&mut self, sign: bool) -> bool {
        let before = std::mem::replace(&mut self.signed_for_now, sign);
        before != sign
    }

    /// Adds a call to the bundle of its kind; says how many full bundles (0 or 1) had to be sent for that.
    pub(super) fn add(
        &mut self,
        session: &Session,
        place: usize,
        proof: Proof,
        retry: bool,
        to: NodeSet,
        fx: &mut dyn ClientEffects,
    ) -> u64 {
        let request = session.request(place);
        let writer = if proof == Proof::Tags {
            &mut self.tagged
        } else {
            &mut self.other
        };
        let room = writer.len() + request_bytes(request.operation.len()) <= self.bundle_bytes_max;
        if room && writer.push(&request) {
            return 0;
        }
        let shipped = self.ship(proof, retry, to, fx);
        let writer = if proof == Proof::Tags {
            &mut self.tagged
        } else {
            &mut self.other
        };
        assert!(
            writer.push(&request),
            "an empty bundle takes any request within the limits"
        );
        shipped
    }

    /// Sends what has been gathered; says how many bundles that was.
    pub(super) fn ship_all(&mut self, retry: bool, to: NodeSet, fx: &mut dyn ClientEffects) -> u64 {
        let other = self.proof(RequestKind::Open);
        self.ship(Proof::Tags, retry, to, fx) + self.ship(other, retry, to, fx)
    }

    pub(super) fn ship(
        &mut self,
        proof: Proof,
        retry: bool,
        to: NodeSet,
        fx: &mut dyn ClientEffects,
    ) -> u64 {
        let writer = if proof == Proof::Tags {
            &mut self.tagged
        } else {
            &mut self.other
        };
        if writer.is_empty() {
            return 0;
        }
        let bundle = match proof {
            Proof::Tags => writer.finish_mac(&self.scope, &self.keys.0),
            Proof::Signature => writer.finish_signed(&self.scope, self.identity.signing()),
            Proof::Link => writer.finish_bare(&self.scope),
        };
        fx.send(to, &Message::Submit { retry, bundle });
        if proof == Proof::Tags {
            self.sent.sent(writer.digest());
        }
        writer.clear();
        1
    }
}
