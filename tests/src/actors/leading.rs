//! Lies of leaders.

use std::collections::{BTreeMap, VecDeque};

use twostep_engine::machine::To;
use twostep_engine::message::Message;
use twostep_engine::types::{Decree, NodeId, NodeSet, Party, Regency, Time};
use twostep_net::pool::Body;

use super::liar::{Means, Mouth};
use super::{Every, Strategy};

/// Proposals whose distribution is remembered, so that a repeated lie is the same lie.
const PROPOSALS_MAX: usize = 2048;

/// Proposes different values for one decree.
pub struct Equivocator {
    all_different: bool,
    /// Which variant each node gets; an empty list is the truth for all.
    faces: BTreeMap<(Regency, Decree), Vec<(usize, NodeSet)>>,
}

impl Equivocator {
    /// One value to 2f+1 acceptors, another to f, a third to the rest.
    #[must_use]
    pub fn split() -> Equivocator {
        Equivocator {
            all_different: false,
            faces: BTreeMap::new(),
        }
    }

    /// Another value to every acceptor.
    #[must_use]
    pub fn all_different() -> Equivocator {
        Equivocator {
            all_different: true,
            faces: BTreeMap::new(),
        }
    }

    fn draw(&self, mouth: &mut Mouth<'_>) -> Vec<(usize, NodeSet)> {
        if mouth.random.chance(400) {
            return Vec::new();
        }
        let configuration = &mouth.means.configuration;
        let f = configuration.f();
        let me = NodeSet::one(mouth.means.me);
        let mut acceptors: Vec<NodeId> = configuration.acceptors().minus(me).iter().collect();
        let learners = configuration.learners().minus(configuration.acceptors());
        let order = mouth.random.draw(&mut acceptors, usize::MAX);
        if self.all_different {
            let faces = order.iter().enumerate();
            return faces
                .map(|(place, node)| (place, NodeSet::one(*node)))
                .collect();
        }
        // The own vote goes with whichever value it is told for.
        let told = (2 * f + 1).min(order.len());
        let second = (3 * f + 1).min(order.len());
        let mut faces = vec![
            (0, order[told..second].iter().copied().collect()),
            (1, order[second..].iter().copied().collect()),
        ];
        faces.push((0, mouth.some(learners, 400)));
        faces
    }
}

impl Strategy for Equivocator {
    fn say(&mut self, to: To, message: &Message<'_>, mouth: &mut Mouth<'_>) -> bool {
        let (
            To::Nodes(to),
            Message::Propose {
                regency,
                decree,
                body,
                ..
            },
        ) = (to, message)
        else {
            return false;
        };
        let key = (*regency, *decree);
        if !self.faces.contains_key(&key) {
            let faces = self.draw(mouth);
            self.faces.insert(key, faces);
            if self.faces.len() > PROPOSALS_MAX {
                self.faces.pop_first();
            }
        }
        let mut rest = to;
        for (variant, nodes) in self.faces.get(&key).into_iter().flatten() {
            let told = rest.minus(rest.minus(*nodes));
            rest = rest.minus(told);
            mouth.lie(
                told,
                &variant_of(mouth.means, *regency, *decree, body, *variant),
            );
        }
        mouth.truth(rest, message);
        true
    }
}

fn variant_of(
    means: &Means,
    regency: Regency,
    decree: Decree,
    body: &Body,
    variant: usize,
) -> Message<'static> {
    let batch = means.variant(body, variant);
    Message::Propose {
        regency,
        decree,
        value: batch.value(),
        body: batch.body().clone(),
    }
}

/// Proposes for the whole window what it will not propose again, each to some acceptors only.
#[derive(Default)]
pub struct Poisoner {
    poisoned: Option<Regency>,
}

impl Strategy for Poisoner {
    fn say(&mut self, _to: To, message: &Message<'_>, mouth: &mut Mouth<'_>) -> bool {
        let Message::Propose {
            regency,
            decree,
            body,
            ..
        } = message
        else {
            return false;
        };
        // Not with the first decree of a regency: something is to be decided between the poison.
        if self.poisoned >= Some(*regency) || !mouth.random.chance(200) {
            return false;
        }
        self.poisoned = Some(*regency);
        let window = mouth.means.configuration.limits().window;
        let acceptors = mouth.means.configuration.acceptors();
        let top = mouth.means.low().0.saturating_add(window);
        for poisoned in (decree.0 + 1..=top).map(Decree) {
            let first = mouth.some(acceptors, 500);
            let variants = (
                usize::try_from(mouth.random.below(3)).expect("small"),
                usize::try_from(mouth.random.below(3)).expect("small"),
            );
            mouth.lie(
                first,
                &variant_of(mouth.means, *regency, poisoned, body, variants.0),
            );
            if mouth.random.chance(500) {
                mouth.lie(
                    acceptors.minus(first),
                    &variant_of(mouth.means, *regency, poisoned, body, variants.1),
                );
            }
        }
        false
    }
}

/// Proposes where it may not.
#[derive(Default)]
pub struct Stale {
    every: Every,
    newest: Option<(Decree, Body)>,
}

impl Strategy for Stale {
    fn hear(&mut self, _from: Party, message: &Message<'_>, _mouth: &mut Mouth<'_>) -> bool {
        if let Message::Propose { decree, body, .. } = message {
            self.newest = Some((*decree, body.clone()));
        }
        true
    }

    fn say(&mut self, to: To, message: &Message<'_>, mouth: &mut Mouth<'_>) -> bool {
        let (
            To::Nodes(to),
            Message::Propose {
                regency,
                decree,
                body,
                ..
            },
        ) = (to, message)
        else {
            return false;
        };
        self.newest = Some((*decree, body.clone()));
        // Above regency 0 a plan binds most of what is proposed first.
        if *regency == Regency(0) || !mouth.random.chance(200) {
            return false;
        }
        let variant = usize::try_from(mouth.random.below(3)).expect("small");
        mouth.lie(
            to,
            &variant_of(mouth.means, *regency, *decree, body, variant),
        );
        mouth.random.chance(500)
    }

    fn tick(&mut self, mouth: &mut Mouth<'_>) {
        let Some((newest, body)) = self.newest.clone() else {
            return;
        };
        if !self.every.due(mouth.now, mouth.means.t0 / 2) {
            return;
        }
        let proposers = mouth.means.configuration.proposers();
        let me = proposers.iter().position(|node| *node == mouth.means.me);
        let (me, count) = (me.unwrap_or(0) as u64, proposers.len() as u64);
        let now = mouth.means.regency().0;
        let lap = now / count;
        let regency = *mouth.random.pick(&[
            me,
            lap.saturating_sub(1) * count + me,
            (lap + 1) * count + me,
            now,
            u64::MAX - u64::MAX % count - count + me,
            u64::MAX,
        ]);
        let window = mouth.means.configuration.limits().window;
        let low = mouth.means.low().0;
        let decree = *mouth.random.pick(&[
            0,
            low,
            low.saturating_add(1),
            newest.0,
            newest.0.saturating_add(1),
            low.saturating_add(window),
            low.saturating_add(window + 1),
            u64::MAX,
        ]);
        let variant = usize::try_from(mouth.random.below(3)).expect("small");
        let configuration = &mouth.means.configuration;
        let everyone = configuration.acceptors().union(configuration.learners());
        let lie = variant_of(
            mouth.means,
            Regency(regency),
            Decree(decree),
            &body,
            variant,
        );
        mouth.lie(everyone, &lie);
    }
}

/// Proposes bundles of honest clients with tags that only one acceptor can verify, and never asks for signatures.
pub struct TagSpoiler;

impl Strategy for TagSpoiler {
    fn say(&mut self, to: To, message: &Message<'_>, mouth: &mut Mouth<'_>) -> bool {
        match (to, message) {
            (To::Client(_), Message::WantSignature { .. }) => {
                mouth.withhold(to);
                true
            }
            (
                To::Nodes(to),
                Message::Propose {
                    regency,
                    decree,
                    value,
                    body,
                },
            ) => {
                let Some(spoilt) = mouth.means.with_bad_tags(body) else {
                    return false;
                };
                let message = Message::Propose {
                    regency: *regency,
                    decree: *decree,
                    value: *value,
                    body: spoilt,
                };
                mouth.lie(to, &message);
                true
            }
            _ => false,
        }
    }
}

/// Is deaf for some clients while it leads.
pub struct Censor;

impl Strategy for Censor {
    fn hear(&mut self, _from: Party, message: &Message<'_>, mouth: &mut Mouth<'_>) -> bool {
        let Message::Submit { bundle, .. } = message else {
            return true;
        };
        if !mouth.means.leads() || !is_censored(mouth.means, bundle) {
            return true;
        }
        // What it does not propose is kept from everyone; one correct learner stands for them.
        let learners = mouth.means.configuration.learners();
        let learner = learners.iter().find(|node| *node != mouth.means.me);
        if let Some(learner) = learner {
            mouth.withhold(To::Nodes(NodeSet::one(learner)));
        }
        false
    }
}

/// Half of the clients, by the first byte of their names.
fn is_censored(means: &Means, bundle: &[u8]) -> bool {
    means
        .client_of(bundle)
        .is_some_and(|client| client.0[0].is_multiple_of(2))
}

/// Proposes once in 1.01 T, T the time-out that correct nodes have by now.
#[derive(Default)]
pub struct Slow {
    waiting: VecDeque<(NodeSet, Message<'static>)>,
    next: Time,
}

/// Proposals that a slow leader keeps; later ones it forgets until they are said again.
const WAITING_MAX: usize = 64;

impl Strategy for Slow {
    fn say(&mut self, to: To, message: &Message<'_>, mouth: &mut Mouth<'_>) -> bool {
        let (
            To::Nodes(to),
            Message::Propose {
                regency,
                decree,
                value,
                body,
            },
        ) = (to, message)
        else {
            return false;
        };
        if self.waiting.is_empty() {
            self.next = self.next.max(mouth.now + mouth.means.timeout() * 101 / 100);
        }
        let known = self.waiting.iter().any(|(_, waiting)| waiting == message);
        if !known && self.waiting.len() < WAITING_MAX {
            let message = Message::Propose {
                regency: *regency,
                decree: *decree,
                value: *value,
                body: body.clone(),
            };
            self.waiting.push_back((to, message));
        }
        true
    }

    fn tick(&mut self, mouth: &mut Mouth<'_>) {
        if self.waiting.is_empty() || mouth.now < self.next {
            return;
        }
        self.next = mouth.now + mouth.means.timeout() * 101 / 100;
        if let Some((to, message)) = self.waiting.pop_front() {
            mouth.lie(to, &message);
        }
    }

    fn deadline(&self) -> Option<Time> {
        (!self.waiting.is_empty()).then_some(self.next)
    }
}
