//! Lies in the change of leaders, and floods.

use std::collections::VecDeque;

use twostep_crypto::Signed;
use twostep_engine::machine::To;
use twostep_engine::message::{
    Message, NewRegency, ProofOfLeadership, RegencyVote, Report, Status,
};
use twostep_engine::types::{ClientId, Decree, NodeSet, Party, Regency};

use super::liar::Mouth;
use super::voting::{invent_report, invented};
use super::{Every, Strategy};

/// Shows vouchers that are none, or two that are.
#[derive(Default)]
pub struct VoucherForger {
    /// Whom it showed the second voucher of which regency, so that a repeated lie is the same lie.
    second: Option<(NewRegency, NodeSet)>,
}

impl Strategy for VoucherForger {
    fn say(&mut self, to: To, message: &Message<'_>, mouth: &mut Mouth<'_>) -> bool {
        let (To::Nodes(to), Message::NewRegency(shown)) = (to, message) else {
            return false;
        };
        let newer = |(second, _): &(NewRegency, NodeSet)| second.regency == shown.regency;
        if !self.second.as_ref().is_some_and(newer) {
            let forged = forge(shown, mouth);
            let nodes = mouth.some(mouth.means.configuration.acceptors(), 500);
            self.second = Some((forged, nodes));
        }
        let Some((forged, nodes)) = &self.second else {
            return false;
        };
        // The forgery comes first: to those that hold no plan yet.
        let deceived = to.minus(to.minus(*nodes));
        mouth.lie(deceived, &Message::NewRegency(Box::new(forged.clone())));
        // Sometimes the truth follows: what came first must have left nothing behind.
        let rest = if mouth.random.chance(300) {
            to
        } else {
            to.minus(deceived)
        };
        mouth.truth(rest, message);
        true
    }
}

fn forge(shown: &NewRegency, mouth: &mut Mouth<'_>) -> NewRegency {
    let needed = shown.voucher.len();
    let mut forged = shown.clone();
    match mouth.random.below(7) {
        // Another voucher that is valid: other reporters, and another report of its own.
        0..=2 => {
            let mut reports = mouth.plot.reports(shown.regency);
            for report in &shown.voucher {
                if let Some(signer) = report.signer.node() {
                    reports.entry(signer).or_insert_with(|| report.clone());
                }
            }
            if let Some(own) = reports.get(&mouth.means.me) {
                let lie = invent_report(&own.content.clone(), mouth);
                reports.insert(mouth.means.me, mouth.means.sign(lie));
            }
            let own = reports.remove(&mouth.means.me);
            let mut others: Vec<Signed<Report>> = reports.into_values().collect();
            let room = needed - usize::from(own.is_some()).min(needed);
            let mut voucher = mouth.random.draw(&mut others, room);
            voucher.extend(own);
            voucher.sort_by_key(|report| report.signer.node());
            forged.voucher = voucher;
        }
        // One key signs everything.
        3 => {
            let content = Report {
                regency: shown.regency,
                low: None,
                votes: Vec::new(),
            };
            let own = mouth.means.sign(content);
            forged.voucher = vec![own; needed];
        }
        // The names of others over the own signature.
        4 => {
            let acceptors = mouth.means.configuration.acceptors();
            let content = Report {
                regency: shown.regency,
                low: None,
                votes: Vec::new(),
            };
            let own = mouth.means.sign(content);
            let named = acceptors.iter().take(needed).map(|node| Signed {
                signer: Party::Node(node),
                ..own.clone()
            });
            forged.voucher = named.collect();
        }
        // Too few.
        5 => {
            forged.voucher.pop();
        }
        // What was true in an earlier regency.
        _ => match mouth.plot.voucher_below(shown.regency) {
            Some(older) => forged.voucher.clone_from(&older.voucher),
            None => forged.voucher.clear(),
        },
    }
    forged
}

/// Proves regencies by its own word.
#[derive(Default)]
pub struct ProofForger {
    every: Every,
}

impl Strategy for ProofForger {
    fn tick(&mut self, mouth: &mut Mouth<'_>) {
        if !self.every.due(mouth.now, mouth.means.t0 / 2) {
            return;
        }
        let proposers = mouth.means.configuration.proposers().to_vec();
        let place = proposers.iter().position(|node| *node == mouth.means.me);
        let (place, count) = (place.unwrap_or(0) as u64, proposers.len() as u64);
        let lap = mouth.means.regency().0 / count + 1 + mouth.random.below(3);
        // A regency that it would lead itself.
        let regency = Regency(lap * count + place);
        let own = mouth.means.sign(RegencyVote { regency });
        let needed = 2 * mouth.means.configuration.f() + 1;
        let forged = mouth.random.chance(500);
        let votes = proposers.iter().take(needed).map(|node| Signed {
            signer: if forged {
                Party::Node(*node)
            } else {
                own.signer
            },
            ..own.clone()
        });
        let proof = ProofOfLeadership {
            votes: votes.collect(),
        };
        let everyone = mouth.means.configuration.nodes();
        let acceptors = mouth.means.configuration.acceptors();
        match mouth.random.below(3) {
            0 => mouth.lie(everyone, &Message::Proof(proof)),
            1 => mouth.lie(everyone, &Message::Denied(proof)),
            _ => mouth.lie(acceptors, &Message::Gather { regency, proof }),
        }
    }
}

/// Keeps proofs to itself, and comes back with them when they are old.
#[derive(Default)]
pub struct Hoarder {
    proofs: VecDeque<ProofOfLeadership>,
    every: Every,
}

/// Proofs that a hoarder keeps.
const PROOFS_MAX: usize = 16;

impl Strategy for Hoarder {
    fn say(&mut self, to: To, message: &Message<'_>, mouth: &mut Mouth<'_>) -> bool {
        let To::Nodes(nodes) = to else { return false };
        match message {
            Message::Proof(proof) | Message::Denied(proof) => {
                if self.proofs.back() != Some(proof) && self.proofs.len() < PROOFS_MAX {
                    self.proofs.push_back(proof.clone());
                }
                mouth.withhold(to);
                true
            }
            Message::Vote(_) => {
                mouth.withhold(to);
                true
            }
            Message::Gather { .. } => {
                let kept = mouth.some(nodes, 300);
                mouth.withhold(To::Nodes(kept));
                mouth.truth(nodes.minus(kept), message);
                true
            }
            _ => false,
        }
    }

    fn tick(&mut self, mouth: &mut Mouth<'_>) {
        if self.proofs.is_empty() || !self.every.due(mouth.now, mouth.means.t0 * 3) {
            return;
        }
        if let Some(proof) = self.proofs.pop_front() {
            let some = mouth.some(mouth.means.configuration.nodes(), 500);
            mouth.lie(some, &Message::Proof(proof));
        }
    }
}

/// Votes for regencies far away.
#[derive(Default)]
pub struct Inflater {
    every: Every,
}

impl Strategy for Inflater {
    fn tick(&mut self, mouth: &mut Mouth<'_>) {
        if !self.every.due(mouth.now, mouth.means.t0) {
            return;
        }
        let now = mouth.means.regency().0;
        let regency = match mouth.random.below(4) {
            0 => now.saturating_add(1),
            1 => now.saturating_add(1 + mouth.random.below(1000)),
            _ => u64::MAX,
        };
        let vote = mouth.means.sign(RegencyVote {
            regency: Regency(regency),
        });
        mouth.lie(mouth.means.proposers(), &Message::Vote(vote));
    }
}

/// Says much, all of it useless.
#[derive(Default)]
pub struct Flooder {
    every: Every,
}

/// How much at a time.
const FLOOD: usize = 8;

impl Strategy for Flooder {
    fn tick(&mut self, mouth: &mut Mouth<'_>) {
        if !self.every.due(mouth.now, mouth.means.t0 / 8) {
            return;
        }
        let everyone = mouth.means.configuration.nodes();
        let learners = mouth.means.configuration.learners();
        for _ in 0..FLOOD {
            let number = mouth.random.word() >> mouth.random.below(64);
            let (regency, decree) = (Regency(number), Decree(number));
            let value = invented(mouth);
            let vote = mouth.means.sign(RegencyVote { regency });
            let proof = ProofOfLeadership {
                votes: vec![vote.clone()],
            };
            let (client, bundle) = (ClientId([7; 16]), value.0);
            match mouth.random.below(9) {
                0 => mouth.lie(everyone, &Message::Vote(vote)),
                1 => mouth.lie(everyone, &Message::Gather { regency, proof }),
                2 => mouth.lie(
                    learners,
                    &Message::Accepted {
                        regency,
                        decree,
                        value,
                    },
                ),
                3 => mouth.lie(
                    learners,
                    &Message::Pull {
                        first: decree,
                        count: u32::MAX,
                    },
                ),
                4 => mouth.lie(everyone, &Message::Fetch { decree, value }),
                5 => mouth.lie(
                    everyone,
                    &Message::NackAuth {
                        regency: mouth.means.regency(),
                        decree: mouth.means.low().next(),
                        client,
                        bundle,
                    },
                ),
                6 => mouth.lie(
                    everyone,
                    &Message::AckAuth {
                        regency,
                        decree,
                        bundle,
                    },
                ),
                7 => mouth.lie(
                    everyone,
                    &Message::BundleSignature {
                        client,
                        bundle,
                        signature: vote.signature,
                    },
                ),
                _ => mouth.lie(
                    everyone,
                    &Message::Status(Status {
                        regency,
                        plan_held: false,
                        abstaining: false,
                        low: decree,
                        learned: decree,
                    }),
                ),
            }
        }
    }
}
