//! The messages of state transfer: claims, certificates, chunks.

use twostep_crypto::Signable;
use twostep_net::pool::Pool;

use crate::message::{
    Message, Snapshot, SnapshotCertificate, SnapshotClaim, SnapshotVoice, WireError,
};
use crate::types::Decree;

use super::bounds::Bounds;
use super::cursor::{Reader, count, length};
use super::proofs::read_ascending;
use super::{ASK_SNAPSHOT, CHUNK, FETCH_CHUNK, SNAPSHOT, SNAPSHOT_CERTIFICATE};

const VOICE_BYTES: usize = 2 + 64;

pub(super) fn write(message: &Message<'_>, out: &mut Vec<u8>) {
    match message {
        Message::Snapshot(claim) => {
            out.push(SNAPSHOT);
            claim.snapshot.write_signable(out);
            out.extend_from_slice(&claim.learner.0.to_le_bytes());
            out.extend_from_slice(&claim.signature.0);
        }
        Message::SnapshotCertificate(certificate) => {
            out.push(SNAPSHOT_CERTIFICATE);
            write_snapshot_certificate(certificate, out);
        }
        Message::AskSnapshot { above } => {
            out.push(ASK_SNAPSHOT);
            out.extend_from_slice(&above.0.to_le_bytes());
        }
        Message::FetchChunk { decree, place } => write_place(FETCH_CHUNK, *decree, *place, out),
        Message::Chunk {
            decree,
            place,
            bytes,
        } => {
            write_place(CHUNK, *decree, *place, out);
            out.extend_from_slice(&length(bytes.len()).to_le_bytes());
        }
        _ => unreachable!("only messages of state transfer are written here"),
    }
}

pub(super) fn read<'a>(
    tag: u8,
    reader: &mut Reader<'a>,
    pool: &Pool,
    bounds: &Bounds,
) -> Result<Message<'a>, WireError> {
    Ok(match tag {
        SNAPSHOT => Message::Snapshot(SnapshotClaim {
            snapshot: read_snapshot(reader)?,
            learner: reader.node("a snapshot")?,
            signature: reader.signature("a snapshot")?,
        }),
        SNAPSHOT_CERTIFICATE => Message::SnapshotCertificate(read_certificate(reader, bounds)?),
        ASK_SNAPSHOT => Message::AskSnapshot {
            above: Decree(reader.u64("AskSnapshot")?),
        },
        FETCH_CHUNK => Message::FetchChunk {
            decree: Decree(reader.u64("FetchChunk")?),
            place: reader.u32("FetchChunk")?,
        },
        CHUNK => Message::Chunk {
            decree: Decree(reader.u64("Chunk")?),
            place: reader.u32("Chunk")?,
            bytes: pool.copy(reader.sized("a chunk", bounds.body_bytes_max)?),
        },
        tag => return Err(WireError::Tag(tag)),
    })
}

/// Appends a certificate as it travels and is stored.
///
/// # Panics
/// If it holds 2^16 voices: no certificate of a cluster does.
pub fn write_snapshot_certificate(certificate: &SnapshotCertificate, out: &mut Vec<u8>) {
    certificate.snapshot.write_signable(out);
    out.extend_from_slice(&count(certificate.voices.len()).to_le_bytes());
    for voice in &certificate.voices {
        out.extend_from_slice(&voice.learner.0.to_le_bytes());
        out.extend_from_slice(&voice.signature.0);
    }
}

/// Reads a certificate as it is stored.
///
/// # Errors
/// [`WireError`], if the bytes are not one certificate, whole and within the bounds.
pub fn read_snapshot_certificate(
    bytes: &[u8],
    bounds: &Bounds,
) -> Result<SnapshotCertificate, WireError> {
    let mut reader = Reader::new(bytes);
    let certificate = read_certificate(&mut reader, bounds)?;
    reader.end()?;
    Ok(certificate)
}

fn read_certificate(
    reader: &mut Reader<'_>,
    bounds: &Bounds,
) -> Result<SnapshotCertificate, WireError> {
    const WHAT: &str = "the voices of a snapshot";
    let snapshot = read_snapshot(reader)?;
    let count = reader.count_u16(WHAT, bounds.learners)?;
    let read = |reader: &mut Reader<'_>| {
        Ok(SnapshotVoice {
            learner: reader.node(WHAT)?,
            signature: reader.signature(WHAT)?,
        })
    };
    let voices = read_ascending(reader, count, VOICE_BYTES, WHAT, read, |voice| {
        voice.learner
    })?;
    Ok(SnapshotCertificate { snapshot, voices })
}

fn read_snapshot(reader: &mut Reader<'_>) -> Result<Snapshot, WireError> {
    Ok(Snapshot {
        decree: Decree(reader.u64("a snapshot")?),
        chain: reader.digest("a snapshot")?,
        results: reader.digest("a snapshot")?,
        root: reader.digest("a snapshot")?,
    })
}

fn write_place(tag: u8, decree: Decree, place: u32, out: &mut Vec<u8>) {
    out.push(tag);
    out.extend_from_slice(&decree.0.to_le_bytes());
    out.extend_from_slice(&place.to_le_bytes());
}
