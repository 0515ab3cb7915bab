//! What can be shown to third parties: checkpoints, certificates, proofs of leadership, reports and vouchers.

use twostep_crypto::{Context, Party, Signable, Signed};

use crate::message::{
    Certificate, Checkpoint, CheckpointClaim, NewRegency, ProofOfLeadership, Recalled, RegencyVote,
    Report, ReportedVote, Voice, WireError,
};
use crate::types::{Decree, NodeId, Regency, Value};

use super::bounds::Bounds;
use super::cursor::{Reader, count, length};

const VOICE_BYTES: usize = 2 + 32 + 64;
const REGENCY_VOTE_BYTES: usize = 2 + 8 + 64;
const REPORTED_VOTE_BYTES: usize = 8 + 8 + 32;

/// Appends a report as it travels, which is also how it is signed.
///
/// # Panics
/// If it holds 2^32 votes or 2^16 voices: no acceptor makes such reports.
pub fn write_report(report: &Report, out: &mut Vec<u8>) {
    out.extend_from_slice(&report.regency.0.to_le_bytes());
    out.push(u8::from(report.low.is_some()));
    if let Some(low) = &report.low {
        write_certificate(low, out);
    }
    out.extend_from_slice(&length(report.votes.len()).to_le_bytes());
    for vote in &report.votes {
        out.extend_from_slice(&vote.decree.0.to_le_bytes());
        out.extend_from_slice(&vote.psn.0.to_le_bytes());
        out.extend_from_slice(&vote.value.0.0);
    }
}

impl Signable for Report {
    const CONTEXT: Context = Context::Report;
    fn write_signable(&self, out: &mut Vec<u8>) {
        write_report(self, out);
    }
}

pub(super) fn write_claim(claim: &CheckpointClaim, out: &mut Vec<u8>) {
    claim.checkpoint.write_signable(out);
    out.extend_from_slice(&claim.learner.0.to_le_bytes());
    out.extend_from_slice(&claim.signature.0);
}

pub(super) fn read_claim(reader: &mut Reader<'_>) -> Result<CheckpointClaim, WireError> {
    Ok(CheckpointClaim {
        checkpoint: Checkpoint {
            decree: Decree(reader.u64("a checkpoint")?),
            chain: reader.digest("a checkpoint")?,
            results: reader.digest("a checkpoint")?,
        },
        learner: reader.node("a checkpoint")?,
        signature: reader.signature("a checkpoint")?,
    })
}

pub(super) fn write_certificate(certificate: &Certificate, out: &mut Vec<u8>) {
    out.extend_from_slice(&certificate.decree.0.to_le_bytes());
    out.extend_from_slice(&certificate.chain.0);
    out.extend_from_slice(&count(certificate.voices.len()).to_le_bytes());
    for voice in &certificate.voices {
        out.extend_from_slice(&voice.learner.0.to_le_bytes());
        out.extend_from_slice(&voice.results.0);
        out.extend_from_slice(&voice.signature.0);
    }
}

pub(super) fn read_certificate(
    reader: &mut Reader<'_>,
    bounds: &Bounds,
) -> Result<Certificate, WireError> {
    const WHAT: &str = "the voices of a certificate";
    let decree = Decree(reader.u64("a certificate")?);
    let chain = reader.digest("a certificate")?;
    let count = reader.count_u16(WHAT, bounds.learners)?;
    let read = |reader: &mut Reader<'_>| {
        Ok(Voice {
            learner: reader.node(WHAT)?,
            results: reader.digest(WHAT)?,
            signature: reader.signature(WHAT)?,
        })
    };
    let voices = read_ascending(reader, count, VOICE_BYTES, WHAT, read, |voice| {
        voice.learner
    })?;
    Ok(Certificate {
        decree,
        chain,
        voices,
    })
}

pub(super) fn write_regency_vote(vote: &Signed<RegencyVote>, out: &mut Vec<u8>) {
    out.extend_from_slice(&signer(vote).0.to_le_bytes());
    out.extend_from_slice(&vote.content.regency.0.to_le_bytes());
    out.extend_from_slice(&vote.signature.0);
}

pub(super) fn read_regency_vote(reader: &mut Reader<'_>) -> Result<Signed<RegencyVote>, WireError> {
    const WHAT: &str = "a vote for a regency";
    Ok(Signed {
        signer: Party::Node(reader.node(WHAT)?),
        content: RegencyVote {
            regency: Regency(reader.u64(WHAT)?),
        },
        signature: reader.signature(WHAT)?,
    })
}

pub(super) fn write_proof(proof: &ProofOfLeadership, out: &mut Vec<u8>) {
    write_votes(&proof.votes, out);
}

fn write_votes(votes: &[Signed<RegencyVote>], out: &mut Vec<u8>) {
    out.extend_from_slice(&count(votes.len()).to_le_bytes());
    for vote in votes {
        write_regency_vote(vote, out);
    }
}

pub(super) fn read_proof(
    reader: &mut Reader<'_>,
    bounds: &Bounds,
) -> Result<ProofOfLeadership, WireError> {
    let votes = read_votes(reader, bounds, "the votes of a proof of leadership")?;
    Ok(ProofOfLeadership { votes })
}

fn read_votes(
    reader: &mut Reader<'_>,
    bounds: &Bounds,
    what: &'static str,
) -> Result<Vec<Signed<RegencyVote>>, WireError> {
    let count = reader.count_u16(what, bounds.proposers)?;
    let (bytes_min, key) = (REGENCY_VOTE_BYTES, |vote: &Signed<RegencyVote>| vote.signer);
    read_ascending(reader, count, bytes_min, what, read_regency_vote, key)
}

pub(super) fn write_signed_report(report: &Signed<Report>, out: &mut Vec<u8>) {
    out.extend_from_slice(&signer(report).0.to_le_bytes());
    write_report(&report.content, out);
    out.extend_from_slice(&report.signature.0);
}

pub(super) fn read_signed_report(
    reader: &mut Reader<'_>,
    bounds: &Bounds,
) -> Result<Signed<Report>, WireError> {
    Ok(Signed {
        signer: Party::Node(reader.node("a report")?),
        content: read_report(reader, bounds)?,
        signature: reader.signature("a report")?,
    })
}

fn read_report(reader: &mut Reader<'_>, bounds: &Bounds) -> Result<Report, WireError> {
    const WHAT: &str = "the votes of a report";
    let regency = Regency(reader.u64("a report")?);
    let low = if reader.flag("a report")? {
        Some(read_certificate(reader, bounds)?)
    } else {
        None
    };
    let count = reader.count_u32(WHAT, bounds.window)? as usize;
    let read = |reader: &mut Reader<'_>| {
        Ok(ReportedVote {
            decree: Decree(reader.u64(WHAT)?),
            psn: Regency(reader.u64(WHAT)?),
            value: Value(reader.digest(WHAT)?),
        })
    };
    let votes = read_ascending(reader, count, REPORTED_VOTE_BYTES, WHAT, read, |vote| {
        vote.decree
    })?;
    Ok(Report {
        regency,
        low,
        votes,
    })
}

pub(super) fn write_new_regency(new: &NewRegency, out: &mut Vec<u8>) {
    out.extend_from_slice(&new.regency.0.to_le_bytes());
    write_proof(&new.proof, out);
    out.extend_from_slice(&count(new.voucher.len()).to_le_bytes());
    for report in &new.voucher {
        write_signed_report(report, out);
    }
}

pub(super) fn read_new_regency(
    reader: &mut Reader<'_>,
    bounds: &Bounds,
) -> Result<NewRegency, WireError> {
    const WHAT: &str = "the reports of a voucher";
    // The shortest report has a signer, a regency, no low, no votes and a signature.
    const REPORT_BYTES_MIN: usize = 2 + 8 + 1 + 4 + 64;
    let regency = Regency(reader.u64("NewRegency")?);
    let proof = read_proof(reader, bounds)?;
    let count = reader.count_u16(WHAT, bounds.acceptors)?;
    let read = |reader: &mut Reader<'_>| read_signed_report(reader, bounds);
    let voucher = read_ascending(reader, count, REPORT_BYTES_MIN, WHAT, read, |report| {
        report.signer
    })?;
    Ok(NewRegency {
        regency,
        proof,
        voucher,
    })
}

pub(super) fn write_recalled(recalled: &Recalled, out: &mut Vec<u8>) {
    out.extend_from_slice(&recalled.regency.0.to_le_bytes());
    write_proof(&recalled.proof, out);
    out.extend_from_slice(&recalled.voted.0.to_le_bytes());
    write_votes(&recalled.support, out);
    out.push(u8::from(recalled.low.is_some()));
    if let Some(low) = &recalled.low {
        write_certificate(low, out);
    }
}

pub(super) fn read_recalled(
    reader: &mut Reader<'_>,
    bounds: &Bounds,
) -> Result<Recalled, WireError> {
    Ok(Recalled {
        regency: Regency(reader.u64("Recalled")?),
        proof: read_proof(reader, bounds)?,
        voted: Regency(reader.u64("Recalled")?),
        support: read_votes(reader, bounds, "the votes of a Recalled")?,
        low: if reader.flag("Recalled")? {
            Some(read_certificate(reader, bounds)?)
        } else {
            None
        },
    })
}

/// Reads `count` entries of at least `entry_bytes_min` bytes each, strictly ascending by `key`. Room is made only once
/// the bytes for it are known to be there: a short message cannot claim much memory.
pub(super) fn read_ascending<T, K: Ord>(
    reader: &mut Reader<'_>,
    count: usize,
    entry_bytes_min: usize,
    what: &'static str,
    read: impl Fn(&mut Reader<'_>) -> Result<T, WireError>,
    key: impl Fn(&T) -> K,
) -> Result<Vec<T>, WireError> {
    if reader.remaining() < count.saturating_mul(entry_bytes_min) {
        return Err(WireError::Truncated(what));
    }
    let mut entries: Vec<T> = Vec::with_capacity(count);
    for _ in 0..count {
        let entry = read(reader)?;
        if entries.last().is_some_and(|last| key(last) >= key(&entry)) {
            return Err(WireError::Order(what));
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn signer<T>(signed: &Signed<T>) -> NodeId {
    signed
        .signer
        .node()
        .expect("votes and reports are signed by nodes")
}
