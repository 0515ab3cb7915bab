//! Message authentication: keyed BLAKE3 cut to 16 bytes, compared in constant time.
//!
//! Used for the tag of every packet of a link and for the authenticators beside bundles (PROTOCOL.md section 5.2).
//! 128 bits suffice, since guesses can only be tried online, one packet each. About 0.1 µs for a short message.

use zeroize::{Zeroize, ZeroizeOnDrop};

/// A secret key of 32 bytes; wiped from memory when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MacKey([u8; 32]);

/// A tag of 16 bytes. Its `==` takes the same time wherever the bytes differ, so that no caller can compare it wrongly.
#[derive(Clone, Copy)]
pub struct Tag(pub [u8; 16]);

/// A tag that does not belong to the bytes: forged, damaged, or made with another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the tag does not match: the bytes are forged or damaged, or the two ends hold different keys"
)]
pub struct BadTag;

impl MacKey {
    /// Takes 32 secret bytes, evenly distributed, used for nothing else.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> MacKey {
        MacKey(bytes)
    }

    /// The tag over all parts joined. Lengths are not covered: at most one part may vary in length, the others are of fixed size or carry their length.
    #[must_use]
    pub fn tag(&self, parts: &[&[u8]]) -> Tag {
        if let [only] = parts {
            // One part avoids the state of a streaming hasher: half the time for short messages.
            return cut(&blake3::keyed_hash(&self.0, only));
        }
        let mut hasher = self.hasher();
        for part in parts {
            hasher.update(part);
        }
        hasher.finish()
    }

    /// For parts that are not all at hand at once.
    #[must_use]
    pub fn hasher(&self) -> MacHasher {
        MacHasher(blake3::Hasher::new_keyed(&self.0))
    }

    /// Checks `tag` against the parts joined, in time that does not depend on where they differ.
    ///
    /// # Errors
    /// [`BadTag`] if it was not made with this key over these bytes.
    pub fn verify(&self, parts: &[&[u8]], tag: &Tag) -> Result<(), BadTag> {
        if self.tag(parts) == *tag {
            Ok(())
        } else {
            Err(BadTag)
        }
    }
}

/// Makes the tag of what it is given part by part. Lengths are not covered, as in [`MacKey::tag`].
pub struct MacHasher(blake3::Hasher);

impl MacHasher {
    /// Adds `part` to what the tag covers.
    pub fn update(&mut self, part: &[u8]) -> &mut MacHasher {
        self.0.update(part);
        self
    }

    /// The tag of all parts joined.
    #[must_use]
    pub fn finish(&self) -> Tag {
        cut(&self.0.finalize())
    }
}

impl std::fmt::Debug for MacHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MacHasher(secret)")
    }
}

fn cut(hash: &blake3::Hash) -> Tag {
    let mut tag = [0; 16];
    tag.copy_from_slice(&hash.as_bytes()[..16]);
    Tag(tag)
}

impl std::fmt::Debug for MacKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MacKey(secret)")
    }
}

impl PartialEq for Tag {
    fn eq(&self, other: &Tag) -> bool {
        constant_time_eq::constant_time_eq_16(&self.0, &other.0)
    }
}

impl Eq for Tag {}

impl std::fmt::Debug for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tag(")?;
        crate::hex_text::write_short(f, &self.0)?;
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key and the first 16 bytes of `keyed_hash` from BLAKE3's own test vectors, inputs of 0, 1, 2, … 250, 0, 1, ….
    const VECTOR_KEY: &[u8; 32] = b"whats the Elvish word for friend";
    const VECTORS: [(usize, &str); 3] = [
        (0, "92b2b75604ed3c761f9d6f62392c8a92"),
        (1, "6d7878dfff2f485635d39013278ae14f"),
        (1024, "75c46f6f3d9eb4f55ecaaee480db732e"),
    ];

    #[test]
    fn agrees_with_the_vectors_of_blake3() {
        let key = MacKey::from_bytes(*VECTOR_KEY);
        for (length, expected) in VECTORS {
            let input: Vec<u8> = (0..=250).cycle().take(length).collect();
            let (head, tail) = input.split_at(length / 2);
            assert_eq!(hex::encode(key.tag(&[&input]).0), expected);
            assert_eq!(hex::encode(key.tag(&[head, tail]).0), expected);
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let key = MacKey::from_bytes([5; 32]);
        let message = *b"counter and messages";
        let tag = key.tag(&[&message]);
        assert_eq!(key.verify(&[&message], &tag), Ok(()));
        for bit in 0..128 {
            let mut bad = tag;
            bad.0[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.verify(&[&message], &bad), Err(BadTag), "tag bit {bit}");
        }
        for bit in 0..message.len() * 8 {
            let mut bad = message;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.verify(&[&bad], &tag), Err(BadTag), "message bit {bit}");
        }
        for bit in 0..256 {
            let mut bad = [5; 32];
            bad[bit / 8] ^= 1 << (bit % 8);
            let other = MacKey::from_bytes(bad);
            assert_eq!(
                other.verify(&[&message], &tag),
                Err(BadTag),
                "key bit {bit}"
            );
        }
    }

    #[test]
    fn secrets_stay_out_of_logs() {
        assert_eq!(
            format!("{:?}", MacKey::from_bytes([0xab; 32])),
            "MacKey(secret)"
        );
    }
}
