//! Lies of acceptors, and silence.

use twostep_crypto::Digest;
use twostep_engine::machine::To;
use twostep_engine::message::{Message, Report, ReportedVote};
use twostep_engine::types::{Decree, NodeSet, Party, Regency, Value};

use super::Strategy;
use super::liar::Mouth;

/// Says nothing.
pub struct Silent;

impl Strategy for Silent {
    fn say(&mut self, to: To, _message: &Message<'_>, mouth: &mut Mouth<'_>) -> bool {
        mouth.withhold(to);
        true
    }
}

/// Says that it cannot verify what it can, and vouches for whatever others cannot verify.
pub struct FalseDoubter;

impl Strategy for FalseDoubter {
    fn hear(&mut self, from: Party, message: &Message<'_>, mouth: &mut Mouth<'_>) -> bool {
        let configuration = &mouth.means.configuration;
        let proposers = mouth.means.proposers();
        let judges = configuration.acceptors().union(proposers);
        match (from, message) {
            (
                _,
                Message::Propose {
                    regency,
                    decree,
                    body,
                    ..
                },
            ) => {
                for (client, bundle) in mouth.means.bundles_of(body) {
                    let (regency, decree) = (*regency, *decree);
                    let message = Message::NackAuth {
                        regency,
                        decree,
                        client,
                        bundle,
                    };
                    mouth.lie(judges, &message);
                }
            }
            (
                Party::Node(node),
                &Message::NackAuth {
                    regency,
                    decree,
                    bundle,
                    ..
                },
            ) => {
                let message = Message::AckAuth {
                    regency,
                    decree,
                    bundle,
                };
                mouth.lie(NodeSet::one(node), &message);
            }
            _ => {}
        }
        true
    }
}

/// Tells learners different votes.
pub struct DoubleVoter;

impl Strategy for DoubleVoter {
    fn say(&mut self, to: To, message: &Message<'_>, mouth: &mut Mouth<'_>) -> bool {
        let (
            To::Nodes(to),
            &Message::Accepted {
                regency,
                decree,
                value,
            },
        ) = (to, message)
        else {
            return false;
        };
        let rival = mouth.plot.rival(decree, value);
        let rival = rival.unwrap_or_else(|| invented(mouth));
        // A vote in a regency to come would be the newest one that a learner keeps of this acceptor.
        let regency = match mouth.random.below(8) {
            0 => Regency(regency.0.saturating_add(1)),
            1 => Regency(u64::MAX),
            2 => Regency(regency.0.saturating_sub(1)),
            _ => regency,
        };
        let deceived = mouth.some(to, 500);
        let both = mouth.random.chance(300);
        mouth.lie(
            deceived,
            &Message::Accepted {
                regency,
                decree,
                value: rival,
            },
        );
        mouth.truth(if both { to } else { to.minus(deceived) }, message);
        true
    }
}

/// Reports what it did not vote, or not what it voted.
pub struct Reporter;

impl Strategy for Reporter {
    fn say(&mut self, to: To, message: &Message<'_>, mouth: &mut Mouth<'_>) -> bool {
        let (To::Nodes(to), Message::Report(report)) = (to, message) else {
            return false;
        };
        let content = invent_report(&report.content, mouth);
        let report = mouth.means.sign(content);
        mouth.lie(to, &Message::Report(Box::new(report)));
        true
    }
}

/// Another report for the same regency, valid in its form.
pub(super) fn invent_report(report: &Report, mouth: &mut Mouth<'_>) -> Report {
    let mut lie = report.clone();
    let latest = Regency(report.regency.0.saturating_sub(1));
    match mouth.random.below(5) {
        // Nothing, after voting.
        0 => lie.votes.clear(),
        // As if it knew of no checkpoint.
        1 => {
            lie.low = None;
            lie.votes.clear();
        }
        // Other values, as new as can be.
        2 | 3 => {
            for vote in &mut lie.votes {
                let rival = mouth.plot.rival(vote.decree, vote.value);
                vote.value = rival.unwrap_or_else(|| invented(mouth));
                vote.psn = latest;
            }
        }
        // Votes for the whole window.
        _ => {
            let low = lie.low.as_ref().map_or(0, |low| low.decree.0);
            let window = mouth.means.configuration.limits().window;
            lie.votes.clear();
            for decree in (low + 1..=low + window).map(Decree) {
                let nobody = Value(Digest([0; 32]));
                let value = mouth.plot.rival(decree, nobody);
                let value = value.unwrap_or_else(|| invented(mouth));
                lie.votes.push(ReportedVote {
                    decree,
                    psn: latest,
                    value,
                });
            }
        }
    }
    lie
}

/// A value that nothing hashes to.
pub(super) fn invented(mouth: &mut Mouth<'_>) -> Value {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&mouth.random.word().to_le_bytes());
    Value(Digest(bytes))
}

/// Proposes to as few acceptors as can decide, and gives nobody a body.
pub struct Withholder;

impl Strategy for Withholder {
    fn say(&mut self, to: To, message: &Message<'_>, mouth: &mut Mouth<'_>) -> bool {
        let To::Nodes(nodes) = to else { return false };
        match message {
            Message::Fetched { .. } => {
                mouth.withhold(to);
                true
            }
            Message::Propose { .. } => {
                let acceptors = mouth.means.configuration.acceptors();
                let f = mouth.means.configuration.f();
                let spared: NodeSet = acceptors.iter().take(acceptors.len() - f).collect();
                mouth.withhold(To::Nodes(nodes.minus(spared)));
                mouth.truth(nodes.minus(nodes.minus(spared)), message);
                true
            }
            _ => false,
        }
    }
}
