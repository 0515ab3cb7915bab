//! Bytes ↔ record: the payloads of entries that hold records.
//!
//! | kind | record | payload |
//! |---|---|---|
//! | 1 | `Lead` | regency u64 |
//! | 2 | `Proposal` | decree u64 · value · here u8 · regency u64 · body if here |
//! | 3 | `Vote` | decree u64 · value · here u8 · regency u64 · body if here |
//! | 4 | `Learned` | decree u64 · value · here u8 · body if here |
//! | 5 | `Promise` | length u32 · *proof* · *report* |
//! | 6 | `Entered` | regency u64 · *proof* |
//! | 7 | `NewRegency` | *new regency* |
//! | 8 | `RegencyVote` | *vote* |
//! | 9 | `Low` | *certificate* |
//! | 10 | `Checkpoint` | *checkpoint* |
//! | 11 | `Rejoined` | regency u64 · *proof* |
//!
//! What is *slanted* is the message of that name as it travels ([`crate::wire`]). A body that is not `here` is the one that an
//! earlier record holds for the same decree and value ([`super::bodies`]).
//!
//! Kinds 2 to 4 are many and pass with their decrees; of every other kind only the newest counts, so a new segment begins by
//! repeating those ([`super::preamble`]).

use thiserror::Error;
use twostep_crypto::Scope;
use twostep_net::pool::Pool;

use crate::batch::{Batch, Malformed};
use crate::configuration::{Configuration, Limits};
use crate::message::{Message, ProofOfLeadership, WireError};
use crate::record::{OwnedRecord, Record};
use crate::types::{Decree, Digest, Regency, Value};
use crate::wire::{self, Bounds};

const LEAD: u8 = 1;
const PROPOSAL: u8 = 2;
const VOTE: u8 = 3;
const LEARNED: u8 = 4;
const PROMISE: u8 = 5;
const ENTERED: u8 = 6;
const NEW_REGENCY: u8 = 7;
const REGENCY_VOTE: u8 = 8;
const LOW: u8 = 9;
const CHECKPOINT: u8 = 10;
const REJOINED: u8 = 11;

const HEAD_BYTES: usize = 8 + 32 + 1;

/// Why a payload is no record, although its check holds: what wrote it was not this program, or had a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RecordError {
    /// No record has this kind.
    #[error("{0} is the kind of no record")]
    Kind(u8),
    /// The bytes end too early or too late, or say what cannot be.
    #[error("the record of kind {0} has another layout")]
    Layout(u8),
    /// A message inside of it is none.
    #[error("what it proves is no message: {0}")]
    Wire(#[from] WireError),
    /// A body is none.
    #[error("its body is malformed: {0}")]
    Malformed(#[from] Malformed),
    /// A body belongs to another value.
    #[error("its body does not hash to its value")]
    WrongBody,
    /// A body that no earlier record holds.
    #[error("no earlier record holds its body")]
    NoBody,
}

/// Which decree a record belongs to, and where its body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// For which decree.
    pub decree: Decree,
    /// What.
    pub value: Value,
    /// Whether the body is in the record.
    pub here: bool,
}

/// What records are read with.
#[derive(Clone, Debug)]
pub struct Reading {
    scope: Scope,
    limits: Limits,
    bounds: Bounds,
    pool: Pool,
}

impl Reading {
    /// Reads records of nodes of a cluster; bodies come into memory of `pool`.
    #[must_use]
    pub fn new(configuration: &Configuration, pool: Pool) -> Reading {
        Reading {
            scope: configuration.scope(),
            limits: *configuration.limits(),
            bounds: Bounds::of(configuration),
            pool,
        }
    }
}

/// The kind of a record.
#[must_use]
pub fn kind(record: &Record<'_>) -> u8 {
    match record {
        Record::Lead(_) => LEAD,
        Record::Proposal { .. } => PROPOSAL,
        Record::Vote { .. } => VOTE,
        Record::Learned { .. } => LEARNED,
        Record::Promise { .. } => PROMISE,
        Record::Entered { .. } => ENTERED,
        Record::NewRegency(_) => NEW_REGENCY,
        Record::RegencyVote(_) => REGENCY_VOTE,
        Record::Low(_) => LOW,
        Record::Checkpoint(_) => CHECKPOINT,
        Record::Rejoined { .. } => REJOINED,
    }
}

/// Whether only the newest record of this kind counts.
#[must_use]
pub fn is_single(kind: u8) -> bool {
    !matches!(kind, PROPOSAL | VOTE | LEARNED)
}

/// Whether nothing that is said before the next checkpoint rests on the record: it need not be synced at once.
#[must_use]
pub fn may_wait(kind: u8) -> bool {
    kind == LEARNED
}

/// Whether the record says what was learned.
#[must_use]
pub fn is_learned(kind: u8) -> bool {
    kind == LEARNED
}

/// The batch that a record holds, and for which decree.
#[must_use]
pub fn batch<'a>(record: &Record<'a>) -> Option<(Decree, &'a Batch)> {
    match *record {
        Record::Proposal { decree, batch, .. }
        | Record::Vote { decree, batch, .. }
        | Record::Learned { decree, batch } => Some((decree, batch)),
        _ => None,
    }
}

/// Appends the payload of a record; the body only if it is to be `here`.
pub fn write(record: &Record<'_>, here: bool, out: &mut Vec<u8>) {
    let body = |decree: Decree, batch: &Batch, regency: Option<Regency>, out: &mut Vec<u8>| {
        out.extend_from_slice(&decree.0.to_le_bytes());
        out.extend_from_slice(&batch.value().0.0);
        out.push(u8::from(here));
        if let Some(regency) = regency {
            out.extend_from_slice(&regency.0.to_le_bytes());
        }
        if here {
            out.extend_from_slice(batch.body());
        }
    };
    let proof = |proof: &ProofOfLeadership, out: &mut Vec<u8>| {
        wire::encode(&Message::Proof(proof.clone()), out);
    };
    match *record {
        Record::Lead(regency) => out.extend_from_slice(&regency.0.to_le_bytes()),
        Record::Proposal {
            regency,
            decree,
            batch,
        }
        | Record::Vote {
            regency,
            decree,
            batch,
        } => body(decree, batch, Some(regency), out),
        Record::Learned { decree, batch } => body(decree, batch, None, out),
        Record::Promise {
            proof: of,
            report: told,
        } => {
            let begin = out.len();
            out.extend_from_slice(&[0; 4]);
            proof(of, out);
            let length = u32::try_from(out.len() - begin - 4).expect("a proof is short");
            out[begin..begin + 4].copy_from_slice(&length.to_le_bytes());
            wire::encode(&Message::Report(Box::new(told.clone())), out);
        }
        Record::Entered { regency, proof: of } | Record::Rejoined { regency, proof: of } => {
            out.extend_from_slice(&regency.0.to_le_bytes());
            proof(of, out);
        }
        Record::NewRegency(shown) => {
            wire::encode(&Message::NewRegency(Box::new(shown.clone())), out);
        }
        Record::RegencyVote(vote) => wire::encode(&Message::Vote(vote.clone()), out),
        Record::Low(certificate) => wire::encode(&Message::Certificate(certificate.clone()), out),
        Record::Checkpoint(claim) => wire::encode(&Message::Checkpoint(*claim), out),
    }
}

/// What a payload says of its body; none for kinds without one.
///
/// # Errors
/// [`RecordError::Layout`] if it is too short for it.
pub fn head(kind: u8, payload: &[u8]) -> Result<Option<Head>, RecordError> {
    if is_single(kind) {
        return Ok(None);
    }
    let layout = RecordError::Layout(kind);
    let (decree, rest) = payload.split_first_chunk().ok_or(layout)?;
    let (value, rest) = rest.split_first_chunk().ok_or(layout)?;
    let here = match rest.first() {
        Some(0) => false,
        Some(1) => true,
        _ => return Err(layout),
    };
    Ok(Some(Head {
        decree: Decree(u64::from_le_bytes(*decree)),
        value: Value(Digest(*value)),
        here,
    }))
}

/// The body that stands in a payload, with what it belongs to; none if there is none, or the layout is another one.
#[must_use]
pub fn body(kind: u8, payload: &[u8]) -> Option<(Head, &[u8])> {
    let head = head(kind, payload).ok()?.filter(|head| head.here)?;
    let rest = &payload[HEAD_BYTES..];
    let body = if kind == LEARNED {
        rest
    } else {
        regency(kind, rest).ok()?.1
    };
    Some((head, body))
}

/// Reads a record back. `earlier` finds the body that an earlier record holds.
///
/// # Errors
/// [`RecordError`]; nothing is allocated beyond what the bounds of the cluster allow.
pub fn read(
    kind: u8,
    payload: &[u8],
    reading: &Reading,
    earlier: impl FnOnce(Decree, Value) -> Option<Batch>,
) -> Result<OwnedRecord, RecordError> {
    let layout = RecordError::Layout(kind);
    let message = |bytes| wire::decode(bytes, &reading.pool, &reading.bounds);
    if let Some(head) = head(kind, payload)? {
        return read_batch(kind, head, &payload[HEAD_BYTES..], reading, earlier);
    }
    Ok(match kind {
        LEAD => match regency(kind, payload)? {
            (regency, []) => OwnedRecord::Lead(regency),
            _ => return Err(layout),
        },
        PROMISE => {
            let (length, rest) = payload.split_first_chunk().ok_or(layout)?;
            let length = u32::from_le_bytes(*length) as usize;
            let (proof, report) = rest.split_at_checked(length).ok_or(layout)?;
            match (message(proof)?, message(report)?) {
                (Message::Proof(proof), Message::Report(report)) => {
                    OwnedRecord::Promise { proof, report }
                }
                _ => return Err(layout),
            }
        }
        ENTERED | REJOINED => {
            let (regency, rest) = regency(kind, payload)?;
            match message(rest)? {
                Message::Proof(proof) if kind == ENTERED => OwnedRecord::Entered { regency, proof },
                Message::Proof(proof) => OwnedRecord::Rejoined { regency, proof },
                _ => return Err(layout),
            }
        }
        NEW_REGENCY..=CHECKPOINT => match (kind, message(payload)?) {
            (NEW_REGENCY, Message::NewRegency(shown)) => OwnedRecord::NewRegency(shown),
            (REGENCY_VOTE, Message::Vote(vote)) => OwnedRecord::RegencyVote(vote),
            (LOW, Message::Certificate(certificate)) => OwnedRecord::Low(certificate),
            (CHECKPOINT, Message::Checkpoint(claim)) => OwnedRecord::Checkpoint(claim),
            _ => return Err(layout),
        },
        kind => return Err(RecordError::Kind(kind)),
    })
}

fn read_batch(
    kind: u8,
    head: Head,
    rest: &[u8],
    reading: &Reading,
    earlier: impl FnOnce(Decree, Value) -> Option<Batch>,
) -> Result<OwnedRecord, RecordError> {
    let (regency, body) = if kind == LEARNED {
        (Regency(0), rest)
    } else {
        regency(kind, rest)?
    };
    let Head {
        decree,
        value,
        here,
    } = head;
    let batch = if here {
        let Reading {
            scope,
            limits,
            pool,
            ..
        } = reading;
        let batch = Batch::parse(pool.copy(body), scope, limits, |_, _| {
            Ok::<(), Malformed>(())
        })?;
        if batch.value() != value {
            return Err(RecordError::WrongBody);
        }
        batch
    } else if body.is_empty() {
        earlier(decree, value).ok_or(RecordError::NoBody)?
    } else {
        return Err(RecordError::Layout(kind));
    };
    Ok(match kind {
        PROPOSAL => OwnedRecord::Proposal {
            regency,
            decree,
            batch,
        },
        VOTE => OwnedRecord::Vote {
            regency,
            decree,
            batch,
        },
        _ => OwnedRecord::Learned { decree, batch },
    })
}

fn regency(kind: u8, payload: &[u8]) -> Result<(Regency, &[u8]), RecordError> {
    let layout = RecordError::Layout(kind);
    let (number, rest) = payload.split_first_chunk().ok_or(layout)?;
    Ok((Regency(u64::from_le_bytes(*number)), rest))
}
