//! Liars that let one correct learner learn, and nobody else.
//!
//! Their leader proposes to all but f correct acceptors, their acceptors vote for the eyes of the favourite only, and
//! their learners say what the favourite says: f+1 learners have learned, so there is progress for all to see, while
//! the other learners lack one vote for ever and have one voice to pull from. The leader takes as much time for it as
//! it may.

use std::collections::{BTreeSet, VecDeque};

use twostep_engine::machine::To;
use twostep_engine::message::{Message, Status};
use twostep_engine::types::{Decree, NodeId, NodeSet, Party, Regency, Time};

use super::Strategy;
use super::liar::Mouth;

/// One of them; all of them together choose the same favourite.
#[derive(Default)]
pub struct Favourer {
    waiting: VecDeque<(Regency, Decree, NodeSet, Message<'static>)>,
    said: BTreeSet<(Regency, Decree)>,
    next: Time,
    /// What it acknowledged because the favourite did.
    acknowledged: Decree,
}

/// Proposals that it keeps in mind.
const PROPOSALS_MAX: usize = 1024;

impl Strategy for Favourer {
    fn say(&mut self, to: To, message: &Message<'_>, mouth: &mut Mouth<'_>) -> bool {
        let To::Nodes(nodes) = to else { return false };
        let favourite = NodeSet::one(favourite(mouth));
        match message {
            Message::Propose {
                regency,
                decree,
                value,
                body,
            } => {
                let proposal = Message::Propose {
                    regency: *regency,
                    decree: *decree,
                    value: *value,
                    body: body.clone(),
                };
                let told = self.told(nodes, mouth);
                if self.said.contains(&(*regency, *decree)) {
                    mouth.lie(told, &proposal);
                } else if self.waiting.len() < PROPOSALS_MAX {
                    self.next = self.next.max(mouth.now);
                    let entry = (*regency, *decree, told, proposal);
                    if !self
                        .waiting
                        .iter()
                        .any(|waits| (waits.0, waits.1) == (*regency, *decree))
                    {
                        self.waiting.push_back(entry);
                    }
                }
                true
            }
            Message::Accepted { .. }
            | Message::Pulled { .. }
            | Message::Fetched { .. }
            | Message::Checkpoint(_) => {
                mouth.withhold(To::Nodes(nodes.minus(favourite)));
                mouth.truth(nodes.minus(nodes.minus(favourite)), message);
                true
            }
            _ => false,
        }
    }

    fn hear(&mut self, from: Party, message: &Message<'_>, mouth: &mut Mouth<'_>) -> bool {
        let learns = mouth
            .means
            .configuration
            .learners()
            .contains(mouth.means.me);
        match (from, message) {
            (
                Party::Node(node),
                Message::Ack { learned } | Message::Status(Status { learned, .. }),
            ) if node == favourite(mouth) => {
                mouth.plot.progressed(*learned);
            }
            // What the favourite executed is settled as soon as one more learner says so.
            (Party::Node(node), Message::AskSettled { names, .. }) if learns => {
                let names = *names;
                mouth.lie(NodeSet::one(node), &Message::Settled { names });
            }
            _ => {}
        }
        true
    }

    fn tick(&mut self, mouth: &mut Mouth<'_>) {
        let learned = mouth.plot.progress();
        let learns = mouth
            .means
            .configuration
            .learners()
            .contains(mouth.means.me);
        if learns && learned > self.acknowledged {
            self.acknowledged = learned;
            let everyone = mouth.means.configuration.nodes();
            mouth.lie(everyone, &Message::Ack { learned });
        }
        if self.next > mouth.now {
            return;
        }
        if let Some((regency, decree, told, proposal)) = self.waiting.pop_front() {
            self.next = mouth.now + mouth.means.timeout() * 8 / 10;
            mouth.lie(told, &proposal);
            self.said.insert((regency, decree));
            if self.said.len() > PROPOSALS_MAX {
                self.said.pop_first();
            }
        }
    }

    fn deadline(&self) -> Option<Time> {
        (!self.waiting.is_empty()).then_some(self.next)
    }
}

impl Favourer {
    /// All acceptors but f correct ones, and of the learners the favourite.
    fn told(&self, nodes: NodeSet, mouth: &Mouth<'_>) -> NodeSet {
        let configuration = &mouth.means.configuration;
        let correct = configuration.acceptors().minus(mouth.plot.liars());
        let kept: NodeSet = correct
            .iter()
            .take(correct.len() - configuration.f())
            .collect();
        let told = kept
            .union(mouth.plot.liars())
            .union(NodeSet::one(favourite(mouth)));
        nodes.minus(nodes.minus(told))
    }
}

fn favourite(mouth: &Mouth<'_>) -> NodeId {
    let correct = mouth
        .means
        .configuration
        .learners()
        .minus(mouth.plot.liars());
    correct.iter().next().expect("most learners are correct")
}
