//! What is going to happen, in the order of its time; of one moment, in the order in which it was put in.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use twostep_engine::machine::Question;
use twostep_engine::message::SnapshotCertificate;
use twostep_engine::state_machine::ChunkSource;
use twostep_engine::types::{NodeId, RecordSeq, Time};
use twostep_net::pool::Body;

use crate::network::End;

/// The queue of a world.
#[derive(Default)]
pub(super) struct Queue {
    entries: BinaryHeap<Reverse<Entry>>,
    /// How many were ever put in: the number of the last one.
    count: u64,
}

impl Queue {
    /// Puts something in.
    pub(super) fn push(&mut self, at: Time, what: Happening) {
        self.count += 1;
        self.entries.push(Reverse(Entry {
            at,
            number: self.count,
            what,
        }));
    }

    /// Takes the next thing out.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        self.entries.pop().map(|Reverse(entry)| entry)
    }

    /// When the next thing happens.
    pub(super) fn next_at(&self) -> Option<Time> {
        self.entries.peek().map(|Reverse(entry)| entry.at)
    }
}

/// Something that will happen.
pub(super) struct Entry {
    pub(super) at: Time,
    number: u64,
    pub(super) what: Happening,
}

/// What can happen. `run` is the node's run in which it was set off: if the node has stopped since, it is void.
pub(super) enum Happening {
    /// A message reaches its receiver. `runs` are those of the sender and of the receiver: a link between them is made
    /// anew when one of them starts again, and what was under way on the old one is void.
    Arrive {
        from: End,
        to: End,
        runs: (u32, u32),
        bytes: Body,
    },
    /// Records up to this one are durable.
    Stored {
        node: NodeId,
        run: u32,
        seq: RecordSeq,
    },
    /// The next delivered decree is executed.
    Execute { node: NodeId, run: u32 },
    /// The session table is asked.
    Asked {
        node: NodeId,
        run: u32,
        question: Question,
    },
    /// The keeper of a node has time for a piece of an image.
    Keep { node: NodeId, run: u32 },
    /// A snapshot goes to the executor.
    Install {
        node: NodeId,
        run: u32,
        install: Install,
    },
    /// A node's turn ends.
    Tick { node: NodeId, run: u32 },
    /// A client has its turn.
    Turn { client: usize },
    /// A stopped node starts again.
    Rejoin { node: NodeId },
    /// A journal keeps records again.
    Release { node: NodeId, run: u32 },
}

/// A snapshot and its chunks.
pub(super) struct Install {
    pub(super) certificate: Box<SnapshotCertificate>,
    pub(super) source: Box<dyn ChunkSource + Send>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}
