//! Operations and replies of the key-value store as bytes. Little endian; `…` runs to the end.
//!
//! ```text
//! operation   tag u8 | key_len u16 | key | rest
//!   1 put                value …
//!   2 get
//!   3 delete
//!   4 increment          by i64 | padding …
//!   5 compare and swap   0 u8 | value …                                    expects no value
//!                        1 u8 | expected_len u32 | expected | value …
//! reply       tag u8 | rest
//!   0 done    1 absent    2 value …    3 number i64    4 mismatch, absent    5 mismatch, value …    6 error u8
//! ```

use thiserror::Error;

/// The longest key. Bytes.
pub const KEY_BYTES_MAX: usize = 1024;

/// What the store is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Set a value.
    Put {
        /// Of which key.
        key: &'a [u8],
        /// To what.
        value: &'a [u8],
    },
    /// Read a value, in the order of all operations.
    Get {
        /// Of which key.
        key: &'a [u8],
    },
    /// Remove a value.
    Delete {
        /// Of which key.
        key: &'a [u8],
    },
    /// Add to a number.
    Increment {
        /// Of which key.
        key: &'a [u8],
        /// How much, possibly negative.
        by: i64,
        /// Ordered with the operation and not looked at: for load of a chosen size.
        padding: &'a [u8],
    },
    /// Set a value if the present one is as expected.
    CompareAndSwap {
        /// Of which key.
        key: &'a [u8],
        /// What should stand there; none if nothing should.
        expected: Option<&'a [u8]>,
        /// What to put there then.
        value: &'a [u8],
    },
}

/// What became of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyValueReply<'a> {
    /// It was done.
    Done,
    /// The key has no value.
    Absent,
    /// The value of the key.
    Value(&'a [u8]),
    /// The number after an increment.
    Number(i64),
    /// Another value than expected stands there; this one.
    Mismatch(Option<&'a [u8]>),
    /// It cannot be done, and nothing was changed.
    Error(KeyValueError),
}

/// Why an operation cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyValueError {
    /// The bytes are no operation.
    #[error("the bytes are no operation of the key-value store")]
    Malformed,
    /// The key is empty or too long.
    #[error("a key must have 1 to {KEY_BYTES_MAX} bytes")]
    KeyLength,
    /// An increment of something else than a number.
    #[error("the value is not a decimal number of 64 bits")]
    NotANumber,
    /// An increment beyond 64 bits.
    #[error("the sum does not fit 64 bits")]
    Overflow,
    /// A query that would change the state.
    #[error("only get can be asked without being ordered")]
    NotAQuestion,
}

/// The bytes are no reply of the key-value store: the replicas run another state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the bytes are no reply of the key-value store")]
pub struct BadReply;

impl<'a> Operation<'a> {
    /// Appends the bytes of the operation. A key that is too long gives bytes that every replica refuses.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (tag, key) = match *self {
            Operation::Put { key, .. } => (1, key),
            Operation::Get { key } => (2, key),
            Operation::Delete { key } => (3, key),
            Operation::Increment { key, .. } => (4, key),
            Operation::CompareAndSwap { key, .. } => (5, key),
        };
        out.push(tag);
        out.extend_from_slice(&u16::try_from(key.len()).unwrap_or(u16::MAX).to_le_bytes());
        out.extend_from_slice(key);
        match *self {
            Operation::Get { .. } | Operation::Delete { .. } => {}
            Operation::Put { value, .. } => out.extend_from_slice(value),
            Operation::Increment { by, padding, .. } => {
                out.extend_from_slice(&by.to_le_bytes());
                out.extend_from_slice(padding);
            }
            Operation::CompareAndSwap {
                expected, value, ..
            } => {
                out.push(u8::from(expected.is_some()));
                if let Some(expected) = expected {
                    // Longer than 4 GiB is far beyond any request and is refused as one.
                    out.extend_from_slice(
                        &u32::try_from(expected.len())
                            .unwrap_or(u32::MAX)
                            .to_le_bytes(),
                    );
                    out.extend_from_slice(expected);
                }
                out.extend_from_slice(value);
            }
        }
    }

    /// Reads an operation.
    ///
    /// # Errors
    /// [`KeyValueError::Malformed`] or [`KeyValueError::KeyLength`].
    pub fn decode(bytes: &'a [u8]) -> Result<Operation<'a>, KeyValueError> {
        let ([tag], rest) = take::<1>(bytes)?;
        let (len, rest) = take::<2>(rest)?;
        let len = usize::from(u16::from_le_bytes(len));
        if len == 0 || len > KEY_BYTES_MAX {
            return Err(KeyValueError::KeyLength);
        }
        let (key, rest) = rest.split_at_checked(len).ok_or(KeyValueError::Malformed)?;
        match tag {
            1 => Ok(Operation::Put { key, value: rest }),
            2 if rest.is_empty() => Ok(Operation::Get { key }),
            3 if rest.is_empty() => Ok(Operation::Delete { key }),
            4 => {
                let (by, padding) = take::<8>(rest)?;
                Ok(Operation::Increment {
                    key,
                    by: i64::from_le_bytes(by),
                    padding,
                })
            }
            5 => {
                let ([some], rest) = take::<1>(rest)?;
                let (expected, value) = match some {
                    0 => (None, rest),
                    1 => {
                        let (len, rest) = take::<4>(rest)?;
                        let len = u32::from_le_bytes(len) as usize;
                        let (expected, value) =
                            rest.split_at_checked(len).ok_or(KeyValueError::Malformed)?;
                        (Some(expected), value)
                    }
                    _ => return Err(KeyValueError::Malformed),
                };
                Ok(Operation::CompareAndSwap {
                    key,
                    expected,
                    value,
                })
            }
            _ => Err(KeyValueError::Malformed),
        }
    }
}

impl<'a> KeyValueReply<'a> {
    /// Appends the bytes of the reply.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            KeyValueReply::Done => out.push(0),
            KeyValueReply::Absent => out.push(1),
            KeyValueReply::Value(value) => {
                out.push(2);
                out.extend_from_slice(value);
            }
            KeyValueReply::Number(number) => {
                out.push(3);
                out.extend_from_slice(&number.to_le_bytes());
            }
            KeyValueReply::Mismatch(None) => out.push(4),
            KeyValueReply::Mismatch(Some(value)) => {
                out.push(5);
                out.extend_from_slice(value);
            }
            KeyValueReply::Error(error) => out.extend_from_slice(&[6, error.code()]),
        }
    }

    /// Reads a reply.
    ///
    /// # Errors
    /// [`BadReply`], if the bytes are none.
    pub fn decode(bytes: &'a [u8]) -> Result<KeyValueReply<'a>, BadReply> {
        let (tag, rest) = bytes.split_first().ok_or(BadReply)?;
        match (tag, rest) {
            (0, []) => Ok(KeyValueReply::Done),
            (1, []) => Ok(KeyValueReply::Absent),
            (2, value) => Ok(KeyValueReply::Value(value)),
            (3, number) => {
                let number = number.try_into().map_err(|_| BadReply)?;
                Ok(KeyValueReply::Number(i64::from_le_bytes(number)))
            }
            (4, []) => Ok(KeyValueReply::Mismatch(None)),
            (5, value) => Ok(KeyValueReply::Mismatch(Some(value))),
            (6, [code]) => KeyValueError::of(*code)
                .map(KeyValueReply::Error)
                .ok_or(BadReply),
            _ => Err(BadReply),
        }
    }
}

impl KeyValueError {
    const ALL: [KeyValueError; 5] = [
        KeyValueError::Malformed,
        KeyValueError::KeyLength,
        KeyValueError::NotANumber,
        KeyValueError::Overflow,
        KeyValueError::NotAQuestion,
    ];

    fn code(self) -> u8 {
        self as u8
    }

    fn of(code: u8) -> Option<KeyValueError> {
        KeyValueError::ALL
            .into_iter()
            .find(|error| error.code() == code)
    }
}

fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), KeyValueError> {
    let (taken, rest) = bytes.split_first_chunk().ok_or(KeyValueError::Malformed)?;
    Ok((*taken, rest))
}
