//! Bytes ↔ message, on the caller's memory, bounded.
//!
//! A message is one tag byte and its fields in order. Numbers are little endian and of fixed width, a digest has 32
//! bytes, a signature 64, a client 16, a node 2. What varies in length carries its length or count in front. There is exactly one
//! encoding of every message: what decodes, encodes to the same bytes again. Version, cluster and MAC belong to the
//! packet around it (DESIGN.md section 4).
//!
//! | tag | message | fields |
//! |---|---|---|
//! | 1 | `Submit` | retry u8 · *bundle* |
//! | 2 | `Propose` | regency u64 · decree u64 · value · *body* |
//! | 3 | `Accepted` | regency u64 · decree u64 · value |
//! | 4 | `Ack` | learned u64 |
//! | 5 | `Checkpoint` | decree u64 · chain · results · learner u16 · signature |
//! | 6 | `Certificate` | certificate |
//! | 7 | `Status` | regency u64 · flags u8 (1 plan held, 2 abstaining) · low u64 · learned u64 |
//! | 8 | `Pull` | first u64 · count u32 |
//! | 9 | `Pulled` | first u64 · count u32 · value … |
//! | 10 | `Fetch` | decree u64 · value |
//! | 11 | `Fetched` | decree u64 · value · *body* |
//! | 12 | `Replies` | regency u64 · *entries* |
//! | 13 | `Busy` | regency u64 · retry after u32, milliseconds |
//! | 14 | `Vote` | regency vote |
//! | 15 | `Proof` | proof |
//! | 16 | `Gather` | regency u64 · proof |
//! | 17 | `Report` | signed report |
//! | 18 | `NewRegency` | regency u64 · proof · count u16 · signed report … (ascending by signer) |
//! | 19 | `Denied` | proof |
//! | 20 | `AskSettled` | executed u64 · names |
//! | 21 | `Settled` | names |
//! | 22 | `NackAuth` | regency u64 · decree u64 · client · bundle digest |
//! | 23 | `AckAuth` | regency u64 · decree u64 · bundle digest |
//! | 24 | `WantSignature` | regency u64 · bundle digest |
//! | 25 | `BundleSignature` | client · bundle digest · signature |
//! | 26 | `Recall` | |
//! | 27 | `Recalled` | regency u64 · proof · voted u64 · count u16 · regency vote … (ascending by signer) · has low u8 · certificate if so |
//! | 28 | `RepliesDigest` | regency u64 · digest |
//! | 29 | `Found` | regency u64 · *entries* |
//! | 32 | `Snapshot` | snapshot · learner u16 · signature |
//! | 33 | `SnapshotCertificate` | snapshot certificate |
//! | 34 | `AskSnapshot` | above u64 |
//! | 35 | `FetchChunk` | decree u64 · place u32 |
//! | 36 | `Chunk` | decree u64 · place u32 · *chunk* |
//!
//! | part | fields |
//! |---|---|
//! | *slanted* | length u32 · bytes |
//! | certificate | decree u64 · chain · count u16 · voice … (ascending by learner) |
//! | voice | learner u16 · results · signature |
//! | snapshot | decree u64 · chain · results · root |
//! | snapshot certificate | snapshot · count u16 · (learner u16 · signature) … (ascending by learner) |
//! | regency vote | signer u16 · regency u64 · signature |
//! | proof | count u16 · regency vote … (ascending by signer) |
//! | signed report | signer u16 · report · signature |
//! | report | regency u64 · has low u8 · certificate if so · count u32 · reported vote … (ascending by decree) |
//! | reported vote | decree u64 · psn u64 · value |
//! | names | client · count u32 · (session decree u64 · session index u32 · seq u64) … |
//! | reply entry | outcome and flags u8 · session if 8 · seq v if 16 · decree v if 32 · payload by outcome |
//! | session | decree v · index v |
//!
//! Outcomes: 0 executed (length v · reply), 1 executed (digest of the reply), 2 opened (session), 3 stale, 4 too far,
//! 5 seq reused, 6 session lapsed, 7 executed but the reply is gone. What an entry leaves out is that of the entry before,
//! for the seq the next one; in front of the first stand no session, seq 0 and decree 0. What can be left out is. A number *v*
//! travels in groups of seven bits, lowest first, with the top bit set in all but the last.
//!
//! "Ascending" is strict, so nobody is counted twice. Every count is held against the [`Bounds`] *and* against the
//! bytes that are there before anything is allocated. Bundles, values and reply entries borrow the receive buffer;
//! bodies are copied once, into the pool. What is inside of bundles and bodies is checked by [`crate::batch`], reply
//! entries while they are read, signatures by the roles.

mod bounds;
mod cursor;
mod doubts;
mod proofs;
mod replies;
mod snapshots;

use std::ops::Range;

use twostep_net::pool::Pool;

pub use crate::message::WireError;
pub use bounds::Bounds;
pub use proofs::write_report;
pub use replies::{ReplyWriter, reply_bytes_max, write_replies};
pub use snapshots::{read_snapshot_certificate, write_snapshot_certificate};

use crate::batch;
use crate::message::{Message, NAME_BYTES, ReplyEntries, RequestNames, Status, Values};
use crate::tracking::TRACKED_MAX;
use crate::types::{Decree, Regency, Value};
use cursor::{Reader, length};

const SUBMIT: u8 = 1;
const PROPOSE: u8 = 2;
const ACCEPTED: u8 = 3;
const ACK: u8 = 4;
const CHECKPOINT: u8 = 5;
const CERTIFICATE: u8 = 6;
const STATUS: u8 = 7;
const PULL: u8 = 8;
const PULLED: u8 = 9;
const FETCH: u8 = 10;
const FETCHED: u8 = 11;
const REPLIES: u8 = 12;
const BUSY: u8 = 13;
const VOTE: u8 = 14;
const PROOF: u8 = 15;
const GATHER: u8 = 16;
const REPORT: u8 = 17;
const NEW_REGENCY: u8 = 18;
const DENIED: u8 = 19;
const ASK_SETTLED: u8 = 20;
const SETTLED: u8 = 21;
const NACK_AUTH: u8 = 22;
const ACK_AUTH: u8 = 23;
const WANT_SIGNATURE: u8 = 24;
const BUNDLE_SIGNATURE: u8 = 25;
const RECALL: u8 = 26;
const RECALLED: u8 = 27;
const REPLIES_DIGEST: u8 = 28;
const FOUND: u8 = 29;
const SNAPSHOT: u8 = 32;
const SNAPSHOT_CERTIFICATE: u8 = 33;
const ASK_SNAPSHOT: u8 = 34;
const FETCH_CHUNK: u8 = 35;
const CHUNK: u8 = 36;

/// Appends the bytes of `message` to `out`; nothing else is allocated.
///
/// It does not judge: what [`decode`] refuses, such as a voucher with a repeated signer, is written as it stands.
///
/// # Panics
/// If a part is too long for its length field, or a vote or report is signed by a client: no role makes such messages.
pub fn encode(message: &Message<'_>, out: &mut Vec<u8>) {
    let rest = encode_head(message, out);
    out.extend_from_slice(rest);
}

/// The same without the bundle or body at the end of a message, which is returned: it need not be copied to be sent.
///
/// # Panics
/// As [`encode`].
#[must_use]
pub fn encode_head<'m>(message: &'m Message<'_>, out: &mut Vec<u8>) -> &'m [u8] {
    let rest: &[u8] = match message {
        Message::Submit { bundle, .. } => bundle,
        Message::Propose { body, .. } | Message::Fetched { body, .. } => body,
        Message::Chunk { bytes, .. } => bytes,
        _ => &[],
    };
    match message {
        Message::Submit { retry, .. } => {
            out.extend([SUBMIT, u8::from(*retry)]);
            out.extend_from_slice(&length(rest.len()).to_le_bytes());
        }
        Message::Propose {
            regency,
            decree,
            value,
            ..
        } => {
            write_vote(PROPOSE, *regency, *decree, *value, out);
            out.extend_from_slice(&length(rest.len()).to_le_bytes());
        }
        Message::Accepted {
            regency,
            decree,
            value,
        } => write_vote(ACCEPTED, *regency, *decree, *value, out),
        Message::Ack { learned } => {
            out.push(ACK);
            out.extend_from_slice(&learned.0.to_le_bytes());
        }
        Message::Checkpoint(claim) => {
            out.push(CHECKPOINT);
            proofs::write_claim(claim, out);
        }
        Message::Certificate(certificate) => {
            out.push(CERTIFICATE);
            proofs::write_certificate(certificate, out);
        }
        Message::Status(status) => write_status(status, out),
        Message::Pull { first, count } => {
            out.push(PULL);
            out.extend_from_slice(&first.0.to_le_bytes());
            out.extend_from_slice(&count.to_le_bytes());
        }
        Message::Pulled { first, values } => {
            out.push(PULLED);
            out.extend_from_slice(&first.0.to_le_bytes());
            out.extend_from_slice(&length(values.len()).to_le_bytes());
            out.extend_from_slice(values.bytes());
        }
        Message::Fetch { decree, value } => write_fetch(FETCH, *decree, *value, out),
        Message::Fetched { decree, value, .. } => {
            write_fetch(FETCHED, *decree, *value, out);
            out.extend_from_slice(&length(rest.len()).to_le_bytes());
        }
        Message::Replies { regency, entries } => write_entries(REPLIES, *regency, *entries, out),
        Message::RepliesDigest { regency, digest } => {
            out.push(REPLIES_DIGEST);
            out.extend_from_slice(&regency.0.to_le_bytes());
            out.extend_from_slice(&digest.0);
        }
        Message::Found { regency, entries } => write_entries(FOUND, *regency, *entries, out),
        Message::Busy {
            regency,
            retry_after_ms,
        } => {
            out.push(BUSY);
            out.extend_from_slice(&regency.0.to_le_bytes());
            out.extend_from_slice(&retry_after_ms.to_le_bytes());
        }
        Message::Vote(vote) => {
            out.push(VOTE);
            proofs::write_regency_vote(vote, out);
        }
        Message::Proof(proof) => {
            out.push(PROOF);
            proofs::write_proof(proof, out);
        }
        Message::Gather { regency, proof } => {
            out.push(GATHER);
            out.extend_from_slice(&regency.0.to_le_bytes());
            proofs::write_proof(proof, out);
        }
        Message::Report(report) => {
            out.push(REPORT);
            proofs::write_signed_report(report, out);
        }
        Message::NewRegency(new) => {
            out.push(NEW_REGENCY);
            proofs::write_new_regency(new, out);
        }
        Message::Denied(proof) => {
            out.push(DENIED);
            proofs::write_proof(proof, out);
        }
        Message::AskSettled { executed, names } => {
            out.push(ASK_SETTLED);
            out.extend_from_slice(&executed.0.to_le_bytes());
            write_names(*names, out);
        }
        Message::Settled { names } => {
            out.push(SETTLED);
            write_names(*names, out);
        }
        Message::Recall => out.push(RECALL),
        Message::Recalled(recalled) => {
            out.push(RECALLED);
            proofs::write_recalled(recalled, out);
        }
        Message::NackAuth { .. }
        | Message::AckAuth { .. }
        | Message::WantSignature { .. }
        | Message::BundleSignature { .. } => doubts::write(message, out),
        Message::Snapshot(_)
        | Message::SnapshotCertificate(_)
        | Message::AskSnapshot { .. }
        | Message::FetchChunk { .. }
        | Message::Chunk { .. } => snapshots::write(message, out),
    }
    rest
}

/// Adds to `gaps` what a link's tag need not cover in the encoded `message`, because its receiver checks it against a
/// digest or tag in the other bytes before anything comes of it: the contents of the bundles of a body, which its value
/// covers, and of a bundle that is submitted for the first time with tags, which cover it. An authenticator is
/// never left out: a damaged one would be the fault of the client, or of who passed it on. `head` is what
/// [`encode_head`] appended; contents shorter than `bytes_min` stay where they are.
pub fn gaps(message: &Message<'_>, head: usize, bytes_min: usize, gaps: &mut Vec<Range<usize>>) {
    let mut leave_out = |content: Range<usize>| {
        if content.len() >= bytes_min {
            gaps.push(head + content.start..head + content.end);
        }
    };
    match message {
        Message::Submit {
            retry: false,
            bundle,
        } => batch::tagged_content(bundle)
            .into_iter()
            .for_each(leave_out),
        Message::Propose { body, .. } | Message::Fetched { body, .. } => {
            batch::contents(body, &mut leave_out);
        }
        _ => {}
    }
}

/// Reads exactly one message. Small parts borrow `bytes`; a body is copied into memory of `pool`.
///
/// # Errors
/// [`WireError`], if the bytes are not one message, whole and within the bounds. It never panics, and allocates at
/// most what `bounds` allow, and never more than a small multiple of the bytes that are there.
pub fn decode<'a>(bytes: &'a [u8], pool: &Pool, bounds: &Bounds) -> Result<Message<'a>, WireError> {
    let mut reader = Reader::new(bytes);
    let message = read_message(&mut reader, pool, bounds)?;
    reader.end()?;
    Ok(message)
}

/// Whether these bytes, if they are a message, carry requests that are to be ordered.
#[must_use]
pub fn carries_requests(bytes: &[u8]) -> bool {
    matches!(bytes.first(), Some(&SUBMIT | &PROPOSE))
}

/// Whether these bytes, if they are a message, carry signatures of nodes: told from the first byte, so that what need
/// not be checked need not be read.
#[must_use]
pub fn shows_signatures(bytes: &[u8]) -> bool {
    let signed = [
        CHECKPOINT,
        CERTIFICATE,
        VOTE,
        PROOF,
        GATHER,
        REPORT,
        NEW_REGENCY,
        DENIED,
        SNAPSHOT,
        SNAPSHOT_CERTIFICATE,
        RECALLED,
    ];
    bytes.first().is_some_and(|tag| signed.contains(tag))
}

fn read_message<'a>(
    reader: &mut Reader<'a>,
    pool: &Pool,
    bounds: &Bounds,
) -> Result<Message<'a>, WireError> {
    Ok(match reader.u8("the tag")? {
        SUBMIT => Message::Submit {
            retry: reader.flag("Submit")?,
            bundle: reader.sized("a bundle", bounds.bundle_bytes_max)?,
        },
        PROPOSE => Message::Propose {
            regency: Regency(reader.u64("Propose")?),
            decree: Decree(reader.u64("Propose")?),
            value: Value(reader.digest("Propose")?),
            body: pool.copy(reader.sized("a body", bounds.body_bytes_max)?),
        },
        ACCEPTED => Message::Accepted {
            regency: Regency(reader.u64("Accepted")?),
            decree: Decree(reader.u64("Accepted")?),
            value: Value(reader.digest("Accepted")?),
        },
        ACK => Message::Ack {
            learned: Decree(reader.u64("Ack")?),
        },
        CHECKPOINT => Message::Checkpoint(proofs::read_claim(reader)?),
        CERTIFICATE => Message::Certificate(proofs::read_certificate(reader, bounds)?),
        STATUS => Message::Status(read_status(reader)?),
        PULL => Message::Pull {
            first: Decree(reader.u64("Pull")?),
            count: reader.count_u32("the values of a Pull", bounds.window)?,
        },
        PULLED => {
            let first = Decree(reader.u64("Pulled")?);
            let count = reader.count_u32("the values of a Pulled", bounds.window)? as usize;
            let bytes = reader.bytes(count.saturating_mul(32), "the values of a Pulled")?;
            Message::Pulled {
                first,
                values: Values::new(bytes).expect("a multiple of 32"),
            }
        }
        FETCH => Message::Fetch {
            decree: Decree(reader.u64("Fetch")?),
            value: Value(reader.digest("Fetch")?),
        },
        FETCHED => Message::Fetched {
            decree: Decree(reader.u64("Fetched")?),
            value: Value(reader.digest("Fetched")?),
            body: pool.copy(reader.sized("a body", bounds.body_bytes_max)?),
        },
        REPLIES => Message::Replies {
            regency: Regency(reader.u64("Replies")?),
            entries: read_entries(reader)?,
        },
        REPLIES_DIGEST => Message::RepliesDigest {
            regency: Regency(reader.u64("RepliesDigest")?),
            digest: reader.digest("RepliesDigest")?,
        },
        FOUND => Message::Found {
            regency: Regency(reader.u64("Found")?),
            entries: read_entries(reader)?,
        },
        BUSY => Message::Busy {
            regency: Regency(reader.u64("Busy")?),
            retry_after_ms: reader.u32("Busy")?,
        },
        VOTE => Message::Vote(proofs::read_regency_vote(reader)?),
        PROOF => Message::Proof(proofs::read_proof(reader, bounds)?),
        GATHER => Message::Gather {
            regency: Regency(reader.u64("Gather")?),
            proof: proofs::read_proof(reader, bounds)?,
        },
        REPORT => Message::Report(Box::new(proofs::read_signed_report(reader, bounds)?)),
        NEW_REGENCY => Message::NewRegency(Box::new(proofs::read_new_regency(reader, bounds)?)),
        DENIED => Message::Denied(proofs::read_proof(reader, bounds)?),
        ASK_SETTLED => Message::AskSettled {
            executed: Decree(reader.u64("AskSettled")?),
            names: read_names(reader)?,
        },
        SETTLED => Message::Settled {
            names: read_names(reader)?,
        },
        RECALL => Message::Recall,
        RECALLED => Message::Recalled(Box::new(proofs::read_recalled(reader, bounds)?)),
        tag @ NACK_AUTH..=BUNDLE_SIGNATURE => doubts::read(tag, reader)?,
        tag @ SNAPSHOT..=CHUNK => snapshots::read(tag, reader, pool, bounds)?,
        tag => return Err(WireError::Tag(tag)),
    })
}

fn write_entries(tag: u8, regency: Regency, entries: ReplyEntries<'_>, out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&regency.0.to_le_bytes());
    out.extend_from_slice(&length(entries.bytes().len()).to_le_bytes());
    out.extend_from_slice(entries.bytes());
}

/// They stay in the receive buffer, so what bounds that bounds them.
fn read_entries<'a>(reader: &mut Reader<'a>) -> Result<ReplyEntries<'a>, WireError> {
    let bytes = reader.sized("reply entries", u32::MAX as usize)?;
    Ok(ReplyEntries::new(bytes))
}

fn write_vote(tag: u8, regency: Regency, decree: Decree, value: Value, out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&regency.0.to_le_bytes());
    out.extend_from_slice(&decree.0.to_le_bytes());
    out.extend_from_slice(&value.0.0);
}

fn write_fetch(tag: u8, decree: Decree, value: Value, out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&decree.0.to_le_bytes());
    out.extend_from_slice(&value.0.0);
}

fn write_names(names: RequestNames<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&names.client.0);
    out.extend_from_slice(&length(names.len()).to_le_bytes());
    out.extend_from_slice(names.bytes());
}

fn read_names<'a>(reader: &mut Reader<'a>) -> Result<RequestNames<'a>, WireError> {
    const WHAT: &str = "the names of requests";
    let client = reader.client(WHAT)?;
    let count = reader.count_u32(WHAT, TRACKED_MAX as u64)? as usize;
    let names = reader.bytes(count * NAME_BYTES, WHAT)?;
    Ok(RequestNames::new(client, names).expect("a multiple of a name's length"))
}

const PLAN_HELD: u8 = 1;
const ABSTAINING: u8 = 2;

fn write_status(status: &Status, out: &mut Vec<u8>) {
    out.push(STATUS);
    out.extend_from_slice(&status.regency.0.to_le_bytes());
    let plan_held = if status.plan_held { PLAN_HELD } else { 0 };
    let abstaining = if status.abstaining { ABSTAINING } else { 0 };
    out.push(plan_held | abstaining);
    out.extend_from_slice(&status.low.0.to_le_bytes());
    out.extend_from_slice(&status.learned.0.to_le_bytes());
}

fn read_status(reader: &mut Reader<'_>) -> Result<Status, WireError> {
    let regency = Regency(reader.u64("Status")?);
    let flags = reader.u8("Status")?;
    if flags & !(PLAN_HELD | ABSTAINING) != 0 {
        return Err(WireError::Case {
            what: "set of status flags",
            found: flags,
        });
    }
    Ok(Status {
        regency,
        plan_held: flags & PLAN_HELD != 0,
        abstaining: flags & ABSTAINING != 0,
        low: Decree(reader.u64("Status")?),
        learned: Decree(reader.u64("Status")?),
    })
}
