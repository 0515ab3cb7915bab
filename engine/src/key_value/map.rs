//! The operations, over any sorted map: one code for every form of the store, so that all forms answer alike.

use std::io::Write;

use super::codec::{KeyValueError, KeyValueReply, Operation};

/// What the operations need of a map.
pub(super) trait Map {
    /// A value as it is looked at.
    type Value<'a>: AsRef<[u8]>
    where
        Self: 'a;
    /// Why it cannot be read or written.
    type Failure;

    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Self::Value<'_>>, Self::Failure>;

    /// Sets the value of `key`.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Self::Failure>;

    /// Removes `key`; false if it was absent.
    fn remove(&mut self, key: &[u8]) -> Result<bool, Self::Failure>;
}

/// Applies an encoded [`Operation`] and writes an encoded [`KeyValueReply`]. After a failure the reply means nothing.
pub(super) fn execute<M: Map>(
    map: &mut M,
    operation: &[u8],
    reply: &mut Vec<u8>,
) -> Result<(), M::Failure> {
    match Operation::decode(operation) {
        Ok(operation) => apply(map, &operation, reply),
        Err(error) => refuse(error, reply),
    }
}

/// Answers an encoded [`Operation::Get`]; anything else would change the state and is an error.
pub(super) fn query<M: Map>(
    map: &M,
    question: &[u8],
    reply: &mut Vec<u8>,
) -> Result<(), M::Failure> {
    match Operation::decode(question) {
        Ok(Operation::Get { key }) => read(map, key, reply),
        Ok(_) => refuse(KeyValueError::NotAQuestion, reply),
        Err(error) => refuse(error, reply),
    }
}

fn apply<M: Map>(
    map: &mut M,
    operation: &Operation<'_>,
    reply: &mut Vec<u8>,
) -> Result<(), M::Failure> {
    match *operation {
        Operation::Get { key } => return read(map, key, reply),
        Operation::Put { key, value } => {
            map.put(key, value)?;
            KeyValueReply::Done.encode(reply);
        }
        Operation::Delete { key } => {
            let removed = map.remove(key)?;
            if removed {
                KeyValueReply::Done
            } else {
                KeyValueReply::Absent
            }
            .encode(reply);
        }
        Operation::Increment {
            key,
            by,
            padding: _,
        } => {
            let before = match map.get(key)? {
                None => Some(0),
                Some(text) => number(text.as_ref()),
            };
            let Some(before) = before else {
                return refuse(KeyValueError::NotANumber, reply);
            };
            let Some(number) = before.checked_add(by) else {
                return refuse(KeyValueError::Overflow, reply);
            };
            let mut text = [0; NUMBER_BYTES_MAX];
            map.put(key, write_number(number, &mut text))?;
            KeyValueReply::Number(number).encode(reply);
        }
        Operation::CompareAndSwap {
            key,
            expected,
            value,
        } => {
            {
                let current = map.get(key)?;
                let current = current.as_ref().map(AsRef::as_ref);
                if current != expected {
                    KeyValueReply::Mismatch(current).encode(reply);
                    return Ok(());
                }
            }
            map.put(key, value)?;
            KeyValueReply::Done.encode(reply);
        }
    }
    Ok(())
}

fn read<M: Map>(map: &M, key: &[u8], reply: &mut Vec<u8>) -> Result<(), M::Failure> {
    match map.get(key)? {
        Some(value) => KeyValueReply::Value(value.as_ref()).encode(reply),
        None => KeyValueReply::Absent.encode(reply),
    }
    Ok(())
}

fn refuse<F>(error: KeyValueError, reply: &mut Vec<u8>) -> Result<(), F> {
    KeyValueReply::Error(error).encode(reply);
    Ok(())
}

/// The digits of the longest number, and its sign.
const NUMBER_BYTES_MAX: usize = 20;

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn write_number(number: i64, text: &mut [u8; NUMBER_BYTES_MAX]) -> &[u8] {
    let mut rest = text.as_mut_slice();
    write!(rest, "{number}").expect("the longest number fits");
    let left = rest.len();
    &text[..NUMBER_BYTES_MAX - left]
}
