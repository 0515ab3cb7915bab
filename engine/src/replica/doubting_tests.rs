//! One node among doubts: what it says, what it checks, and when it votes.

use std::collections::VecDeque;

use twostep_crypto::{Identity, MacKey, Scope, authenticator_key};
use twostep_net::pool::Pool;

use super::*;
use crate::batch::{BundleClaim, BundleWriter, Request, RequestKind};
use crate::configuration::Limits;
use crate::machine::{Effects, Input, Machine, Question, Record};
use crate::replica::testing::{identity, one_of_six};
use crate::types::{RecordSeq, Seq, SessionId};

/// What a node said, by kind, with the receivers.
#[derive(Default)]
struct Heard {
    said: Vec<(&'static str, To)>,
    refused: Vec<Refusal>,
    stored: Option<RecordSeq>,
}

impl Effects for Heard {
    fn send(&mut self, to: To, message: &Message<'_>) {
        let kind = match message {
            Message::NackAuth { .. } => "NackAuth",
            Message::AckAuth { .. } => "AckAuth",
            Message::Accepted { .. } => "Accepted",
            Message::WantSignature { .. } => "WantSignature",
            Message::BundleSignature { .. } => "BundleSignature",
            _ => return,
        };
        self.said.push((kind, to));
    }
    fn store(&mut self, seq: RecordSeq, _: &Record<'_>) {
        self.stored = Some(seq);
    }
    fn deliver(&mut self, _: Decree, _: &Batch) {}
    fn ask(&mut self, _: Question) {}
    fn observe(&mut self, event: Event) {
        if let Event::Refused { why, .. } = event {
            self.refused.push(why);
        }
    }
}

struct World {
    replica: Replica,
    heard: Heard,
    scope: Scope,
    client: Identity,
    keys: Vec<MacKey>,
    now: Time,
}

/// Node `me` of six; the last two only accept.
fn world(me: u8) -> World {
    let (replica, configuration, client) = one_of_six(me, Admission::Mac);
    let scope = configuration.scope();
    let id = client.public().client_id();
    let key = |node: u8| {
        let node_id = NodeId(u16::from(node));
        authenticator_key(&scope, &client, &identity(node).public(), id, node_id)
            .expect("no key is weak")
    };
    let keys = (0..6).map(key).collect();
    World {
        replica,
        heard: Heard::default(),
        scope,
        client,
        keys,
        now: Time(1),
    }
}

const D: Decree = Decree(1);

fn nodes(ids: &[u16]) -> To {
    To::Nodes(ids.iter().map(|id| NodeId(*id)).collect())
}

impl World {
    fn client_id(&self) -> ClientId {
        self.client.public().client_id()
    }

    /// A bundle of one request, in which the tags of these nodes are wrong.
    fn bundle(&self, seq: u64, spoilt: &[usize]) -> Bundle {
        let mut writer = BundleWriter::new(self.client_id());
        assert!(writer.push(&Request {
            kind: RequestKind::Operation,
            session: SessionId::NONE,
            seq: Seq(seq),
            operation: b"",
        }));
        let mut keys = self.keys.clone();
        for node in spoilt {
            keys[*node] = MacKey::from_bytes([0; 32]);
        }
        let bytes = Body::from_vec(writer.finish_mac(&self.scope, &keys).to_vec());
        Bundle::parse(bytes, &self.scope, &Limits::default()).expect("well-formed")
    }

    fn batch(&self, bundles: &[Bundle]) -> Batch {
        let mut waiting: VecDeque<Bundle> = bundles.to_vec().into();
        Batch::assemble(&Pool::default(), &self.scope, &mut waiting, 1 << 20)
    }

    fn signature(&self, bundle: &Bundle, signer: &Identity) -> Message<'static> {
        let me = Party::Client(self.client_id());
        let claim = BundleClaim(bundle.digest());
        let signed = signer.signing().sign(&self.scope, me, claim);
        Message::BundleSignature {
            client: self.client_id(),
            bundle: bundle.digest(),
            signature: signed.signed().signature,
        }
    }

    fn step(&mut self, input: Input<'_>) {
        self.replica.step(self.now, input, &mut self.heard);
        while let Some(seq) = self.heard.stored.take() {
            self.replica
                .step(self.now, Input::Stored(seq), &mut self.heard);
        }
    }

    /// Takes a message in; what this node says, and refuses, because of it.
    fn hears(
        &mut self,
        from: u16,
        message: Message<'_>,
    ) -> (Vec<(&'static str, To)>, Vec<Refusal>) {
        let from = Party::Node(NodeId(from));
        self.step(Input::Message { from, message });
        self.reaction()
    }

    fn client_says(&mut self, message: Message<'_>) -> (Vec<(&'static str, To)>, Vec<Refusal>) {
        let from = Party::Client(self.client_id());
        self.step(Input::Message { from, message });
        self.step(Input::Tick);
        self.reaction()
    }

    fn reaction(&mut self) -> (Vec<(&'static str, To)>, Vec<Refusal>) {
        let said = std::mem::take(&mut self.heard.said);
        (said, std::mem::take(&mut self.heard.refused))
    }

    fn checked(&self) -> u64 {
        self.replica.report().checked.bundles
    }
}

fn propose(batch: &Batch) -> Message<'static> {
    Message::Propose {
        regency: Regency(0),
        decree: D,
        value: batch.value(),
        body: batch.body().clone(),
    }
}

fn accepted(batch: &Batch) -> Message<'static> {
    Message::Accepted {
        regency: Regency(0),
        decree: D,
        value: batch.value(),
    }
}

fn nack(client: ClientId, bundle: &Bundle) -> Message<'static> {
    Message::NackAuth {
        regency: Regency(0),
        decree: D,
        client,
        bundle: bundle.digest(),
    }
}

fn ack(bundle: &Bundle) -> Message<'static> {
    Message::AckAuth {
        regency: Regency(0),
        decree: D,
        bundle: bundle.digest(),
    }
}

#[test]
fn a_doubting_acceptor_says_so_and_votes_when_f_plus_one_did() {
    let mut world = world(5);
    let batch = world.batch(&[world.bundle(1, &[5])]);
    let doubt = ("NackAuth", nodes(&[0, 1, 2, 3, 4]));
    let refused = vec![Refusal::Unauthentic];
    assert_eq!(world.hears(0, propose(&batch)), (vec![doubt], refused));
    let again = (vec![doubt], vec![]);
    assert_eq!(
        world.hears(0, propose(&batch)),
        again,
        "nothing is checked again"
    );
    let nothing = (vec![], vec![]);
    assert_eq!(world.hears(1, accepted(&batch)), nothing);
    assert_eq!(world.hears(1, accepted(&batch)), nothing, "one voice");
    let other = world.batch(&[world.bundle(2, &[])]);
    let foreign = world.hears(2, accepted(&other));
    assert_eq!(foreign, (vec![], vec![Refusal::Unasked]), "another value");
    let vote = (vec![("Accepted", nodes(&[0, 1, 2, 3]))], vec![]);
    assert_eq!(world.hears(3, accepted(&batch)), vote);
    assert_eq!(world.hears(4, accepted(&batch)), nothing, "late, no fault");
}

#[test]
fn single_bundles_are_vouched_for_both_ways() {
    let mut world = world(5);
    let (bad, good) = (world.bundle(1, &[5]), world.bundle(2, &[4]));
    let batch = world.batch(&[bad.clone(), good.clone()]);
    world.hears(0, propose(&batch));
    let client = world.client_id();
    let vouches = (vec![("AckAuth", nodes(&[4]))], vec![]);
    assert_eq!(world.hears(4, nack(client, &good)), vouches);
    assert_eq!(world.hears(4, nack(client, &bad)), (vec![], vec![]));
    assert_eq!(world.hears(1, ack(&bad)), (vec![], vec![]));
    let stranger = world.bundle(3, &[]);
    assert_eq!(world.hears(2, ack(&stranger)), (vec![], vec![]));
    let vote = (vec![("Accepted", nodes(&[0, 1, 2, 3]))], vec![]);
    assert_eq!(world.hears(4, ack(&bad)), vote);
    let vouches = (vec![("Accepted", nodes(&[4]))], vec![]);
    assert_eq!(world.hears(4, nack(client, &good)), vouches, "by its vote");
}

#[test]
fn signatures_are_checked_only_where_they_are_wanted_and_once_per_liar() {
    let mut world = world(5);
    let bundle = world.bundle(1, &[5]);
    let batch = world.batch(std::slice::from_ref(&bundle));
    let nothing = (vec![], vec![]);
    let signed = world.signature(&bundle, &world.client);
    let forged = world.signature(&bundle, &identity(98));
    assert_eq!(
        world.hears(0, signed.clone()),
        nothing,
        "nothing is doubted"
    );
    world.hears(0, propose(&batch));
    let other = world.bundle(2, &[]);
    let unwanted = world.signature(&other, &world.client);
    assert_eq!(world.hears(0, unwanted), nothing);
    assert_eq!(world.checked(), 0);
    let refused = (vec![], vec![Refusal::BadSignature]);
    assert_eq!(world.hears(4, forged.clone()), refused);
    for _ in 0..100 {
        assert_eq!(
            world.hears(4, forged.clone()),
            nothing,
            "not even looked at"
        );
    }
    assert_eq!(world.checked(), 1);
    let vote = (vec![("Accepted", nodes(&[0, 1, 2, 3]))], vec![]);
    assert_eq!(world.hears(0, signed), vote);
    assert_eq!(world.checked(), 2);
}

#[test]
fn a_leader_fetches_the_signature_that_f_plus_one_want() {
    let mut world = world(0);
    let (bundle, later) = (world.bundle(1, &[3, 4, 5]), world.bundle(2, &[]));
    let submit = |bundle| Message::Submit {
        retry: false,
        bundle,
    };
    world.client_says(submit(bundle.bytes()));
    let client = world.client_id();
    let vouches = (vec![("Accepted", nodes(&[5]))], vec![]);
    assert_eq!(
        world.hears(5, nack(client, &bundle)),
        vouches,
        "one may lie"
    );
    let asked = world.hears(4, nack(client, &bundle));
    let ask = ("WantSignature", To::Client(client));
    assert_eq!(asked, (vec![ask, ("Accepted", nodes(&[4]))], vec![]));
    let again = world.hears(4, nack(client, &bundle));
    assert_eq!(again.0.len(), 1, "not again at once: {again:?}");
    // From now on its tags are refused here.
    let refused = (vec![ask], vec![Refusal::MustSign]);
    assert_eq!(world.client_says(submit(later.bytes())), refused);
    let forged = world.signature(&bundle, &identity(98));
    let bad = (vec![], vec![Refusal::BadSignature]);
    assert_eq!(world.client_says(forged.clone()), bad);
    assert_eq!(world.client_says(forged), (vec![], vec![]));
    assert_eq!(world.checked(), 1);
}

#[test]
fn a_leader_passes_the_signature_on_and_shows_it_to_whoever_doubts_later() {
    let mut world = world(0);
    let bundle = world.bundle(1, &[3, 4, 5]);
    world.client_says(Message::Submit {
        retry: false,
        bundle: bundle.bytes(),
    });
    let client = world.client_id();
    for node in [4, 5] {
        world.hears(node, nack(client, &bundle));
    }
    let signed = world.signature(&bundle, &world.client);
    let told = (vec![("BundleSignature", nodes(&[1, 2, 3, 4, 5]))], vec![]);
    assert_eq!(world.client_says(signed.clone()), told);
    assert_eq!(world.client_says(signed), (vec![], vec![]), "one is enough");
    let (said, _) = world.hears(3, nack(client, &bundle));
    assert_eq!(
        said,
        [("BundleSignature", nodes(&[3])), ("Accepted", nodes(&[3]))]
    );
}

#[test]
fn doubts_of_those_who_may_not_doubt_and_of_unknown_clients_count_for_nothing() {
    let mut world = world(0);
    let bundle = world.bundle(1, &[]);
    world.client_says(Message::Submit {
        retry: false,
        bundle: bundle.bytes(),
    });
    let stranger = identity(97).public().client_id();
    for node in 1..6 {
        let (said, _) = world.hears(node, nack(stranger, &bundle));
        assert!(said.iter().all(|(kind, _)| *kind == "Accepted"), "{said:?}");
    }
    let unproposed = world.bundle(9, &[]);
    for node in 1..6 {
        let (said, _) = world.hears(node, nack(world.client_id(), &unproposed));
        assert!(said.iter().all(|(kind, _)| *kind == "Accepted"), "{said:?}");
    }
    let (said, refused) = world.hears(9, nack(world.client_id(), &bundle));
    assert_eq!((said, refused), (vec![], vec![Refusal::Role]));
}
