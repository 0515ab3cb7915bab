//! One node of a world: the machine under test, its executor, its disk, and what lies between them.
//!
//! It does what the real node does around a replica (DESIGN section 2), with virtual time in the place of
//! threads: records are durable later, decrees are executed later, and a turn ends a little after its first input.

use std::collections::VecDeque;
use std::time::Duration;

use twostep_engine::batch::Batch;
use twostep_engine::executor::Executor;
use twostep_engine::key_value::KeyValue;
use twostep_engine::machine::{
    Effects, Event, JournalState, Machine, Question, Record, SnapshotNews, To,
};
use twostep_engine::message::Message;
use twostep_engine::record::OwnedRecord;
use twostep_engine::replica::Standing;
use twostep_engine::snapshot::Keeper;
use twostep_engine::types::{Decree, NodeId, RecordSeq, Time};
use twostep_engine::wire;
use twostep_net::pool::{Body, Pool};

use crate::checkers::Finding;
use crate::checkers::said::SaidChecker;
use crate::describe;
use crate::disk::Disk;
use crate::shelf::Shelf;

/// One node.
pub struct Host {
    /// The machine; none while the node is down.
    pub machine: Option<Box<dyn Machine>>,
    /// Applies what the machine delivers; taken out only while it executes.
    pub executor: Option<Executor<KeyValue>>,
    /// Keeps its snapshots.
    pub keeper: Keeper,
    /// Where they lie.
    pub shelf: Shelf,
    /// The certified snapshots that its keeper holds, ascending.
    pub held: Vec<Decree>,
    /// Whether its state was damaged, and it has not installed another one since.
    pub corrupt: bool,
    /// Keeps what the machine stores.
    pub disk: Disk,
    /// Delivered and not yet executed.
    pub backlog: VecDeque<(Decree, Batch)>,
    /// When the next turn ends, if that is known.
    pub tick_at: Option<Time>,
    /// Counts starts: what was on its way to an earlier run is void.
    pub run: u32,
    /// The newest certified checkpoint it knows of.
    pub low: Decree,
    /// How long it waits for its leader, if it proposes.
    pub timeout: Duration,
    /// What its journal says of itself.
    pub journal: JournalState,
    /// Whether it ever lost its disk.
    pub standing: Standing,
    /// Whether it is down, or ever lost its disk; such a node counts among the f.
    pub faulty: bool,
}

impl Host {
    /// The keeper has news: of what it holds, perhaps.
    pub fn note_held(&mut self, news: &SnapshotNews) {
        match news {
            SnapshotNews::Held(certificate) => {
                self.held.push(certificate.snapshot.decree);
                self.held.sort_unstable();
                self.held.dedup();
            }
            SnapshotNews::Dropped { decree } => self.held.retain(|held| held != decree),
            _ => {}
        }
    }

    /// The oldest of the certified snapshots that it holds, if it is not the only one: its journal may have lost what that holds.
    #[must_use]
    pub fn covered(&self) -> Decree {
        let oldest = self.held.first().filter(|_| self.held.len() > 1);
        oldest.copied().unwrap_or(Decree::NONE)
    }
}

/// What a machine wants done, in the order in which it said so.
#[derive(Debug)]
pub enum Wish {
    /// Send these bytes.
    Send {
        /// To whom.
        to: To,
        /// The message in wire form.
        bytes: Body,
    },
    /// Make these durable, the last of which has this number.
    Store(RecordSeq, Vec<OwnedRecord>),
    /// Execute this.
    Deliver(Decree, Batch),
    /// Ask the session table this.
    Ask(Question),
    /// Something happened.
    Observe(Event),
}

/// Takes a machine's effects, and lets the checkers see what is said at the moment it is said.
pub struct Collector<'a> {
    /// Whose effects these are.
    pub node: NodeId,
    /// In order.
    pub wishes: &'a mut Vec<Wish>,
    /// Judges what is said.
    pub said: &'a mut SaidChecker,
    /// The first thing that was found wrong.
    pub finding: &'a mut Option<Finding>,
    /// Where messages are kept.
    pub pool: &'a Pool,
    /// Reused from message to message.
    pub scratch: &'a mut Vec<u8>,
    /// Descriptions of effects, if somebody reads them.
    pub lines: Option<&'a mut Vec<String>>,
}

impl Effects for Collector<'_> {
    fn send(&mut self, to: To, message: &Message<'_>) {
        if let Err(finding) = self.said.said(self.node, message) {
            self.finding.get_or_insert(finding);
        }
        self.scratch.clear();
        wire::encode(message, self.scratch);
        self.wishes.push(Wish::Send {
            to,
            bytes: self.pool.copy(self.scratch),
        });
        if let Some(lines) = &mut self.lines {
            let to = match to {
                To::Nodes(nodes) => describe::nodes(nodes),
                To::Client(_) => "its client".to_owned(),
            };
            lines.push(format!(
                "n{} says to {to}: {}",
                self.node.0,
                describe::message(message)
            ));
        }
    }

    fn store(&mut self, seq: RecordSeq, record: &Record<'_>) {
        self.said.stored(self.node, seq, record);
        match self.wishes.last_mut() {
            // Records in a row are one group, as in a journal with group commit.
            Some(Wish::Store(last, group)) => {
                *last = seq;
                group.push(record.owned());
            }
            _ => self.wishes.push(Wish::Store(seq, vec![record.owned()])),
        }
        if let Some(lines) = &mut self.lines {
            lines.push(format!(
                "n{} stores #{}: {}",
                self.node.0,
                seq.0,
                describe::record(record)
            ));
        }
    }

    fn deliver(&mut self, decree: Decree, batch: &Batch) {
        self.wishes.push(Wish::Deliver(decree, batch.clone()));
    }

    fn ask(&mut self, question: Question) {
        self.wishes.push(Wish::Ask(question));
    }

    fn observe(&mut self, event: Event) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("n{} {}", self.node.0, describe::event(&event)));
        }
        self.wishes.push(Wish::Observe(event));
    }
}
