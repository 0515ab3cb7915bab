//! Properties of bundles and batches: what is written reads back, what is changed has another digest, no bytes panic.

use std::collections::VecDeque;
use std::ops::Range;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use twostep_crypto::{Identity, MacKey, Scope};
use twostep_engine::batch::{
    Authenticator, Batch, Bundle, BundleWriter, Malformed, OPENS_MAX, Request, RequestKind,
};
use twostep_engine::configuration::Limits;
use twostep_engine::message::Message;
use twostep_engine::types::{ClientId, ClusterId, Decree, Epoch, Regency, Seq, SessionId, Value};
use twostep_engine::wire;
use twostep_net::pool::{Body, Pool};

/// The lengths of content, kind and authenticator stand in front of the content.
const CONTENT_AT: usize = 4 + 1 + 2;
/// A request with an empty operation.
const REQUEST_BYTES: usize = 1 + 12 + 8 + 4;

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_bundle_reads_back_as_it_was_written(written in bundle()) {
        let bytes = written.bytes();
        let bundle = parse(&bytes).expect("what is written is well-formed");
        prop_assert_eq!(bundle.len(), bytes.len());
        let view = bundle.view();
        prop_assert_eq!(view.encoded(), &bytes[..]);
        prop_assert_eq!(view.client, written.client);
        prop_assert_eq!(view.count, written.requests.len());
        let read: Vec<Request<'_>> = view.requests().collect();
        let expected: Vec<Request<'_>> = written.requests.iter().map(OwnedRequest::view).collect();
        prop_assert_eq!(read, expected);
        match (written.proof, view.authenticator) {
            (Proof::None, Authenticator::None) | (Proof::Signature, Authenticator::Signature(_)) => {}
            (Proof::Tags(count), Authenticator::Mac(_)) => {
                for place in 0..count {
                    let tag = key(place).tag(&[&bundle.digest().0]);
                    prop_assert_eq!(view.authenticator.tag(place), Some(tag.0), "the tag for place {}", place);
                }
                prop_assert_eq!(view.authenticator.tag(count), None);
            }
            (proof, read) => prop_assert!(false, "{:?} was read as {:?}", proof, read),
        }
    }

    #[test]
    fn a_flipped_bit_of_the_content_is_refused_or_changes_the_digest(written in bundle(), bit in any::<Index>()) {
        let mut bytes = written.bytes();
        let bundle = parse(&bytes).expect("what is written is well-formed");
        let bit = CONTENT_AT * 8 + bit.index(written.content_len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(changed) = parse(&bytes) {
            prop_assert_ne!(changed.digest(), bundle.digest());
            prop_assert_ne!(value(vec![changed]), value(vec![bundle]));
        }
    }

    #[test]
    fn a_flipped_bit_of_the_authenticator_leaves_digest_and_value(written in bundle(), bit in any::<Index>()) {
        let mut bytes = written.bytes();
        let bundle = parse(&bytes).expect("what is written is well-formed");
        let proof = CONTENT_AT + written.content_len();
        prop_assume!(proof < bytes.len());
        let bit = proof * 8 + bit.index((bytes.len() - proof) * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let changed = parse(&bytes).expect("an authenticator is any bytes of its length");
        prop_assert_eq!(changed.digest(), bundle.digest());
        prop_assert_eq!(value(vec![changed]), value(vec![bundle]));
    }

    #[test]
    fn what_the_tag_of_a_link_leaves_out_is_covered_otherwise(written in vec(bundle(), 1..6), bit in any::<Index>()) {
        let bundles: Vec<Bundle> = written.iter().map(|written| parse(&written.bytes()).expect("well-formed")).collect();
        let batch = assembled(bundles.clone());
        let (regency, decree, value) = (Regency(0), Decree(1), batch.value());
        let body = batch.body().clone();
        for message in [
            Message::Propose { regency, decree, value, body: body.clone() },
            Message::Fetched { decree, value, body },
        ] {
            let (head, gaps) = gaps_of(&message);
            let content: usize = written.iter().map(Written::content_len).sum();
            prop_assert_eq!(gaps.iter().map(Range::len).sum::<usize>(), content);
            let mut bytes = batch.body().to_vec();
            flip(&mut bytes, &gaps, head, bit);
            let changed = Batch::parse::<Malformed>(Body::from_vec(bytes), &scope(), &limits(), |_, _| Ok(()));
            prop_assert!(changed.is_err() || changed.unwrap().value() != value);
        }
        for bundle in &bundles {
            let bytes = bundle.bytes();
            let (_, retried) = gaps_of(&Message::Submit { retry: true, bundle: bytes });
            prop_assert!(retried.is_empty(), "many see a retry, and not all of them check it");
            let (head, gaps) = gaps_of(&Message::Submit { retry: false, bundle: bytes });
            let tagged = matches!(bundle.view().authenticator, Authenticator::Mac(_));
            prop_assert_eq!(gaps.is_empty(), !tagged, "what only the link may vouch for is never left out");
            if tagged {
                let mut bytes = bytes.to_vec();
                flip(&mut bytes, &gaps, head, bit);
                let changed = parse(&bytes);
                prop_assert!(changed.is_err() || changed.unwrap().digest() != bundle.digest());
            }
        }
    }

    #[test]
    fn every_cut_and_every_tail_of_a_bundle_is_refused(written in bundle()) {
        let bytes = written.bytes();
        for len in 0..bytes.len() {
            prop_assert!(parse(&bytes[..len]).is_err(), "cut at {} of {}", len, bytes.len());
        }
        prop_assert_eq!(parse(&[bytes.as_slice(), &[0]].concat()).err(), Some(Malformed::Trailing(1)));
    }

    #[test]
    fn a_batch_reads_back_with_the_value_it_was_made_with(written in vec(bundle(), 1..6), bytes_max in 1..6_000usize) {
        let bundles: Vec<Bundle> = written.iter().map(|written| parse(&written.bytes()).expect("well-formed")).collect();
        let mut waiting: VecDeque<Bundle> = bundles.clone().into();
        let mut taken = 0;
        while !waiting.is_empty() {
            let batch = Batch::assemble(&Pool::default(), &scope(), &mut waiting, bytes_max);
            let mut digests = Vec::new();
            let read = Batch::parse::<Malformed>(batch.body().clone(), &scope(), &limits(), |_, digest| {
                digests.push(*digest);
                Ok(())
            });
            let read = read.expect("what is assembled is well-formed");
            prop_assert_eq!(read.value(), batch.value());
            prop_assert_eq!(read.body(), batch.body());
            let count = read.bundles().count();
            prop_assert!(count >= 1 && (count == 1 || batch.body().len() <= bytes_max));
            for (view, digest) in read.bundles().zip(digests) {
                prop_assert_eq!(view.encoded(), &written[taken].bytes()[..]);
                prop_assert_eq!(digest, bundles[taken].digest());
                taken += 1;
            }
        }
        prop_assert_eq!(taken, bundles.len(), "every bundle is in exactly one batch, in order");
    }

    #[test]
    fn a_value_covers_which_bundles_in_which_order(one in bundle(), other in bundle()) {
        let (one, other) = (parse(&one.bytes()).expect("well-formed"), parse(&other.bytes()).expect("well-formed"));
        prop_assume!(one.digest() != other.digest());
        let values = [
            Batch::noop(&scope()).value(),
            value(vec![one.clone()]),
            value(vec![other.clone()]),
            value(vec![one.clone(), one.clone()]),
            value(vec![one.clone(), other.clone()]),
            value(vec![other, one]),
        ];
        for (place, earlier) in values.iter().enumerate() {
            prop_assert!(!values[place + 1..].contains(earlier), "{}", place);
        }
    }

    #[test]
    fn damaged_bodies_never_panic(
        written in vec(bundle(), 1..4),
        damage in vec((any::<Index>(), prop_oneof![Just(0), Just(1), Just(255), any::<u8>()]), 1..6),
    ) {
        let bundles = written.iter().map(|written| parse(&written.bytes()).expect("well-formed")).collect();
        let mut bytes = assembled(bundles).body().to_vec();
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        walk(&bytes);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(prop_oneof![3 => Just(0), 2 => 0..8u8, 1 => any::<u8>()], 0..200)) {
        walk(&bytes);
    }
}

#[test]
fn limits_are_held_to_the_byte() {
    let operation = vec![7; limits().request_bytes_max as usize + 1];
    let bundle = |len: usize| {
        let mut writer = BundleWriter::new(ClientId([1; 16]));
        assert!(writer.push(&Request {
            operation: &operation[..len],
            ..OwnedRequest::default().view()
        }));
        writer.finish_bare(&scope()).to_vec()
    };
    let limit = limits().request_bytes_max as usize;
    assert!(parse(&bundle(limit)).is_ok());
    let refused = Malformed::Limit {
        what: "an operation",
        found: limit + 1,
        limit,
    };
    assert_eq!(parse(&bundle(limit + 1)).err(), Some(refused));

    let whole = bundle(limit);
    let tight = |body_bytes_max: usize| Limits {
        body_bytes_max: u32::try_from(body_bytes_max).expect("small"),
        ..limits()
    };
    let fits = tight(whole.len() + 4);
    let bundle = Bundle::parse(Body::from_vec(whole.clone()), &scope(), &fits)
        .expect("it fits a body of its own");
    let batch = assembled(vec![bundle]);
    assert!(
        Batch::parse::<Malformed>(batch.body().clone(), &scope(), &fits, |_, _| Ok(())).is_ok()
    );
    let short = tight(whole.len() + 3);
    assert!(matches!(
        Bundle::parse(Body::from_vec(whole), &scope(), &short),
        Err(Malformed::Limit { .. })
    ));
    let refused = Batch::parse::<Malformed>(batch.body().clone(), &scope(), &short, |_, _| Ok(()));
    assert!(matches!(
        refused,
        Err(Malformed::Limit { what: "a body", .. })
    ));
}

#[test]
fn a_count_that_is_not_the_number_of_requests_is_refused() {
    let mut writer = BundleWriter::new(ClientId([1; 16]));
    for _ in 0..2 {
        assert!(writer.push(&OwnedRequest::default().view()));
    }
    let mut bytes = writer.finish_bare(&scope()).to_vec();
    let request = (bytes.len() - CONTENT_AT - 16 - 2) / 2;
    for (count, refused) in [
        (0, Some(Malformed::Empty)),
        (1, Some(Malformed::Trailing(request))),
        (2, None),
        (3, Some(Malformed::Truncated("request"))),
    ] {
        bytes[CONTENT_AT + 16] = count;
        assert_eq!(parse(&bytes).err(), refused, "a count of {count}");
    }
}

#[test]
fn a_bundle_opens_a_bounded_number_of_sessions() {
    let open = OwnedRequest {
        kind: RequestKind::Open,
        session: SessionId::NONE,
        operation: Vec::new(),
        ..OwnedRequest::default()
    };
    let mut writer = BundleWriter::new(ClientId([1; 16]));
    while writer.push(&open.view()) {}
    assert_eq!(writer.count(), OPENS_MAX);
    assert!(
        writer.push(&OwnedRequest::default().view()),
        "operations may follow"
    );
    writer.clear();
    while writer.push(&open.view()) {}
    let mut bytes = writer.finish_bare(&scope()).to_vec();
    assert!(parse(&bytes).is_ok());

    // One more by hand: another copy of the last request.
    let request = bytes[bytes.len() - REQUEST_BYTES..].to_vec();
    bytes.extend(request);
    let content_len = u32::try_from(bytes.len() - CONTENT_AT).expect("small");
    bytes[..4].copy_from_slice(&content_len.to_le_bytes());
    let count = u16::try_from(OPENS_MAX + 1).expect("small");
    bytes[CONTENT_AT + 16..CONTENT_AT + 18].copy_from_slice(&count.to_le_bytes());
    let refused = Malformed::Limit {
        what: "the number of Opens in a bundle",
        found: OPENS_MAX + 1,
        limit: OPENS_MAX,
    };
    assert_eq!(parse(&bytes).err(), Some(refused));
}

#[test]
fn an_open_is_never_tagged_names_no_session_and_carries_nothing() {
    let open = Request {
        kind: RequestKind::Open,
        session: SessionId::NONE,
        seq: Seq(9),
        operation: b"",
    };
    let named = Request {
        session: SessionId {
            decree: Decree(1),
            index: 0,
        },
        ..open
    };
    let loaded = Request {
        operation: b"x",
        ..open
    };
    let write = |request: &Request<'_>, tagged: bool| {
        let mut writer = BundleWriter::new(ClientId([1; 16]));
        assert!(writer.push(request));
        let scope = scope();
        let bytes = if tagged {
            writer.finish_mac(&scope, &[key(0)])
        } else {
            writer.finish_signed(&scope, identity().signing())
        };
        parse(bytes).err()
    };
    assert_eq!(write(&open, false), None);
    for refused in [
        write(&open, true),
        write(&named, false),
        write(&loaded, false),
    ] {
        assert_eq!(refused, Some(Malformed::Open));
    }
}

/// Reads `bytes` as a bundle and as a body, and whatever parses to its end.
fn walk(bytes: &[u8]) {
    if let Ok(bundle) = parse(bytes) {
        assert_eq!(bundle.view().requests().count(), bundle.view().count);
    }
    let batch = Batch::parse::<Malformed>(
        Body::from_vec(bytes.to_vec()),
        &scope(),
        &limits(),
        |_, _| Ok(()),
    );
    if let Ok(batch) = batch {
        assert_eq!(batch.body().as_slice(), bytes);
        for view in batch.bundles() {
            assert_eq!(view.requests().count(), view.count);
        }
    }
}

/// How long the head of a message is, and what is left out behind it.
fn gaps_of(message: &Message<'_>) -> (usize, Vec<Range<usize>>) {
    let (mut head, mut gaps) = (Vec::new(), Vec::new());
    let _ = wire::encode_head(message, &mut head);
    wire::gaps(message, head.len(), 1, &mut gaps);
    (head.len(), gaps)
}

/// Flips one bit in one of `gaps` of `bytes`, which begin `head` bytes later.
fn flip(bytes: &mut [u8], gaps: &[Range<usize>], head: usize, bit: Index) {
    let gap = &gaps[bit.index(gaps.len())];
    let bit = (gap.start - head) * 8 + bit.index(gap.len() * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
}

fn parse(bytes: &[u8]) -> Result<Bundle, Malformed> {
    Bundle::parse(Body::from_vec(bytes.to_vec()), &scope(), &limits())
}

fn assembled(bundles: Vec<Bundle>) -> Batch {
    Batch::assemble(&Pool::default(), &scope(), &mut bundles.into(), usize::MAX)
}

fn value(bundles: Vec<Bundle>) -> Value {
    assembled(bundles).value()
}

fn scope() -> Scope {
    Scope::new(ClusterId([5; 32]), Epoch(0))
}

fn limits() -> Limits {
    Limits {
        body_bytes_max: 8192,
        request_bytes_max: 512,
        ..Limits::default()
    }
}

fn identity() -> Identity {
    Identity::from_seed([3; 32])
}

fn key(place: usize) -> MacKey {
    MacKey::from_bytes([u8::try_from(place).expect("few nodes"); 32])
}

#[derive(Clone, Debug)]
struct OwnedRequest {
    kind: RequestKind,
    session: SessionId,
    seq: Seq,
    operation: Vec<u8>,
}

impl OwnedRequest {
    fn view(&self) -> Request<'_> {
        Request {
            kind: self.kind,
            session: self.session,
            seq: self.seq,
            operation: &self.operation,
        }
    }
}

impl Default for OwnedRequest {
    fn default() -> OwnedRequest {
        OwnedRequest {
            kind: RequestKind::Operation,
            session: SessionId::NONE,
            seq: Seq(1),
            operation: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Proof {
    None,
    Tags(usize),
    Signature,
}

#[derive(Clone, Debug)]
struct Written {
    client: ClientId,
    requests: Vec<OwnedRequest>,
    proof: Proof,
}

impl Written {
    fn bytes(&self) -> Vec<u8> {
        let mut writer = BundleWriter::new(self.client);
        for request in &self.requests {
            assert!(writer.push(&request.view()));
        }
        let bytes = match self.proof {
            Proof::None => writer.finish_bare(&scope()),
            Proof::Tags(count) => {
                writer.finish_mac(&scope(), &(0..count).map(key).collect::<Vec<_>>())
            }
            Proof::Signature => writer.finish_signed(&scope(), identity().signing()),
        };
        bytes.to_vec()
    }

    fn content_len(&self) -> usize {
        // Client and count, then for each request its kind, session, seq, length and operation.
        16 + 2
            + self
                .requests
                .iter()
                .map(|request| 1 + 8 + 4 + 8 + 4 + request.operation.len())
                .sum::<usize>()
    }
}

fn bundle() -> impl Strategy<Value = Written> {
    let proof = prop_oneof![
        Just(Proof::None),
        (0..7usize).prop_map(Proof::Tags),
        Just(Proof::Signature)
    ];
    (
        any::<[u8; 16]>(),
        vec((request(), any::<bool>()), 1..6),
        proof,
    )
        .prop_map(|(client, requests, proof)| {
            let requests = requests.into_iter().map(|(request, open)| {
                // Opens are never tagged.
                if open && !matches!(proof, Proof::Tags(_)) {
                    OwnedRequest {
                        kind: RequestKind::Open,
                        seq: request.seq,
                        ..OwnedRequest::default()
                    }
                } else {
                    request
                }
            });
            Written {
                client: ClientId(client),
                requests: requests.collect(),
                proof,
            }
        })
}

fn request() -> impl Strategy<Value = OwnedRequest> {
    let number = || prop_oneof![0..300u64, any::<u64>(), Just(u64::MAX)];
    (number(), any::<u32>(), number(), vec(any::<u8>(), 0..60)).prop_map(
        |(decree, index, seq, operation)| OwnedRequest {
            kind: RequestKind::Operation,
            session: SessionId {
                decree: Decree(decree),
                index,
            },
            seq: Seq(seq),
            operation,
        },
    )
}
