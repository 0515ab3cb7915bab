//! What a client remembers of the bundles that it sent with tags: their digests, so that it can sign them later.
//!
//! A node that asks for a signature gets one only for a bundle that this client made: a digest that is not
//! among the last [`KEPT_MAX`] is never signed, whoever asks (PROTOCOL.md section 5.1). A bundle's signature covers
//! nothing but its digest, so its contents need not be kept. Each digest is signed once, then said again.

use std::collections::VecDeque;

use twostep_crypto::Signature;

use crate::types::Digest;

/// So many bundles are remembered; older ones are long ordered, or sent again in a signed one.
pub(super) const KEPT_MAX: usize = 1024;

/// The last tagged bundles, the newest last.
#[derive(Debug)]
pub(super) struct Tagged(VecDeque<(Digest, Option<Signature>)>);

impl Tagged {
    /// Nothing was sent. All memory that it will ever need is taken here.
    pub(super) fn new() -> Tagged {
        Tagged(VecDeque::with_capacity(KEPT_MAX))
    }

    /// A bundle was sent with tags.
    pub(super) fn sent(&mut self, bundle: Digest) {
        if self.0.len() == KEPT_MAX {
            self.0.pop_front();
        }
        self.0.push_back((bundle, None));
    }

    /// The signature of a bundle that was sent; `sign` makes it the first time.
    pub(super) fn signature(
        &mut self,
        bundle: Digest,
        sign: impl FnOnce() -> Signature,
    ) -> Option<Signature> {
        let (_, signature) = self.0.iter_mut().rev().find(|(sent, _)| *sent == bundle)?;
        Some(*signature.get_or_insert_with(sign))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sent_lately_is_signed_and_only_once() {
        let digest = |number: usize| {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            Digest(bytes)
        };
        let mut tagged = Tagged::new();
        for number in 0..=KEPT_MAX {
            tagged.sent(digest(number));
        }
        let never = || -> Signature { panic!("nothing to sign") };
        assert_eq!(tagged.signature(digest(0), never), None, "forgotten");
        assert_eq!(tagged.signature(digest(KEPT_MAX + 1), never), None);
        let signature = Signature([1; 64]);
        assert_eq!(tagged.signature(digest(7), || signature), Some(signature));
        assert_eq!(tagged.signature(digest(7), never), Some(signature));
    }
}
