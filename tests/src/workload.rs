//! The operations that simulated clients call: the bytes of the embedded key-value store.

use twostep_engine::key_value::{KeyValue, KeyValueReply, Operation};

use crate::checkers::history::Counter;

/// Adds one to a counter.
#[must_use]
pub fn increment(counter: Counter) -> Vec<u8> {
    encoded(&Operation::Increment {
        key: &key(counter),
        by: 1,
        padding: &[],
    })
}

/// Writes a value of some length next to a counter.
#[must_use]
pub fn put(counter: Counter, length: usize) -> Vec<u8> {
    let key = format!("value {counter}");
    encoded(&Operation::Put {
        key: key.as_bytes(),
        value: &vec![0x5a; length],
    })
}

/// The number that a reply holds, if it holds one.
#[must_use]
pub fn number(reply: &[u8]) -> Option<i64> {
    match KeyValueReply::decode(reply) {
        Ok(KeyValueReply::Number(value)) => Some(value),
        _ => None,
    }
}

/// What a counter stands at in a store; 0 if nothing was added to it.
#[must_use]
pub fn counter_in(store: &KeyValue, counter: Counter) -> Option<i64> {
    let kept = store.get(&key(counter))?;
    std::str::from_utf8(kept).ok()?.parse().ok()
}

fn key(counter: Counter) -> Vec<u8> {
    format!("counter {counter}").into_bytes()
}

fn encoded(operation: &Operation<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    operation.encode(&mut bytes);
    bytes
}
