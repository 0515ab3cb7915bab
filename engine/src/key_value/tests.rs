use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::types::{ClientId, Decree, Seq, SessionId};

pub(super) const CONTEXT: Context = Context {
    decree: Decree(1),
    client: ClientId([0; 16]),
    session: SessionId::NONE,
    seq: Seq(1),
};

fn run(store: &mut KeyValue, operation: &Operation<'_>) -> Vec<u8> {
    let (mut bytes, mut reply) = (Vec::new(), Vec::new());
    operation.encode(&mut bytes);
    store.execute(&CONTEXT, &bytes, &mut reply);
    reply
}

fn check(store: &mut KeyValue, operation: &Operation<'_>, expected: &KeyValueReply<'_>) {
    let reply = run(store, operation);
    assert_eq!(
        KeyValueReply::decode(&reply),
        Ok(*expected),
        "{operation:?}"
    );
}

fn put(key: &'static str, value: &'static str) -> Operation<'static> {
    Operation::Put {
        key: key.as_bytes(),
        value: value.as_bytes(),
    }
}

fn increment(key: &'static str, by: i64) -> Operation<'static> {
    Operation::Increment {
        key: key.as_bytes(),
        by,
        padding: b"......",
    }
}

/// Chunks that were read, to be restored from.
pub(super) struct Chunks(pub VecDeque<Vec<u8>>);

impl ChunkSource for Chunks {
    fn next(&mut self, chunk: &mut Vec<u8>) -> io::Result<bool> {
        chunk.clear();
        let Some(next) = self.0.pop_front() else {
            return Ok(false);
        };
        chunk.extend_from_slice(&next);
        Ok(true)
    }
}

pub(super) fn chunks_of(mut reader: Box<dyn SnapshotReader>) -> VecDeque<Vec<u8>> {
    let mut chunks = VecDeque::new();
    loop {
        let mut chunk = Vec::new();
        if !reader.next(&mut chunk).unwrap() {
            return chunks;
        }
        assert!(!chunk.is_empty() && chunk.len() <= 1 << 20);
        chunks.push_back(chunk);
    }
}

#[test]
fn operations_do_what_they_say() {
    let mut store = KeyValue::new();
    let get = Operation::Get { key: b"a" };
    let delete = Operation::Delete { key: b"a" };
    check(&mut store, &get, &KeyValueReply::Absent);
    check(&mut store, &put("a", "one"), &KeyValueReply::Done);
    check(&mut store, &get, &KeyValueReply::Value(b"one"));
    check(&mut store, &put("a", ""), &KeyValueReply::Done);
    check(&mut store, &get, &KeyValueReply::Value(b""));
    check(&mut store, &delete, &KeyValueReply::Done);
    check(&mut store, &delete, &KeyValueReply::Absent);
    assert!(store.is_empty());
}

#[test]
fn increments_count_in_readable_numbers() {
    let mut store = KeyValue::new();
    check(&mut store, &increment("n", 1), &KeyValueReply::Number(1));
    check(&mut store, &increment("n", 41), &KeyValueReply::Number(42));
    check(&mut store, &increment("n", -50), &KeyValueReply::Number(-8));
    assert_eq!(store.get(b"n"), Some(b"-8".as_slice()));
    check(
        &mut store,
        &increment("n", i64::MIN),
        &KeyValueReply::Error(KeyValueError::Overflow),
    );
    check(&mut store, &put("n", "many"), &KeyValueReply::Done);
    check(
        &mut store,
        &increment("n", 1),
        &KeyValueReply::Error(KeyValueError::NotANumber),
    );
    assert_eq!(
        store.get(b"n"),
        Some(b"many".as_slice()),
        "an error changes nothing"
    );
}

#[test]
fn compare_and_swap_tells_what_stands_there() {
    let mut store = KeyValue::new();
    let swap = |expected, value| Operation::CompareAndSwap {
        key: b"k",
        expected,
        value,
    };
    check(
        &mut store,
        &swap(Some(b"x"), b"y"),
        &KeyValueReply::Mismatch(None),
    );
    check(&mut store, &swap(None, b"y"), &KeyValueReply::Done);
    check(
        &mut store,
        &swap(None, b"z"),
        &KeyValueReply::Mismatch(Some(b"y")),
    );
    check(&mut store, &swap(Some(b"y"), b"z"), &KeyValueReply::Done);
    assert_eq!(store.get(b"k"), Some(b"z".as_slice()));
}

#[test]
fn malformed_operations_are_answered() {
    let mut store = KeyValue::new();
    check(
        &mut store,
        &put("", "x"),
        &KeyValueReply::Error(KeyValueError::KeyLength),
    );
    for len in [KEY_BYTES_MAX + 1, 70_000] {
        let key = vec![7; len];
        let long = Operation::Put {
            key: &key,
            value: b"x",
        };
        check(
            &mut store,
            &long,
            &KeyValueReply::Error(KeyValueError::KeyLength),
        );
    }
    let key = vec![7; KEY_BYTES_MAX];
    check(
        &mut store,
        &Operation::Put {
            key: &key,
            value: b"x",
        },
        &KeyValueReply::Done,
    );
    let swap = Operation::CompareAndSwap {
        key: b"k",
        expected: Some(b"x"),
        value: b"",
    };
    for operation in [swap, increment("n", 1), Operation::Get { key: b"k" }] {
        let mut bytes = Vec::new();
        operation.encode(&mut bytes);
        bytes.truncate(bytes.len() - operation_tail(&operation));
        let mut reply = Vec::new();
        store.execute(&CONTEXT, &bytes, &mut reply);
        assert_eq!(
            KeyValueReply::decode(&reply),
            Ok(KeyValueReply::Error(KeyValueError::Malformed))
        );
    }
    assert_eq!(store.len(), 1);
}

/// How many bytes to cut so that something that must be there is missing.
fn operation_tail(operation: &Operation<'_>) -> usize {
    match operation {
        Operation::Increment { padding, .. } => padding.len() + 1,
        _ => 1,
    }
}

#[test]
fn a_query_only_reads() {
    let mut store = KeyValue::new();
    check(&mut store, &put("a", "one"), &KeyValueReply::Done);
    let ask = |operation: &Operation<'_>| {
        let (mut bytes, mut reply) = (Vec::new(), Vec::new());
        operation.encode(&mut bytes);
        store.query(&bytes, &mut reply);
        reply
    };
    assert_eq!(
        KeyValueReply::decode(&ask(&Operation::Get { key: b"a" })),
        Ok(KeyValueReply::Value(b"one"))
    );
    let refused = KeyValueReply::Error(KeyValueError::NotAQuestion);
    assert_eq!(KeyValueReply::decode(&ask(&put("a", "two"))), Ok(refused));
}

#[test]
fn a_snapshot_stands_still_and_restores_the_same_bytes() {
    let mut store = KeyValue::new();
    for key in 0..3000u32 {
        let value = vec![key.to_le_bytes()[0]; (key % 1000) as usize];
        store.pages.put(format!("key {key}").as_bytes(), |kept| {
            kept.clone_from(&value);
        });
    }
    let (digest, copy) = (store.digest(), store.clone());
    let snapshot = store.snapshot();
    for key in (0..3000u32).step_by(3) {
        store.pages.put(format!("key {key}").as_bytes(), Vec::clear);
        store.pages.remove(format!("key {}", key + 1).as_bytes());
    }
    assert_ne!(store.digest(), digest);
    let chunks = chunks_of(snapshot);
    assert!(chunks.len() >= 2, "the image is cut");
    assert_eq!(chunks, chunks_of(copy.snapshot()));

    let mut restored = KeyValue::new();
    check(
        &mut restored,
        &put("key of before", "gone"),
        &KeyValueReply::Done,
    );
    restored.restore(&mut Chunks(chunks.clone())).unwrap();
    assert_eq!(restored.digest(), digest);
    assert_eq!(
        chunks_of(restored.snapshot()),
        chunks,
        "pages that came about otherwise give the same bytes"
    );

    // However the image is cut, it is the same image.
    let whole: Vec<u8> = chunks.into_iter().flatten().collect();
    let odd = whole.chunks(1013).map(<[u8]>::to_vec).collect();
    restored.restore(&mut Chunks(odd)).unwrap();
    assert_eq!(restored.digest(), digest);
}

#[test]
fn a_value_larger_than_a_chunk_is_cut() {
    let mut store = KeyValue::new();
    store.pages.put(b"big", |value| value.resize(3 << 20, 7));
    let chunks = chunks_of(store.snapshot());
    assert_eq!(chunks.len(), 4);
    let mut restored = KeyValue::new();
    restored.restore(&mut Chunks(chunks)).unwrap();
    assert_eq!(restored.digest(), store.digest());
}

#[test]
fn an_empty_store_has_an_image() {
    let empty = KeyValue::new();
    let mut restored = KeyValue::new();
    check(&mut restored, &put("a", "one"), &KeyValueReply::Done);
    restored
        .restore(&mut Chunks(chunks_of(empty.snapshot())))
        .unwrap();
    assert!(restored.is_empty());
    assert!(
        restored.restore(&mut Chunks(VecDeque::new())).is_err(),
        "no bytes are no image"
    );
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..80),
        start in prop::option::of((0u8..8, 0u8..12)),
    ) {
        if let (Some((tag, key_len)), [first, second, third, ..]) = (start, bytes.as_mut_slice()) {
            [*first, *second, *third] = [tag, key_len, 0];
        }
        let mut store = KeyValue::new();
        let mut reply = Vec::new();
        store.execute(&CONTEXT, &bytes, &mut reply);
        prop_assert!(KeyValueReply::decode(&reply).is_ok());
        if let Ok(operation) = Operation::decode(&bytes) {
            let mut again = Vec::new();
            operation.encode(&mut again);
            prop_assert_eq!(&again, &bytes, "one operation, one encoding");
        }
        if let Ok(reply) = KeyValueReply::decode(&bytes) {
            let mut again = Vec::new();
            reply.encode(&mut again);
            prop_assert_eq!(&again, &bytes, "one reply, one encoding");
        }
    }

    #[test]
    fn a_damaged_image_is_refused_or_another_state(
        keys in prop::collection::btree_map(prop::collection::vec(any::<u8>(), 1..4), prop::collection::vec(any::<u8>(), 0..4), 1..8),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
        cut in any::<bool>(),
    ) {
        let mut store = KeyValue::new();
        for (key, value) in &keys {
            run(&mut store, &Operation::Put { key, value });
        }
        let mut image: Vec<u8> = chunks_of(store.snapshot()).into_iter().flatten().collect();
        let at = at.index(image.len());
        if cut {
            image.truncate(at);
        } else {
            image[at] ^= 1 << bit;
        }
        let mut restored = KeyValue::new();
        if restored.restore(&mut Chunks(VecDeque::from([image]))).is_ok() {
            prop_assert!(!cut);
            prop_assert_ne!(restored.digest(), store.digest());
        }
    }

    #[test]
    fn the_digest_is_a_function_of_the_content(
        steps in prop::collection::vec((0u8..20, prop::option::of(0u8..3)), 0..100),
    ) {
        let (mut store, mut map) = (KeyValue::new(), BTreeMap::new());
        for (key, value) in &steps {
            match value {
                Some(value) => {
                    run(&mut store, &Operation::Put { key: &[*key], value: &[*value] });
                    map.insert(*key, *value);
                }
                None => {
                    run(&mut store, &Operation::Delete { key: &[*key] });
                    map.remove(key);
                }
            }
        }
        let mut direct = KeyValue::new();
        for (key, value) in map.iter().rev() {
            run(&mut direct, &Operation::Put { key: &[*key], value: &[*value] });
        }
        prop_assert_eq!(store.digest(), direct.digest());
    }
}
