//! What one key of the key-value store does, in the checker's own arithmetic: the engine only parses operations and replies.
//!
//! | asked | holds before | told | holds after |
//! |---|---|---|---|
//! | put `v` | anything | done | `v` |
//! | get | `v`, nothing | value `v`, absent | the same |
//! | delete | something, nothing | done, absent | nothing |
//! | add `n` | number `m`, nothing (as 0) | number `m + n` | `m + n` |
//! | add `n` | no number; or the sum has more than 64 bits | an error | the same |
//! | swap `e` for `v` | `e`, something else | done, mismatch | `v`, the same |
//!
//! Values are small numbers here: a decimal number in its usual form is itself, every other text gets a number of its own, so that
//! equal values are equal words.

use std::collections::BTreeMap;

use twostep_engine::key_value::{KeyValueError, KeyValueReply, Operation};

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Held {
    /// Nothing.
    Absent,
    /// A number as increments write it.
    Number(i64),
    /// Another text, by its number.
    Text(u32),
}

/// What is asked of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asked {
    /// Hold this.
    Put(Held),
    /// What do you hold?
    Get,
    /// Hold nothing.
    Delete,
    /// Hold so much more.
    Add(i64),
    /// Hold the second if you hold the first.
    Swap(Held, Held),
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It was done.
    Done,
    /// There is nothing.
    Absent,
    /// This is held.
    Value(Held),
    /// The new number.
    Number(i64),
    /// This is held and not what was expected.
    Mismatch(Held),
    /// What is held is no number.
    NotANumber,
    /// The sum has more than 64 bits.
    Overflow,
    /// Something that no operation answers.
    Nonsense,
}

/// The texts that keys hold, each with a number of its own.
#[derive(Debug, Default)]
pub struct Texts {
    numbers: BTreeMap<Vec<u8>, u32>,
    texts: Vec<Vec<u8>>,
}

impl Texts {
    /// What a key holds that holds these bytes.
    pub fn held(&mut self, bytes: &[u8]) -> Held {
        if let Some(number) = number(bytes)
            && number.to_string().as_bytes() == bytes
        {
            return Held::Number(number);
        }
        if let Some(number) = self.numbers.get(bytes) {
            return Held::Text(*number);
        }
        let number = u32::try_from(self.texts.len()).expect("fewer texts than 2^32 calls");
        self.numbers.insert(bytes.to_vec(), number);
        self.texts.push(bytes.to_vec());
        Held::Text(number)
    }

    /// What is asked, and of which key; none if the bytes are no operation.
    pub fn asked<'a>(&mut self, operation: &'a [u8]) -> Option<(&'a [u8], Asked)> {
        Some(match Operation::decode(operation).ok()? {
            Operation::Put { key, value } => (key, Asked::Put(self.held(value))),
            Operation::Get { key } => (key, Asked::Get),
            Operation::Delete { key } => (key, Asked::Delete),
            Operation::Increment { key, by, .. } => (key, Asked::Add(by)),
            Operation::CompareAndSwap {
                key,
                expected,
                value,
            } => {
                let expected = expected.map_or(Held::Absent, |expected| self.held(expected));
                (key, Asked::Swap(expected, self.held(value)))
            }
        })
    }

    /// What is answered.
    pub fn told(&mut self, reply: &[u8]) -> Told {
        match KeyValueReply::decode(reply) {
            Ok(KeyValueReply::Done) => Told::Done,
            Ok(KeyValueReply::Absent) => Told::Absent,
            Ok(KeyValueReply::Value(value)) => Told::Value(self.held(value)),
            Ok(KeyValueReply::Number(number)) => Told::Number(number),
            Ok(KeyValueReply::Mismatch(None)) => Told::Mismatch(Held::Absent),
            Ok(KeyValueReply::Mismatch(Some(value))) => Told::Mismatch(self.held(value)),
            Ok(KeyValueReply::Error(KeyValueError::NotANumber)) => Told::NotANumber,
            Ok(KeyValueReply::Error(KeyValueError::Overflow)) => Told::Overflow,
            Ok(KeyValueReply::Error(_)) | Err(_) => Told::Nonsense,
        }
    }

    /// What a key that holds this is asked to do, does and answers.
    #[must_use]
    pub fn step(&self, held: Held, asked: Asked) -> (Held, Told) {
        match (asked, held) {
            (Asked::Put(value), _) => (value, Told::Done),
            (Asked::Get | Asked::Delete, Held::Absent) => (held, Told::Absent),
            (Asked::Get, _) => (held, Told::Value(held)),
            (Asked::Delete, _) => (Held::Absent, Told::Done),
            (Asked::Add(by), _) => match self.as_number(held) {
                None => (held, Told::NotANumber),
                Some(number) => match number.checked_add(by) {
                    None => (held, Told::Overflow),
                    Some(sum) => (Held::Number(sum), Told::Number(sum)),
                },
            },
            (Asked::Swap(expected, value), _) if held == expected => (value, Told::Done),
            (Asked::Swap(..), _) => (held, Told::Mismatch(held)),
        }
    }

    /// The number that an increment finds; an absent key counts from 0.
    #[must_use]
    pub fn as_number(&self, held: Held) -> Option<i64> {
        match held {
            Held::Absent => Some(0),
            Held::Number(number) => Some(number),
            Held::Text(text) => number(&self.texts[text as usize]),
        }
    }

    /// It in words.
    #[must_use]
    pub fn words(&self, held: Held) -> String {
        match held {
            Held::Absent => "nothing".to_owned(),
            Held::Number(number) => number.to_string(),
            Held::Text(text) => {
                format!(
                    "\"{:.40}\"",
                    String::from_utf8_lossy(&self.texts[text as usize])
                )
            }
        }
    }

    /// What was asked, in words.
    #[must_use]
    pub fn question(&self, asked: Asked) -> String {
        match asked {
            Asked::Put(value) => format!("put {}", self.words(value)),
            Asked::Get => "get".to_owned(),
            Asked::Delete => "delete".to_owned(),
            Asked::Add(by) => format!("add {by}"),
            Asked::Swap(expected, value) => {
                format!("swap {} for {}", self.words(expected), self.words(value))
            }
        }
    }

    /// What was answered, in words.
    #[must_use]
    pub fn answer(&self, told: Option<Told>) -> String {
        match told {
            None => "executed".to_owned(),
            Some(Told::Done) => "done".to_owned(),
            Some(Told::Absent) => "absent".to_owned(),
            Some(Told::Value(value)) => self.words(value),
            Some(Told::Number(number)) => format!("the new number {number}"),
            Some(Told::Mismatch(value)) => format!("mismatch, {} stands there", self.words(value)),
            Some(Told::NotANumber) => "no number".to_owned(),
            Some(Told::Overflow) => "too large a sum".to_owned(),
            Some(Told::Nonsense) => "what answers no such operation".to_owned(),
        }
    }
}

/// The decimal number that bytes say, with or without a sign.
fn number(bytes: &[u8]) -> Option<i64> {
    let (negative, digits) = match bytes {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] | digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_i64, |number, digit| {
        let digit = i64::from(digit.is_ascii_digit().then(|| digit - b'0')?);
        let number = number.checked_mul(10)?;
        if negative {
            number.checked_sub(digit)
        } else {
            number.checked_add(digit)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_what_the_store_takes_for_numbers() {
        for text in [
            "0",
            "-0",
            "+7",
            "007",
            "-12",
            "9223372036854775807",
            "-9223372036854775808",
            "9223372036854775808",
            "",
            "-",
            "1 ",
            "x",
            "1e3",
        ] {
            assert_eq!(number(text.as_bytes()), text.parse().ok(), "{text:?}");
        }
        assert_eq!(number(&[0xff]), None);
    }

    #[test]
    fn equal_bytes_are_equal_and_others_are_not() {
        let mut texts = Texts::default();
        let seven = texts.held(b"7");
        assert_eq!(seven, Held::Number(7));
        let padded = texts.held(b"07");
        assert_ne!(padded, seven, "get shows the difference");
        assert_eq!(texts.held(b"07"), padded);
        assert_eq!(texts.as_number(padded), Some(7));
        assert_ne!(texts.held(b"a"), texts.held(b"b"));
    }

    /// The table above against the store itself, for every operation on every kind of value.
    #[test]
    fn one_step_is_what_the_store_does() {
        use twostep_engine::key_value::KeyValue;
        use twostep_engine::state_machine::{Context, StateMachine};
        use twostep_engine::types::{ClientId, Decree, Seq, SessionId};
        let context = Context {
            decree: Decree(1),
            client: ClientId([1; 16]),
            session: SessionId::NONE,
            seq: Seq(1),
        };
        let key = b"k".as_slice();
        let values: [Option<&[u8]>; 5] = [
            None,
            Some(b"5"),
            Some(b"05"),
            Some(b"word"),
            Some(b"9223372036854775807"),
        ];
        let operations = [
            Operation::Put { key, value: b"new" },
            Operation::Get { key },
            Operation::Delete { key },
            Operation::Increment {
                key,
                by: 3,
                padding: b"",
            },
            Operation::Increment {
                key,
                by: -3,
                padding: b"..",
            },
            Operation::CompareAndSwap {
                key,
                expected: None,
                value: b"5",
            },
            Operation::CompareAndSwap {
                key,
                expected: Some(b"05"),
                value: b"swapped",
            },
        ];
        for value in values {
            for operation in &operations {
                let mut texts = Texts::default();
                let (mut bytes, mut reply) = (Vec::new(), Vec::new());
                operation.encode(&mut bytes);
                let (_, asked) = texts.asked(&bytes).unwrap();
                let before = value.map_or(Held::Absent, |value| texts.held(value));
                let mut store = KeyValue::new();
                if let Some(value) = value {
                    let mut put = Vec::new();
                    Operation::Put { key, value }.encode(&mut put);
                    store.execute(&context, &put, &mut reply);
                    reply.clear();
                }
                store.execute(&context, &bytes, &mut reply);
                let (after, told) = texts.step(before, asked);
                assert_eq!(told, texts.told(&reply), "{operation:?} on {value:?}");
                let found = store
                    .get(key)
                    .map_or(Held::Absent, |value| texts.held(value));
                assert_eq!(after, found, "{operation:?} on {value:?}");
            }
        }
    }
}
