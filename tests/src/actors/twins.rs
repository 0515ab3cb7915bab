//! Twins: two copies of one node with one key and a disk each, every one true to what it knows.
//!
//! Neither copy tells a lie of its own; together they vote twice, propose twice and report twice, each for the part
//! of the network that it hears. Who hears whom is drawn anew every few T0, so that twins pass through partitions,
//! leaders and regencies. Everything that the second copy says counts as a lie.

use std::collections::VecDeque;

use twostep_engine::batch::Batch;
use twostep_engine::executor::Executor;
use twostep_engine::key_value::KeyValue;
use twostep_engine::machine::{Effects, Event, Input, Machine, Question, Record, To};
use twostep_engine::message::Message;
use twostep_engine::replica::{Replica, Setup};
use twostep_engine::types::{Decree, NodeSet, Party, RecordSeq, Time};

use super::liar::Mouth;
use super::{Every, Strategy};

/// The second copy beside the replica inside the liar.
#[derive(Default)]
pub struct Twins {
    second: Option<Second>,
    split: Split,
    redraw: Every,
}

/// Which nodes hear and are heard by which copy.
#[derive(Clone, Copy, Default)]
struct Split {
    /// Those whose messages reach the first copy.
    first: NodeSet,
    /// Those whose messages reach the second one.
    second: NodeSet,
    /// Whether the copies talk to those only that they hear.
    talk: bool,
}

struct Second {
    replica: Replica,
    executor: Executor<KeyValue>,
}

impl Strategy for Twins {
    fn hear(&mut self, from: Party, message: &Message<'_>, mouth: &mut Mouth<'_>) -> bool {
        let (first, second) = match from {
            Party::Node(node) => (
                self.split.first.contains(node),
                self.split.second.contains(node),
            ),
            Party::Client(_) => {
                let side = mouth.random.below(4);
                (side != 0, side < 2)
            }
        };
        if second {
            let message = message.clone();
            self.step(Input::Message { from, message }, mouth);
        }
        first || self.second.is_none()
    }

    fn say(&mut self, to: To, message: &Message<'_>, mouth: &mut Mouth<'_>) -> bool {
        let To::Nodes(nodes) = to else { return false };
        if !self.split.talk {
            return false;
        }
        mouth.truth(nodes.minus(nodes.minus(self.split.first)), message);
        true
    }

    fn tick(&mut self, mouth: &mut Mouth<'_>) {
        if self.second.is_none() {
            self.second = mouth.means.setup().map(Second::new);
        }
        let lasting = mouth.means.t0 * u32::try_from(mouth.random.between(1, 6)).expect("small");
        if self.redraw.due(mouth.now, lasting) {
            self.split = Split::draw(mouth);
        }
        self.step(Input::Tick, mouth);
    }

    fn deadline(&self) -> Option<Time> {
        self.second.as_ref()?.replica.deadline()
    }
}

impl Twins {
    fn step(&mut self, input: Input<'_>, mouth: &mut Mouth<'_>) {
        if let Some(second) = &mut self.second {
            second.step(input, self.split, mouth);
        }
    }
}

impl Split {
    /// Each node falls to the first copy, to the second one or to both.
    fn draw(mouth: &mut Mouth<'_>) -> Split {
        let mut split = Split {
            talk: mouth.random.chance(500),
            ..Split::default()
        };
        for node in mouth.means.configuration.nodes().iter() {
            let side = mouth.random.below(5);
            if side < 3 {
                split.first.insert(node);
            }
            if side >= 2 {
                split.second.insert(node);
            }
        }
        split
    }
}

impl Second {
    fn new(setup: Setup) -> Second {
        Second {
            executor: Executor::new(&setup.configuration, KeyValue::default()),
            replica: Replica::new(setup).expect("the simulator's keys are sound"),
        }
    }

    /// One step and all that follows from it at once: its disk and its execution take no time.
    fn step(&mut self, input: Input<'_>, split: Split, mouth: &mut Mouth<'_>) {
        let now = mouth.now;
        let fx = &mut Lips {
            mouth,
            split,
            stored: None,
            delivered: VecDeque::new(),
            questions: Vec::new(),
        };
        self.replica.step(now, input, fx);
        loop {
            if let Some(seq) = fx.stored.take() {
                self.replica.step(now, Input::Stored(seq), fx);
            } else if let Some((decree, batch)) = fx.delivered.pop_front() {
                let executed = self.executor.execute(decree, &batch);
                let input = Input::Executed {
                    decree,
                    replies: executed.replies,
                    results: executed.results,
                };
                self.replica.step(now, input, fx);
            } else if let Some(question) = fx.questions.pop() {
                if let Some(answer) = self.executor.answer(&question) {
                    self.replica.step(now, answer, fx);
                }
            } else {
                return;
            }
        }
    }
}

/// Between the second copy and the world.
struct Lips<'a, 'm> {
    mouth: &'a mut Mouth<'m>,
    split: Split,
    stored: Option<RecordSeq>,
    delivered: VecDeque<(Decree, Batch)>,
    questions: Vec<Question>,
}

impl Effects for Lips<'_, '_> {
    fn send(&mut self, to: To, message: &Message<'_>) {
        match to {
            To::Nodes(nodes) if self.split.talk => {
                let heard = nodes.minus(nodes.minus(self.split.second));
                self.mouth.lie(heard, message);
            }
            To::Nodes(nodes) => self.mouth.lie(nodes, message),
            To::Client(_) => self.mouth.lie_to(to, message),
        }
    }

    fn store(&mut self, seq: RecordSeq, _record: &Record<'_>) {
        self.stored = Some(seq);
    }

    fn deliver(&mut self, decree: Decree, batch: &Batch) {
        self.delivered.push_back((decree, batch.clone()));
    }

    fn ask(&mut self, question: Question) {
        self.questions.push(question);
    }

    fn observe(&mut self, _event: Event) {}
}
