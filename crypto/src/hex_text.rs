//! Byte strings as lower-case hexadecimal text: one reading and one writing for ids, digests and keys.
//!
//! Reading is strict (exact length, no prefix, no blanks), so that a truncated copy-and-paste is an error that says what was expected.

/// A text was not the hexadecimal form of the thing expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadHex {
    /// The number of characters is wrong.
    #[error("{what}: expected {expected} hexadecimal characters, got {got}")]
    Length {
        /// What was being read, for example "cluster id".
        what: &'static str,
        /// Characters expected.
        expected: usize,
        /// Characters found.
        got: usize,
    },
    /// A character is none of `0-9a-fA-F`.
    #[error("{what}: the character at position {position} is not hexadecimal (0-9, a-f)")]
    Character {
        /// What was being read.
        what: &'static str,
        /// Zero-based place of the first bad character, in bytes.
        position: usize,
    },
}

/// Reads exactly `N` bytes from `2 * N` hexadecimal characters.
pub(crate) fn read<const N: usize>(what: &'static str, text: &str) -> Result<[u8; N], BadHex> {
    let mut bytes = [0; N];
    match hex::decode_to_slice(text, &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(hex::FromHexError::InvalidHexCharacter { index, .. }) => Err(BadHex::Character {
            what,
            position: index,
        }),
        Err(hex::FromHexError::OddLength | hex::FromHexError::InvalidStringLength) => {
            Err(BadHex::Length {
                what,
                expected: 2 * N,
                got: text.chars().count(),
            })
        }
    }
}

/// Writes the first four bytes and an ellipsis: enough to tell things apart in a log line.
pub(crate) fn write_short(f: &mut std::fmt::Formatter<'_>, bytes: &[u8]) -> std::fmt::Result {
    for byte in &bytes[..bytes.len().min(4)] {
        write!(f, "{byte:02x}")?;
    }
    f.write_str("…")
}

/// Writes all bytes.
pub(crate) fn write_full(f: &mut std::fmt::Formatter<'_>, bytes: &[u8]) -> std::fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Gives a type that reads and writes as text (`FromStr`, `Display`) the same form in configuration files and JSON.
macro_rules! serde_as_text {
    ($name:ty) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// Gives a `pub [u8; N]` newtype its text forms: full in `Display`, short in `Debug`, strict in `FromStr`, text in serde.
macro_rules! hex_newtype {
    ($name:ident, $what:literal) => {
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                crate::hex_text::write_full(f, &self.0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($name), "("))?;
                crate::hex_text::write_short(f, &self.0)?;
                f.write_str(")")
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::hex_text::BadHex;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                crate::hex_text::read($what, text).map(Self)
            }
        }

        crate::hex_text::serde_as_text!($name);
    };
}

pub(crate) use hex_newtype;
pub(crate) use serde_as_text;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_says_what_is_wrong() {
        assert_eq!(read::<2>("thing", "0aF1"), Ok([0x0a, 0xf1]));
        for (text, got) in [("0af", 3), ("0af100", 6), ("", 0)] {
            assert_eq!(
                read::<2>("thing", text),
                Err(BadHex::Length {
                    what: "thing",
                    expected: 4,
                    got
                })
            );
        }
        let error = read::<2>("thing", "0ag1").unwrap_err();
        assert_eq!(
            error.to_string(),
            "thing: the character at position 2 is not hexadecimal (0-9, a-f)"
        );
    }
}
