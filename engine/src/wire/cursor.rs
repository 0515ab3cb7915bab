//! The reader of bounded bytes that every layout in [`super`] is read with.

use twostep_crypto::Signature;

use crate::message::WireError;
use crate::types::{ClientId, Digest, NodeId};

/// What is left to read. `what` names the part that is being read, for the error.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// How many bytes are left.
    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    pub(super) fn bytes(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(WireError::Truncated(what))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], WireError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(WireError::Truncated(what))?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, WireError> {
        self.array(what).map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self, what: &'static str) -> Result<u16, WireError> {
        self.array(what).map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, WireError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, WireError> {
        self.array(what).map(u64::from_le_bytes)
    }

    pub(super) fn digest(&mut self, what: &'static str) -> Result<Digest, WireError> {
        self.array(what).map(Digest)
    }

    pub(super) fn signature(&mut self, what: &'static str) -> Result<Signature, WireError> {
        self.array(what).map(Signature)
    }

    pub(super) fn client(&mut self, what: &'static str) -> Result<ClientId, WireError> {
        self.array(what).map(ClientId)
    }

    pub(super) fn node(&mut self, what: &'static str) -> Result<NodeId, WireError> {
        self.u16(what).map(NodeId)
    }

    /// A number in groups of seven bits, the lowest first; all but the last have their top bit set. The last group of
    /// several is not 0 and nothing lies beyond 64 bits, so that every number has one encoding.
    #[inline]
    pub(super) fn varint(&mut self, what: &'static str) -> Result<u64, WireError> {
        let (mut number, mut shift) = (0, 0);
        loop {
            let byte = self.u8(what)?;
            let group = u64::from(byte & 0x7f);
            let lost = shift > 57 && group >> (64 - shift) != 0;
            if lost || (byte == 0 && shift > 0) {
                return Err(WireError::Case {
                    what: "last group of a number",
                    found: byte,
                });
            }
            number |= group << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
            shift += 7;
            if shift > 63 {
                return Err(WireError::Case {
                    what: "last group of a number",
                    found: byte,
                });
            }
        }
    }

    /// A byte that is 0 or 1 and nothing else, so that every message has one encoding.
    pub(super) fn flag(&mut self, what: &'static str) -> Result<bool, WireError> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(WireError::Case {
                what: "flag (0 or 1)",
                found,
            }),
        }
    }

    /// A count of at most `limit`.
    pub(super) fn count_u16(
        &mut self,
        what: &'static str,
        limit: usize,
    ) -> Result<usize, WireError> {
        let count = usize::from(self.u16(what)?);
        if count > limit {
            return Err(WireError::Limit {
                what,
                found: count as u64,
                limit: limit as u64,
            });
        }
        Ok(count)
    }

    /// A count of at most `limit`.
    pub(super) fn count_u32(&mut self, what: &'static str, limit: u64) -> Result<u32, WireError> {
        let count = self.u32(what)?;
        if u64::from(count) > limit {
            return Err(WireError::Limit {
                what,
                found: u64::from(count),
                limit,
            });
        }
        Ok(count)
    }

    /// A length of at most `limit` and so many bytes.
    pub(super) fn sized(
        &mut self,
        what: &'static str,
        limit: usize,
    ) -> Result<&'a [u8], WireError> {
        let len = self.count_u32(what, limit as u64)?;
        self.bytes(len as usize, what)
    }

    /// Refuses bytes that are left.
    pub(super) fn end(&self) -> Result<(), WireError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(WireError::Trailing(self.rest.len()))
        }
    }
}

/// The most bytes of a number in groups of seven bits.
pub(super) const VARINT_BYTES_MAX: usize = 10;

/// Appends a number in groups of seven bits; see [`Reader::varint`].
#[inline]
pub(super) fn write_varint(mut number: u64, out: &mut Vec<u8>) {
    let lowest = |number: u64| number.to_le_bytes()[0];
    while number >= 0x80 {
        out.push(lowest(number) | 0x80);
        number >>= 7;
    }
    out.push(lowest(number));
}

/// A length as it travels.
pub(super) fn length(len: usize) -> u32 {
    u32::try_from(len).expect("whatever is sent is far below 4 GiB")
}

/// A count of nodes as it travels.
pub(super) fn count(len: usize) -> u16 {
    u16::try_from(len).expect("node ids have 16 bits, and nobody is counted twice")
}
