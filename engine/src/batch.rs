//! What is ordered: requests, in bundles, in batches.
//!
//! ```text
//! body      count u32 | bundle …                                       one decree's batch, as it travels and is kept
//! bundle    content_len u32 | kind u8 | auth_len u16 | content | authenticator
//! content   client [16] | count u16 | request …                        what the bundle's digest covers
//! request   kind u8 | session decree u64 | session index u32 | seq u64 | len u32 | operation
//! ```
//!
//! A *bundle* is what one client connection flushed together: one digest and one authenticator for all of its
//! requests, carried unchanged from the client into the body, so that nobody hashes or tags request by request
//! (PROTOCOL.md section 1, DESIGN section 3). The *value* that acceptors vote for is the digest of the bundle
//! digests in order; authenticators travel beside them and are in neither digest, so the signed form of a
//! bundle can take the place of the tagged one without changing the value (section 5.1). The value has no header: a
//! body is nothing but its bundles, their number follows from the length of what is hashed, since all digests
//! have one length, and the decree and regency belong to the vote, so that a later regency can propose the same value.
//!
//! Parsing checks everything once: a [`Bundle`] or [`Batch`] that exists is well-formed and within the limits.

mod writer;

use std::borrow::Borrow;
use std::collections::VecDeque;
use std::ops::Range;

use thiserror::Error;
use twostep_crypto::{Context, Scope, Signable, Signature};
use twostep_net::pool::{Body, Pool};

pub use writer::{BundleWriter, request_bytes};

use crate::configuration::Limits;
use crate::types::{ClientId, Decree, Digest, Seq, SessionId, Value};

/// The length of one tag of an authenticator.
pub const TAG_BYTES: usize = 16;

/// The most Opens of one bundle. Each of them makes every learner keep a session.
pub const OPENS_MAX: usize = 64;

const BUNDLE_HEADER: usize = 4 + 1 + 2;
const CONTENT_HEADER: usize = 16 + 2;
const REQUEST_HEADER: usize = 1 + 8 + 4 + 8 + 4;
const BODY_HEADER: usize = 4;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// Apply the operation to the state machine.
    Operation,
    /// Open a session; `seq` is a nonce that the client never uses twice. Always signed.
    Open,
}

/// One request of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// What it asks for.
    pub kind: RequestKind,
    /// In which session; [`SessionId::NONE`] in an Open.
    pub session: SessionId,
    /// Its number in the session.
    pub seq: Seq,
    /// The state machine's business.
    pub operation: &'a [u8],
}

/// How a bundle proves whose it is (PROTOCOL.md section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authenticator<'a> {
    /// Not at all: mode C, where links authenticate.
    None,
    /// One tag of the bundle's digest for each node that accepts or proposes, in ascending order of node ids.
    Mac(&'a [u8]),
    /// An Ed25519 signature of the bundle's digest.
    Signature(Signature),
}

impl Authenticator<'_> {
    /// The tag for the voting node at `place`.
    #[must_use]
    pub fn tag(&self, place: usize) -> Option<[u8; TAG_BYTES]> {
        match self {
            Authenticator::Mac(tags) => tags.chunks_exact(TAG_BYTES).nth(place).map(|tag| {
                let mut bytes = [0; TAG_BYTES];
                bytes.copy_from_slice(tag);
                bytes
            }),
            Authenticator::None | Authenticator::Signature(_) => None,
        }
    }
}

/// What a client signs for a bundle: its digest.
pub struct BundleClaim(pub Digest);

impl Signable for BundleClaim {
    const CONTEXT: Context = Context::Request;
    fn write_signable(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.0);
    }
}

/// Why bytes are no bundle or batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// The bytes end inside of something.
    #[error("the bytes end in the middle of a {0}")]
    Truncated(&'static str),
    /// Bytes stand behind the last thing.
    #[error("{0} bytes stand behind the last request or bundle")]
    Trailing(usize),
    /// A number that names no kind.
    #[error("{found} is no kind of {what}")]
    Kind {
        /// Of what.
        what: &'static str,
        /// The byte that was found.
        found: u8,
    },
    /// Something above its limit.
    #[error("{what} of {found} is above the limit of {limit}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How large it is.
        found: usize,
        /// How large it may be.
        limit: usize,
    },
    /// A bundle without requests.
    #[error("a bundle holds no request")]
    Empty,
    /// An Open among tagged requests, or one that names a session.
    #[error("an Open must be signed, name no session and carry no operation")]
    Open,
}

/// A parsed bundle that borrows the bytes it stands in.
#[derive(Clone, Copy, Debug)]
pub struct BundleView<'a> {
    /// Whose requests these are, it says; the authenticator proves it.
    pub client: ClientId,
    /// The proof.
    pub authenticator: Authenticator<'a>,
    /// How many requests there are; at least 1.
    pub count: usize,
    content: &'a [u8],
    encoded: &'a [u8],
}

impl<'a> BundleView<'a> {
    /// The digest that the authenticator covers and the value is made of.
    #[must_use]
    pub fn digest(&self, scope: &Scope) -> Digest {
        scope.digest(Context::Bundle, self.content)
    }

    /// The requests in order.
    pub fn requests(&self) -> impl Iterator<Item = Request<'a>> + use<'a> {
        let mut rest = Reader {
            rest: &self.content[CONTENT_HEADER..],
        };
        (0..self.count).map_while(move |_| rest.request().ok())
    }

    /// The whole bundle as it travels.
    #[must_use]
    pub fn encoded(&self) -> &'a [u8] {
        self.encoded
    }

    /// Reads one bundle from the front of `reader` and checks all of it.
    fn read(reader: &mut Reader<'a>, limits: &Limits) -> Result<BundleView<'a>, Malformed> {
        let view = BundleView::skim(reader)?;
        if view.count == 0 {
            return Err(Malformed::Empty);
        }
        let mut requests = Reader {
            rest: &view.content[CONTENT_HEADER..],
        };
        let signed = matches!(
            view.authenticator,
            Authenticator::Signature(_) | Authenticator::None
        );
        let mut opens = 0;
        for _ in 0..view.count {
            let request = requests.request()?;
            let (found, limit) = (request.operation.len(), limits.request_bytes_max as usize);
            if found > limit {
                return Err(Malformed::Limit {
                    what: "an operation",
                    found,
                    limit,
                });
            }
            let bare = request.session == SessionId::NONE && request.operation.is_empty();
            if request.kind == RequestKind::Open {
                opens += 1;
                if !(signed && bare) {
                    return Err(Malformed::Open);
                }
            }
        }
        if opens > OPENS_MAX {
            return Err(Malformed::Limit {
                what: "the number of Opens in a bundle",
                found: opens,
                limit: OPENS_MAX,
            });
        }
        requests.end()?;
        Ok(view)
    }

    /// Reads the frame of one bundle without looking at its requests.
    fn skim(reader: &mut Reader<'a>) -> Result<BundleView<'a>, Malformed> {
        let whole = reader.rest;
        let content_len = reader.u32("bundle")? as usize;
        let kind = reader.u8("bundle")?;
        let auth_len = usize::from(reader.u16("bundle")?);
        let content = reader.bytes(content_len, "bundle")?;
        let proof = reader.bytes(auth_len, "authenticator")?;
        let authenticator = match kind {
            0 if proof.is_empty() => Authenticator::None,
            1 if proof.len() % TAG_BYTES == 0 => Authenticator::Mac(proof),
            2 => Authenticator::Signature(Signature(
                proof
                    .try_into()
                    .map_err(|_| Malformed::Truncated("signature"))?,
            )),
            0 | 1 => return Err(Malformed::Trailing(proof.len())),
            found => {
                return Err(Malformed::Kind {
                    what: "authenticator",
                    found,
                });
            }
        };
        let mut header = Reader { rest: content };
        let client = ClientId(header.array("bundle")?);
        let count = usize::from(header.u16("bundle")?);
        let encoded = &whole[..whole.len() - reader.rest.len()];
        Ok(BundleView {
            client,
            authenticator,
            count,
            content,
            encoded,
        })
    }
}

/// A checked bundle that owns its bytes: what waits at a leader.
#[derive(Clone, Debug)]
pub struct Bundle {
    bytes: Body,
    digest: Digest,
}

impl Bundle {
    /// Checks the bytes of one bundle and computes its digest.
    ///
    /// # Errors
    /// [`Malformed`], if they are not exactly one well-formed bundle within the limits.
    pub fn parse(bytes: Body, scope: &Scope, limits: &Limits) -> Result<Bundle, Malformed> {
        let mut reader = Reader { rest: &bytes };
        let view = BundleView::read(&mut reader, limits)?;
        reader.end()?;
        let (found, limit) = (bytes.len() + BODY_HEADER, limits.body_bytes_max as usize);
        if found > limit {
            return Err(Malformed::Limit {
                what: "a bundle",
                found,
                limit,
            });
        }
        let digest = view.digest(scope);
        Ok(Bundle { bytes, digest })
    }

    /// What it holds.
    #[must_use]
    pub fn view(&self) -> BundleView<'_> {
        BundleView::skim(&mut Reader { rest: &self.bytes })
            .expect("a bundle was checked when it was made")
    }

    /// Its digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The bundle as it travels.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many bytes it takes in a body.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: a bundle has at least its header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// A checked batch: one decree's body and the value that it hashes to. Cheap to clone.
///
/// Equal batches have equal bytes, authenticators included; equal *values* are what agreement is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    body: Body,
    value: Value,
}

impl Batch {
    /// The batch of no requests, which fills a decree that nobody needs.
    #[must_use]
    pub fn noop(scope: &Scope) -> Batch {
        let body = Body::from_vec(vec![0; BODY_HEADER]);
        let value = ValueHasher::new(scope).finish();
        Batch { body, value }
    }

    /// Checks and hashes a body. `admit` sees each bundle with its digest and may refuse it: an acceptor
    /// checks authenticators there.
    ///
    /// # Errors
    /// What [`Malformed`] becomes, or what `admit` returned.
    pub fn parse<E: From<Malformed>>(
        body: Body,
        scope: &Scope,
        limits: &Limits,
        mut admit: impl FnMut(&BundleView<'_>, &Digest) -> Result<(), E>,
    ) -> Result<Batch, E> {
        let (found, limit) = (body.len(), limits.body_bytes_max as usize);
        if found > limit {
            return Err(Malformed::Limit {
                what: "a body",
                found,
                limit,
            }
            .into());
        }
        let mut reader = Reader { rest: &body };
        let count = reader.u32("body")?;
        let mut hasher = ValueHasher::new(scope);
        for _ in 0..count {
            let view = BundleView::read(&mut reader, limits)?;
            let digest = view.digest(scope);
            admit(&view, &digest)?;
            hasher.push(&digest);
        }
        reader.end()?;
        let value = hasher.finish();
        Ok(Batch { body, value })
    }

    /// Takes bundles, or what holds one each, from the front of `waiting` for as long as they fit into `bytes_max`, at
    /// least one.
    ///
    /// # Panics
    /// If `waiting` is empty: a leader does not propose without work.
    #[must_use]
    pub fn assemble<B: Borrow<Bundle>>(
        pool: &Pool,
        scope: &Scope,
        waiting: &mut VecDeque<B>,
        bytes_max: usize,
    ) -> Batch {
        assert!(
            !waiting.is_empty(),
            "a batch is made of at least one bundle"
        );
        let mut len = BODY_HEADER;
        let mut count = 0;
        for bundle in waiting.iter().map(Borrow::borrow) {
            if count > 0 && len + bundle.len() > bytes_max {
                break;
            }
            len += bundle.len();
            count += 1;
        }
        let mut body = pool.take(len);
        let (header, mut room) = body.split_at_mut(BODY_HEADER);
        header.copy_from_slice(
            &u32::try_from(count)
                .expect("bounded by the queue of a leader")
                .to_le_bytes(),
        );
        let mut hasher = ValueHasher::new(scope);
        for taken in waiting.drain(..count) {
            let bundle = taken.borrow();
            let (place, rest) = room.split_at_mut(bundle.len());
            place.copy_from_slice(&bundle.bytes);
            room = rest;
            hasher.push(&bundle.digest);
        }
        Batch {
            body: body.freeze(),
            value: hasher.finish(),
        }
    }

    /// The value that acceptors vote for.
    #[must_use]
    pub fn value(&self) -> Value {
        self.value
    }

    /// The bytes as they travel.
    #[must_use]
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// How many bundles there are.
    #[must_use]
    pub fn len(&self) -> u32 {
        Reader { rest: &self.body }
            .u32("body")
            .expect("a batch was checked when it was made")
    }

    /// How many bytes its bundles take.
    #[must_use]
    pub fn bundles_len(&self) -> usize {
        self.body.len() - BODY_HEADER
    }

    /// Whether there is more than one request.
    #[must_use]
    pub fn has_several_requests(&self) -> bool {
        self.len() > 1 || self.bundles().any(|bundle| bundle.count > 1)
    }

    /// Whether this is a batch of nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bundles in order.
    pub fn bundles(&self) -> impl Iterator<Item = BundleView<'_>> {
        let mut reader = Reader { rest: &self.body };
        let count = reader
            .u32("body")
            .expect("a batch was checked when it was made");
        (0..count).map(move |_| {
            BundleView::skim(&mut reader).expect("a batch was checked when it was made")
        })
    }
}

/// The value of a batch, bundle digest by bundle digest. The order is covered, and so is the number, since
/// all digests have one length.
struct ValueHasher(twostep_crypto::Hasher);

impl ValueHasher {
    fn new(scope: &Scope) -> ValueHasher {
        ValueHasher(scope.hasher(Context::Value))
    }

    fn push(&mut self, digest: &Digest) {
        self.0.update(&digest.0);
    }

    fn finish(&self) -> Value {
        Value(self.0.finish())
    }
}

/// Where in the bytes of a bundle with tags its content stands. None in bytes that are no bundle, and none if it has no
/// tags: clusters whose links vouch for clients do not check signatures.
#[must_use]
pub fn tagged_content(bundle: &[u8]) -> Option<Range<usize>> {
    let view = BundleView::skim(&mut Reader { rest: bundle }).ok()?;
    let tagged = matches!(view.authenticator, Authenticator::Mac(_));
    tagged.then_some(BUNDLE_HEADER..BUNDLE_HEADER + view.content.len())
}

/// Says where in the bytes of a body the contents of its bundles stand: the bytes that its value covers. Ends at the
/// first byte that belongs to no bundle.
pub fn contents(body: &[u8], mut say: impl FnMut(Range<usize>)) {
    let mut reader = Reader { rest: body };
    if reader.u32("body").is_err() {
        return;
    }
    loop {
        let start = body.len() - reader.rest.len() + BUNDLE_HEADER;
        let Ok(view) = BundleView::skim(&mut reader) else {
            return;
        };
        say(start..start + view.content.len());
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(Malformed::Truncated(what))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(Malformed::Truncated(what))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        self.array(what).map(u8::from_le_bytes)
    }

    fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        self.array(what).map(u16::from_le_bytes)
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn request(&mut self) -> Result<Request<'a>, Malformed> {
        let kind = match self.u8("request")? {
            0 => RequestKind::Operation,
            1 => RequestKind::Open,
            found => {
                return Err(Malformed::Kind {
                    what: "request",
                    found,
                });
            }
        };
        let session = SessionId {
            decree: Decree(self.u64("request")?),
            index: self.u32("request")?,
        };
        let seq = Seq(self.u64("request")?);
        let len = self.u32("request")? as usize;
        let operation = self.bytes(len, "request")?;
        Ok(Request {
            kind,
            session,
            seq,
            operation,
        })
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed::Trailing(self.rest.len()))
        }
    }
}
