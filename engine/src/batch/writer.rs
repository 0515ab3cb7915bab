//! The writer of bundles: what a client puts together.

use twostep_crypto::{Context, MacKey, Scope, SigningKey};

use super::{
    BUNDLE_HEADER, BundleClaim, OPENS_MAX, REQUEST_HEADER, Request, RequestKind, TAG_BYTES,
};
use crate::types::{ClientId, Digest, Party};

/// Makes the bytes of a bundle. Reused from bundle to bundle: it keeps its buffer.
#[derive(Debug)]
pub struct BundleWriter {
    client: ClientId,
    count: u16,
    opens: usize,
    bytes: Vec<u8>,
    /// Of the bundle that was finished last.
    digest: Digest,
}

impl BundleWriter {
    /// A writer for one client's requests.
    #[must_use]
    pub fn new(client: ClientId) -> BundleWriter {
        let mut writer = BundleWriter {
            client,
            count: 0,
            opens: 0,
            bytes: Vec::new(),
            digest: Digest::ZERO,
        };
        writer.clear();
        writer
    }

    /// Forgets what was written.
    pub fn clear(&mut self) {
        self.count = 0;
        self.opens = 0;
        self.bytes.clear();
        self.bytes.resize(BUNDLE_HEADER, 0);
        self.bytes.extend_from_slice(&self.client.0);
        self.bytes.extend_from_slice(&[0, 0]);
    }

    /// How many requests were written.
    #[must_use]
    pub fn count(&self) -> usize {
        usize::from(self.count)
    }

    /// How many bytes the bundle has so far, without its authenticator.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bundle, once it is finished.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The digest of the bundle that was finished last.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Whether no request was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a request; false, and nothing is added, if the bundle holds the most it can: 65,535 requests, of which
    /// [`OPENS_MAX`] Opens.
    #[must_use]
    pub fn push(&mut self, request: &Request<'_>) -> bool {
        let (Some(count), Ok(len)) = (
            self.count.checked_add(1),
            u32::try_from(request.operation.len()),
        ) else {
            return false;
        };
        let open = request.kind == RequestKind::Open;
        if open && self.opens == OPENS_MAX {
            return false;
        }
        self.opens += usize::from(open);
        self.count = count;
        self.bytes.push(u8::from(open));
        self.bytes
            .extend_from_slice(&request.session.decree.0.to_le_bytes());
        self.bytes
            .extend_from_slice(&request.session.index.to_le_bytes());
        self.bytes.extend_from_slice(&request.seq.0.to_le_bytes());
        self.bytes.extend_from_slice(&len.to_le_bytes());
        self.bytes.extend_from_slice(request.operation);
        true
    }

    /// Ends the bundle with one tag per key: the keys of the voting nodes in ascending order.
    pub fn finish_mac(&mut self, scope: &Scope, keys: &[MacKey]) -> &[u8] {
        let digest = self.frame(scope, 1, keys.len() * TAG_BYTES);
        for key in keys {
            self.bytes.extend_from_slice(&key.tag(&[&digest.0]).0);
        }
        &self.bytes
    }

    /// Ends the bundle with a signature.
    pub fn finish_signed(&mut self, scope: &Scope, key: &SigningKey) -> &[u8] {
        let digest = self.frame(scope, 2, 64);
        let claim = key.sign(scope, Party::Client(self.client), BundleClaim(digest));
        self.bytes.extend_from_slice(&claim.signed().signature.0);
        &self.bytes
    }

    /// Ends the bundle without an authenticator, for mode C.
    pub fn finish_bare(&mut self, scope: &Scope) -> &[u8] {
        self.frame(scope, 0, 0);
        &self.bytes
    }

    fn frame(&mut self, scope: &Scope, kind: u8, auth_len: usize) -> Digest {
        let content_len =
            u32::try_from(self.bytes.len() - BUNDLE_HEADER).expect("a bundle is far below 4 GiB");
        let auth_len = u16::try_from(auth_len).expect("at most NODES_MAX tags");
        self.bytes[..4].copy_from_slice(&content_len.to_le_bytes());
        self.bytes[4] = kind;
        self.bytes[5..7].copy_from_slice(&auth_len.to_le_bytes());
        let count_at = BUNDLE_HEADER + 16;
        self.bytes[count_at..count_at + 2].copy_from_slice(&self.count.to_le_bytes());
        self.digest = scope.digest(Context::Bundle, &self.bytes[BUNDLE_HEADER..]);
        self.digest
    }
}

/// The bytes that one request with an operation of `len` bytes takes in a bundle.
#[must_use]
pub fn request_bytes(len: usize) -> usize {
    REQUEST_HEADER + len
}
