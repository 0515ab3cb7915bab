//! Whether an operation is the one that was executed before.

use xxhash_rust::xxh3::xxh3_128;

/// The fingerprint of an operation: XXH3, 128 bits. The same bytes have the same fingerprint at every learner.
///
/// It need not resist who looks for collisions, so it is not a cryptographic digest, which costs ten times as much and
/// would be the largest part of executing a short operation. Only the owner of a session can put requests into it: an
/// owner who finds two operations with one fingerprint and uses one seq for both gets the reply of the first for the
/// second, at all learners alike, which is what a retry of the first would have given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// Of a place without an operation.
    pub(super) const NONE: Fingerprint = Fingerprint([0; 16]);

    /// Of these bytes.
    #[must_use]
    pub fn of(operation: &[u8]) -> Fingerprint {
        Fingerprint(xxh3_128(operation).to_le_bytes())
    }

    /// As an image of the table carries it.
    pub(super) fn from_bytes(bytes: [u8; 16]) -> Fingerprint {
        Fingerprint(bytes)
    }

    /// As it is hashed into the state's digest.
    pub(super) fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_those_of_xxh3() {
        // From the reference implementation: part of the replicated state, so it must never change.
        let empty = 0x99aa_06d3_0147_98d8_6001_c324_468d_497f_u128;
        assert_eq!(Fingerprint::of(b"").0, empty.to_le_bytes());
        assert_ne!(Fingerprint::of(b"a"), Fingerprint::of(b"b"));
    }
}
