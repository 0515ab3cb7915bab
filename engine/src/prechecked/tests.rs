//! A replica that is given prechecked messages does what one does that is given the plain ones.

use std::mem::take;

use twostep_crypto::{Identity, MacKey, authenticator_key};
use twostep_net::pool::Body;

use super::*;
use crate::batch::{BundleWriter, Request, RequestKind};
use crate::configuration::Admission;
use crate::machine::{Effects, Event, Input, Machine, Question, Record, To};
use crate::replica::Replica;
use crate::replica::testing::{identity, one_of_six};
use crate::types::{Digest, RecordSeq, Seq, SessionId, Time, Value};
use crate::wire::{Bounds, decode, encode};

/// Everything that a step does, in words.
#[derive(Default)]
struct Told {
    words: Vec<String>,
    stored: Option<RecordSeq>,
}

impl Effects for Told {
    fn send(&mut self, to: To, message: &Message<'_>) {
        self.words.push(format!("send {to:?} {message:?}"));
    }
    fn store(&mut self, seq: RecordSeq, record: &Record<'_>) {
        self.words.push(format!("store {seq:?} {record:?}"));
        self.stored = Some(seq);
    }
    fn deliver(&mut self, decree: Decree, batch: &Batch) {
        self.words.push(format!("deliver {decree} {batch:?}"));
    }
    fn ask(&mut self, question: Question) {
        self.words.push(format!("ask {question:?}"));
    }
    fn observe(&mut self, event: Event) {
        self.words.push(format!("{event:?}"));
    }
}

/// One replica that hears plain messages, one that hears what a loop checked for it.
struct Twins {
    plain: Replica,
    checked: Replica,
    precheck: Precheck,
    bounds: Bounds,
    now: Time,
}

impl Twins {
    fn new(me: u8, admission: Admission) -> Twins {
        let (plain, configuration, _) = one_of_six(me, admission);
        let (checked, _, _) = one_of_six(me, admission);
        Twins {
            precheck: checked.precheck(),
            bounds: Bounds::of(&configuration),
            plain,
            checked,
            now: Time(1),
        }
    }

    /// Gives both the message and a tick; what they did, which is the same, and whether a check was made for the second.
    fn hear(&mut self, from: Party, message: &Message<'_>) -> (Vec<String>, bool) {
        let mut bytes = Vec::new();
        encode(message, &mut bytes);
        let pool = Pool::default();
        let read = || decode(&bytes, &pool, &self.bounds).expect("a message");
        let (mut plain, mut checked) = (Told::default(), Told::default());
        let input = Input::Message {
            from,
            message: read(),
        };
        self.plain.step(self.now, input, &mut plain);
        let horizon = self.checked.horizon();
        let found = self.precheck.check(horizon, from, &read());
        let was_checked = found.is_some();
        match found {
            Some(found) => {
                found.with_plain(|sender, plain| assert_eq!((sender, plain), (from, read())));
                self.checked.take_prechecked(self.now, found, &mut checked);
            }
            None => {
                let message = read();
                let input = Input::Message { from, message };
                self.checked.step(self.now, input, &mut checked);
            }
        }
        for (replica, told) in [
            (&mut self.plain, &mut plain),
            (&mut self.checked, &mut checked),
        ] {
            if let Some(seq) = told.stored.take() {
                replica.step(self.now, Input::Stored(seq), told);
            }
            replica.step(self.now, Input::Tick, told);
        }
        assert_eq!(plain.words, checked.words);
        let signatures = |replica: &Replica| replica.report().checked.bundles;
        assert!(signatures(&self.checked) >= signatures(&self.plain));
        self.now.0 += 1_000_000;
        (take(&mut plain.words), was_checked)
    }
}

/// What a client writes.
struct Pen {
    client: Identity,
    keys: Vec<MacKey>,
    seq: u64,
}

impl Pen {
    fn new() -> Pen {
        let (_, configuration, client) = one_of_six(0, Admission::Mac);
        let id = client.public().client_id();
        let key = |node: u8| {
            let public = identity(node).public();
            let to = NodeId(u16::from(node));
            authenticator_key(&configuration.scope(), &client, &public, id, to)
        };
        Pen {
            keys: (0..6)
                .map(|node| key(node).expect("no key is weak"))
                .collect(),
            client,
            seq: 0,
        }
    }

    fn from(&self) -> Party {
        Party::Client(self.client.public().client_id())
    }

    fn bundle(&mut self, twins: &Twins, signed: bool) -> Vec<u8> {
        self.seq += 1;
        let mut writer = BundleWriter::new(self.client.public().client_id());
        assert!(writer.push(&Request {
            kind: RequestKind::Operation,
            session: SessionId::NONE,
            seq: Seq(self.seq),
            operation: b"operation",
        }));
        let scope = &twins.precheck.scope;
        if signed {
            writer.finish_signed(scope, self.client.signing());
        } else {
            writer.finish_mac(scope, &self.keys);
        }
        writer.bytes().to_vec()
    }

    /// A proposal of the leader of regency 0 that holds these bundles.
    fn proposal(twins: &Twins, decree: u64, bundles: &[&[u8]]) -> Message<'static> {
        let count = u32::try_from(bundles.len()).unwrap();
        let mut body = count.to_le_bytes().to_vec();
        bundles
            .iter()
            .for_each(|bundle| body.extend_from_slice(bundle));
        let body = Body::from_vec(body);
        let limits = twins.precheck.configuration.limits();
        let parsed = Batch::parse(body.clone(), &twins.precheck.scope, limits, |_, _| {
            Ok::<(), Refusal>(())
        });
        Message::Propose {
            regency: Regency(0),
            decree: Decree(decree),
            value: parsed.expect("a batch").value(),
            body,
        }
    }
}

fn some(words: &[String], part: &str) -> bool {
    words.iter().any(|word| word.contains(part))
}

#[test]
fn bundles_are_ordered_and_refused_alike() {
    let (mut leader, mut pen) = (Twins::new(0, Admission::Mac), Pen::new());
    let from = pen.from();
    let stranger = Party::Client(identity(77).public().client_id());
    for signed in [false, true] {
        let good = pen.bundle(&leader, signed);
        let mut bad = pen.bundle(&leader, signed);
        let tag = if signed {
            bad.len() - 1
        } else {
            bad.len() - 6 * 16
        };
        bad[tag] ^= 1;
        let (retry, whole) = (false, good.as_slice());
        let (words, checked) = leader.hear(
            from,
            &Message::Submit {
                retry,
                bundle: whole,
            },
        );
        assert!(checked && some(&words, "Proposed"), "{words:?}");
        let (words, checked) = leader.hear(
            from,
            &Message::Submit {
                retry,
                bundle: &bad,
            },
        );
        assert!(checked && some(&words, "Unauthentic"), "{words:?}");
        let cut = &good[..good.len() - 1];
        let (words, checked) = leader.hear(from, &Message::Submit { retry, bundle: cut });
        assert!(!checked && some(&words, "Malformed"), "{words:?}");
        let (words, _) = leader.hear(
            stranger,
            &Message::Submit {
                retry,
                bundle: whole,
            },
        );
        assert!(some(&words, "ForeignBundle"), "{words:?}");
        let again = Message::Submit {
            retry: true,
            bundle: whole,
        };
        leader.hear(from, &again);
        leader.hear(from, &again);
    }
    let mut follower = Twins::new(1, Admission::Mac);
    let bundle = pen.bundle(&follower, false);
    for retry in [false, true] {
        let message = Message::Submit {
            retry,
            bundle: &bundle,
        };
        follower.hear(from, &message);
    }
}

#[test]
fn proposals_are_voted_for_and_doubted_alike() {
    let leader = Party::Node(NodeId(0));
    // A node that learns as well, and one that only accepts.
    for me in [1, 5] {
        let (mut node, mut pen) = (Twins::new(me, Admission::Mac), Pen::new());
        let (tagged, signed) = (pen.bundle(&node, false), pen.bundle(&node, true));
        let good = Pen::proposal(&node, 1, &[&tagged, &signed]);
        let (words, checked) = node.hear(leader, &good);
        assert!(checked && some(&words, "Voted"), "{words:?}");
        let (words, checked) = node.hear(leader, &good);
        assert!(!checked, "once is enough: {words:?}");
        let mut spoilt = pen.bundle(&node, false);
        let tag = spoilt.len() - (6 - usize::from(me)) * 16;
        spoilt[tag] ^= 1;
        let (words, checked) = node.hear(leader, &Pen::proposal(&node, 2, &[&spoilt]));
        assert!(checked && some(&words, "Doubted"), "{words:?}");
        let (words, checked) = node.hear(leader, &Pen::proposal(&node, 2, &[&tagged]));
        assert!(!checked, "a second value for one decree: {words:?}");
        let (words, checked) = node.hear(leader, &Pen::proposal(&node, 1 << 40, &[&signed]));
        assert!(!checked && some(&words, "OutsideWindow"), "{words:?}");
        let (words, checked) = node.hear(Party::Node(NodeId(2)), &Pen::proposal(&node, 3, &[]));
        assert!(!checked && some(&words, "NotLeader"), "{words:?}");
        let mut lie = Pen::proposal(&node, 4, &[&signed]);
        if let Message::Propose { value, .. } = &mut lie {
            *value = Value(Digest::ZERO);
        }
        let (words, checked) = node.hear(leader, &lie);
        assert!(!checked && some(&words, "WrongBody"), "{words:?}");
    }
}
