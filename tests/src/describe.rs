//! Messages, inputs and effects as one line each, for transcripts that people read.

use std::fmt::Write as _;

use twostep_engine::machine::{Event, Record};
use twostep_engine::message::{Message, Outcome, ReplyEntries};
use twostep_engine::types::{NodeId, NodeSet, Regency, Value};

/// A message in one line.
#[must_use]
pub fn message(message: &Message<'_>) -> String {
    match message {
        Message::Submit { retry, bundle } => {
            format!(
                "Submit{} {} B",
                if *retry { " again" } else { "" },
                bundle.len()
            )
        }
        Message::Propose {
            regency,
            decree,
            value,
            body,
        } => {
            format!(
                "Propose r{regency} d{decree} {} ({} B)",
                short(*value),
                body.len()
            )
        }
        Message::Accepted {
            regency,
            decree,
            value,
        } => format!("Accepted r{regency} d{decree} {}", short(*value)),
        Message::Ack { learned } => format!("Ack {learned}"),
        Message::Checkpoint(claim) => format!(
            "Checkpoint {} of n{}",
            claim.checkpoint.decree, claim.learner.0
        ),
        Message::Certificate(certificate) => {
            let voices: Vec<u16> = certificate
                .voices
                .iter()
                .map(|voice| voice.learner.0)
                .collect();
            format!("Certificate {} by {voices:?}", certificate.decree)
        }
        Message::Status(status) => format!(
            "Status r{} low {} learned {}{}",
            status.regency,
            status.low,
            status.learned,
            if status.abstaining { " abstaining" } else { "" }
        ),
        Message::Pull { first, count } => format!("Pull {count} from d{first}"),
        Message::Pulled { first, values } => format!("Pulled {} from d{first}", values.len()),
        Message::Fetch { decree, value } => format!("Fetch d{decree} {}", short(*value)),
        Message::Fetched {
            decree,
            value,
            body,
        } => format!("Fetched d{decree} {} ({} B)", short(*value), body.len()),
        Message::Replies { regency, entries } => replies("Replies", *regency, *entries),
        Message::RepliesDigest { regency, digest } => {
            format!("RepliesDigest r{regency} {}", short(Value(*digest)))
        }
        Message::Found { regency, entries } => replies("Found", *regency, *entries),
        Message::Busy {
            regency,
            retry_after_ms,
        } => format!("Busy r{regency}, again after {retry_after_ms} ms"),
        Message::Vote(vote) => format!("Vote r{}", vote.content.regency),
        Message::Proof(proof) => format!("Proof of {} votes", proof.votes.len()),
        Message::Gather { regency, .. } => format!("Gather r{regency}"),
        Message::Report(report) => format!(
            "Report r{} of {} votes",
            report.content.regency,
            report.content.votes.len()
        ),
        Message::NewRegency(new) => format!(
            "NewRegency r{} with {} reports",
            new.regency,
            new.voucher.len()
        ),
        Message::Denied(proof) => format!("Denied by {} votes", proof.votes.len()),
        Message::AskSettled { names, .. } => format!("AskSettled {} requests", names.len()),
        Message::Settled { names } => format!("Settled {} requests", names.len()),
        Message::NackAuth {
            regency, decree, ..
        } => format!("NackAuth r{regency} d{decree}"),
        Message::AckAuth {
            regency, decree, ..
        } => format!("AckAuth r{regency} d{decree}"),
        Message::WantSignature { regency, .. } => format!("WantSignature r{regency}"),
        Message::BundleSignature { .. } => "BundleSignature".to_owned(),
        Message::Snapshot(claim) => format!("Snapshot d{}", claim.snapshot.decree),
        Message::SnapshotCertificate(certificate) => format!(
            "SnapshotCertificate d{} of {} voices",
            certificate.snapshot.decree,
            certificate.voices.len()
        ),
        Message::AskSnapshot { above } => format!("AskSnapshot above d{above}"),
        Message::FetchChunk { decree, place } => format!("FetchChunk d{decree} #{place}"),
        Message::Chunk {
            decree,
            place,
            bytes,
        } => format!("Chunk d{decree} #{place} of {} B", bytes.len()),
        Message::Recall => "Recall".to_owned(),
        Message::Recalled(recalled) => format!(
            "Recalled r{}, voted r{}, low {}",
            recalled.regency,
            recalled.voted,
            recalled.low.as_ref().map_or(0, |low| low.decree.0)
        ),
    }
}

/// The name of a message's kind.
#[must_use]
pub fn kind(message: &Message<'_>) -> &'static str {
    match message {
        Message::Submit { .. } => "Submit",
        Message::Propose { .. } => "Propose",
        Message::Accepted { .. } => "Accepted",
        Message::Ack { .. } => "Ack",
        Message::Checkpoint(_) => "Checkpoint",
        Message::Certificate(_) => "Certificate",
        Message::Status(_) => "Status",
        Message::Pull { .. } => "Pull",
        Message::Pulled { .. } => "Pulled",
        Message::Fetch { .. } => "Fetch",
        Message::Fetched { .. } => "Fetched",
        Message::Replies { .. } => "Replies",
        Message::RepliesDigest { .. } => "RepliesDigest",
        Message::Found { .. } => "Found",
        Message::Busy { .. } => "Busy",
        Message::Vote(_) => "Vote",
        Message::Proof(_) => "Proof",
        Message::Gather { .. } => "Gather",
        Message::Report(_) => "Report",
        Message::NewRegency(_) => "NewRegency",
        Message::Denied(_) => "Denied",
        Message::AskSettled { .. } => "AskSettled",
        Message::Settled { .. } => "Settled",
        Message::NackAuth { .. } => "NackAuth",
        Message::AckAuth { .. } => "AckAuth",
        Message::WantSignature { .. } => "WantSignature",
        Message::BundleSignature { .. } => "BundleSignature",
        Message::Snapshot(_) => "Snapshot",
        Message::SnapshotCertificate(_) => "SnapshotCertificate",
        Message::AskSnapshot { .. } => "AskSnapshot",
        Message::FetchChunk { .. } => "FetchChunk",
        Message::Chunk { .. } => "Chunk",
        Message::Recall => "Recall",
        Message::Recalled(_) => "Recalled",
    }
}

/// Nodes as runs: `n0 n4-n9`.
#[must_use]
pub fn nodes(nodes: NodeSet) -> String {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for NodeId(node) in nodes.iter() {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == node => *last = node,
            _ => runs.push((node, node)),
        }
    }
    let run = |(first, last): &(u16, u16)| match last - first {
        0 => format!("n{first}"),
        1 => format!("n{first} n{last}"),
        _ => format!("n{first}-n{last}"),
    };
    runs.iter().map(run).collect::<Vec<_>>().join(" ")
}

/// A record in one line.
#[must_use]
pub fn record(record: &Record<'_>) -> String {
    match record {
        Record::Proposal {
            regency,
            decree,
            batch,
        } => format!("Proposal r{regency} d{decree} {}", short(batch.value())),
        Record::Vote {
            regency,
            decree,
            batch,
        } => format!("Vote r{regency} d{decree} {}", short(batch.value())),
        Record::Learned { decree, batch } => format!("Learned d{decree} {}", short(batch.value())),
        Record::Low(certificate) => format!("Low {}", certificate.decree),
        Record::Promise { report, .. } => format!(
            "Promise r{} with {} votes",
            report.content.regency,
            report.content.votes.len()
        ),
        Record::NewRegency(shown) => format!("NewRegency r{}", shown.regency),
        Record::RegencyVote(vote) => format!("RegencyVote r{}", vote.content.regency),
        Record::Lead(regency) => format!("Lead r{regency}"),
        Record::Entered { regency, .. } => format!("Entered r{regency}"),
        Record::Rejoined { regency, .. } => format!("Rejoined r{regency}"),
        Record::Checkpoint(claim) => format!("Checkpoint {}", claim.checkpoint.decree),
    }
}

/// An event in one line.
#[must_use]
pub fn event(event: &Event) -> String {
    match event {
        Event::Proposed {
            decree,
            value,
            bundles,
            ..
        } => format!("proposed d{decree} {} of {bundles} bundles", short(*value)),
        Event::Voted {
            regency,
            decree,
            value,
        } => format!("voted r{regency} d{decree} {}", short(*value)),
        Event::Learned {
            decree,
            value,
            path,
        } => format!("learned d{decree} {} by {path:?}", short(*value)),
        Event::Timeout { timeout } => format!("waits {timeout:?} for its leader"),
        Event::Low { decree } => format!("low {decree}"),
        Event::Regency { regency } => format!("entered r{regency}"),
        Event::Rejoined { regency } => format!("takes part again in r{regency}"),
        Event::Suspected { regency } => format!("suspects, wants r{regency}"),
        Event::Refused { from, why } => {
            let from = match from {
                twostep_engine::types::Party::Node(node) => format!("n{}", node.0),
                twostep_engine::types::Party::Client(_) => "a client".to_owned(),
            };
            format!("refused {from}: {}", why.name())
        }
        Event::Doubted { regency, decree } => format!("doubts r{regency} d{decree}"),
        Event::OnSignatures { for_good, .. } => format!(
            "puts a client on signatures{}",
            if *for_good { " for good" } else { "" }
        ),
        Event::SentAgain(what) => format!("said again: {what:?}"),
        Event::Diverged { decree } => format!("diverged at {decree}"),
        Event::SnapshotCertified { decree } => format!("knows a certified snapshot of d{decree}"),
        Event::SnapshotFailed { decree } => format!("has no snapshot of d{decree}"),
        Event::TransferBegun { decree } => format!("receives the snapshot of d{decree}"),
        Event::Installed { decree } => format!("installed the snapshot of d{decree}"),
    }
}

/// The first eight digits of a value: enough to tell the values of one run apart.
#[must_use]
pub fn short(value: Value) -> String {
    value.0.0[..4]
        .iter()
        .fold(String::from("v"), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

fn replies(name: &str, regency: Regency, entries: ReplyEntries<'_>) -> String {
    let mut line = format!("{name} r{regency}");
    for entry in entries.iter().flatten() {
        // Writing to a string cannot fail.
        let _ = write!(
            line,
            " [{} #{} d{} {}]",
            entry.session,
            entry.seq,
            entry.decree,
            outcome(&entry.outcome)
        );
    }
    line
}

fn outcome(outcome: &Outcome<'_>) -> String {
    match outcome {
        Outcome::Executed(reply) => format!("executed {} B", reply.len()),
        Outcome::ExecutedDigest(_) => "executed, digest".to_owned(),
        Outcome::Opened(session) => format!("opened {session}"),
        Outcome::Stale => "stale".to_owned(),
        Outcome::TooFar => "too far".to_owned(),
        Outcome::SeqReused => "seq reused".to_owned(),
        Outcome::SessionLapsed => "session lapsed".to_owned(),
        Outcome::ExecutedReplyGone => "executed, reply gone".to_owned(),
    }
}
