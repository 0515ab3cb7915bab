//! Signatures: Ed25519 over a scoped digest, and the type that proves a signature was checked.
//!
//! What is signed is `digest(key(context), signer ‖ content)` of 32 bytes: version, cluster, epoch and kind sit in the key
//! ([`Scope`]), the sender in front (PROTOCOL.md section 3). Cost: sign 25 µs, verify 50 µs, in batches about 30 µs each.
//!
//! # Which signatures are valid
//!
//! Whether a report is valid must be a function of its bytes alone (PROTOCOL.md section 3): a signature that one node accepts and another
//! refuses would let one faulty acceptor spoil the voucher of a correct leader. RFC 8032 leaves room for such signatures: a signer may add a point
//! of small order to `R` or to its key. A strict check refuses these, while a batch accepts them now and then, depending on its other members.
//! So neither the strict check nor the bare batch decides here. The rule is the equation with the cofactor, for one and for many (as in ZIP 215):
//!
//! ```text
//! valid  ⟺  s < L  ∧  R decodes  ∧  8·(s·B − k·A − R) = 0,     k = SHA-512(R ‖ A ‖ digest)
//! ```
//!
//! A batch that passes implies the equation for each member (but for a chance of 2^-128), and a batch that fails is taken apart with the equation itself:
//! batching changes the cost, never the answer. Keys of small order, for which one signature fits every message, and second encodings of a key are refused
//! when a [`VerifyingKey`] is made. Only a signer can vary its own signatures; nothing here takes signature bytes for an identity.

use std::fmt;
use std::str::FromStr;

use curve25519_dalek::edwards::{CompressedEdwardsY, EdwardsPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::IsIdentity;
use ed25519_dalek::Signer;
use sha2::{Digest as _, Sha512};

use crate::digest::{Context, Digest};
use crate::hex_text::{self, BadHex, hex_newtype, serde_as_text};
use crate::ids::Party;
use crate::memo;
use crate::scope::Scope;

/// Content that is signed.
pub trait Signable {
    /// What the signature is about; no two kinds of content share one.
    const CONTEXT: Context;

    /// Appends the bytes to sign. They must determine the content: different contents, different bytes.
    fn write_signable(&self, out: &mut Vec<u8>);
}

/// Content with a claimed signer and a signature that nobody has checked yet. Anybody may build one; it comes off the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed<T> {
    /// Who is said to have signed.
    pub signer: Party,
    /// What is said to be signed.
    pub content: T,
    /// The signature.
    pub signature: Signature,
}

/// Content whose signature is good. Only a check, or signing with one's own key, makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T>(Signed<T>);

/// The signature does not belong to the content, the signer, the key, or the scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bad signature of {signer} on a {}", context.name())]
pub struct BadSignature {
    /// The signer that was claimed, not proven.
    pub signer: Party,
    /// What was to be checked.
    pub context: Context,
}

/// An Ed25519 signature of 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature(pub [u8; 64]);

/// A private Ed25519 key; wiped from memory when dropped.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

/// A public Ed25519 key, checked to be usable. As bytes and as text (64 hexadecimal characters) it has exactly one form.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct VerifyingKey(ed25519_dalek::VerifyingKey);

/// Bytes or text that are no public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// The text is not hexadecimal of the right length.
    #[error(transparent)]
    Hex(#[from] BadHex),
    /// The bytes are not the canonical encoding of a point of the curve.
    #[error(
        "public signing key: these bytes are no Ed25519 key; copy the key again from its owner"
    )]
    NotAKey,
    /// The key has small order: anybody could forge its signatures.
    #[error(
        "public signing key: a key of small order is refused, since anybody can forge its signatures; its owner must make a new identity"
    )]
    Weak,
}

impl<T: Signable> Signed<T> {
    /// Checks the signature and keeps the proof in the type.
    ///
    /// # Errors
    /// [`BadSignature`] if `key` did not sign this content as this signer in this scope.
    pub fn verify(self, scope: &Scope, key: &VerifyingKey) -> Result<Verified<T>, BadSignature> {
        self.check(scope, key)?;
        Ok(Verified(self))
    }

    /// Checks the signature without taking the content.
    ///
    /// # Errors
    /// [`BadSignature`] as for [`verify`](Signed::verify).
    pub fn check(&self, scope: &Scope, key: &VerifyingKey) -> Result<(), BadSignature> {
        self.check_digest(&signed_digest(scope, self.signer, &self.content), key)
    }

    fn check_digest(&self, digest: &Digest, key: &VerifyingKey) -> Result<(), BadSignature> {
        let valid = || equation_holds(key, &digest.0, &self.signature).unwrap_or(false);
        if memo::known_or([key.as_bytes(), &digest.0, &self.signature.0], valid) {
            Ok(())
        } else {
            Err(BadSignature {
                signer: self.signer,
                context: T::CONTEXT,
            })
        }
    }
}

impl<T> Verified<T> {
    /// Who signed.
    pub fn signer(&self) -> Party {
        self.0.signer
    }

    /// What was signed.
    pub fn content(&self) -> &T {
        &self.0.content
    }

    /// The form that travels.
    pub fn signed(&self) -> &Signed<T> {
        &self.0
    }

    /// The form that travels, giving up the proof.
    pub fn into_signed(self) -> Signed<T> {
        self.0
    }
}

impl SigningKey {
    /// The key of a seed of 32 secret bytes, the private key of RFC 8032.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> SigningKey {
        SigningKey(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// Signs `content` as `me`. Deterministic: the same content gives the same signature.
    pub fn sign<T: Signable>(&self, scope: &Scope, me: Party, content: T) -> Verified<T> {
        let digest = signed_digest(scope, me, &content);
        Verified(Signed {
            signer: me,
            content,
            signature: Signature(self.0.sign(&digest.0).to_bytes()),
        })
    }

    /// The public half.
    #[must_use]
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey(self.0.verifying_key())
    }
}

impl VerifyingKey {
    /// Takes the 32 bytes of a public key.
    ///
    /// # Errors
    /// [`BadKey::NotAKey`] or [`BadKey::Weak`]; see the page of this module for why.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<VerifyingKey, BadKey> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| BadKey::NotAKey)?;
        if key.to_edwards().compress().as_bytes() != bytes {
            return Err(BadKey::NotAKey);
        }
        if key.is_weak() {
            return Err(BadKey::Weak);
        }
        Ok(VerifyingKey(key))
    }

    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

/// Checks many signatures for less than one by one; the answers are the same, in the order of `items`.
///
/// Works in groups of up to 64, so that a bad signature costs single checks in its own group only. The caller bounds the number of items.
pub fn verify_batch<T: Signable>(
    scope: &Scope,
    items: Vec<(Signed<T>, VerifyingKey)>,
) -> Vec<Result<Verified<T>, BadSignature>> {
    let mut answers = Vec::with_capacity(items.len());
    let mut rest = items.into_iter();
    loop {
        let group: Vec<_> = rest.by_ref().take(GROUP_MAX).collect();
        if group.is_empty() {
            return answers;
        }
        let digests: Vec<Digest> = group
            .iter()
            .map(|(item, _)| signed_digest(scope, item.signer, &item.content))
            .collect();
        let all_good = group_passes(&group, &digests);
        answers.extend(group.into_iter().zip(digests).map(|((item, key), digest)| {
            if !all_good {
                item.check_digest(&digest, &key)?;
            }
            Ok(Verified(item))
        }));
    }
}

/// Signatures per group of a batch: enough to share the doublings, few enough that one bad signature is cheap.
const GROUP_MAX: usize = 64;

fn group_passes<T>(group: &[(Signed<T>, VerifyingKey)], digests: &[Digest]) -> bool {
    if group.len() < 2 || memo::is_on() {
        return false; // The equation itself is cheaper for one, and most of what is remembered costs nothing.
    }
    let messages: Vec<&[u8]> = digests.iter().map(|digest| digest.0.as_slice()).collect();
    let signatures: Vec<_> = group
        .iter()
        .map(|(item, _)| ed25519_dalek::Signature::from_bytes(&item.signature.0))
        .collect();
    let keys: Vec<_> = group.iter().map(|(_, key)| key.0).collect();
    ed25519_dalek::verify_batch(&messages, &signatures, &keys).is_ok()
}

fn signed_digest<T: Signable>(scope: &Scope, signer: Party, content: &T) -> Digest {
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(&signer.encode());
    content.write_signable(&mut bytes);
    scope.digest(T::CONTEXT, &bytes)
}

/// The rule of this module; `None` if the signature does not even decode. All of it is public, so its time may depend on it.
fn equation_holds(key: &VerifyingKey, message: &[u8], signature: &Signature) -> Option<bool> {
    let (r_bytes, s_bytes) = signature.0.split_first_chunk::<32>()?;
    let s: Scalar = Option::from(Scalar::from_canonical_bytes(s_bytes.try_into().ok()?))?;
    let r = CompressedEdwardsY(*r_bytes).decompress()?;
    let hash = Sha512::new()
        .chain_update(r_bytes)
        .chain_update(key.as_bytes())
        .chain_update(message)
        .finalize();
    let k = Scalar::from_bytes_mod_order_wide(hash.as_ref());
    let minus_a = -key.0.to_edwards();
    let expected_r = EdwardsPoint::vartime_double_scalar_mul_basepoint(&k, &minus_a, &s);
    Some((expected_r - r).mul_by_cofactor().is_identity())
}

hex_newtype!(Signature, "signature");
serde_as_text!(VerifyingKey);

impl FromStr for VerifyingKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<VerifyingKey, BadKey> {
        VerifyingKey::from_bytes(&hex_text::read("public signing key", text)?)
    }
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex_text::write_full(f, self.as_bytes())
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VerifyingKey(")?;
        hex_text::write_short(f, self.as_bytes())?;
        f.write_str(")")
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(secret)")
    }
}

#[cfg(test)]
#[path = "sign_tests.rs"]
mod tests;
