//! What a lane hands to the order loop: all that one turn of the lane brought, as one item of the queue.
//!
//! Handing over costs an atomic or two and perhaps a wake-up, whatever is in the chunk, so messages do not pay for it one by one. Chunks go round: the
//! order loop gives them back empty, with their memory.

use std::vec::Drain;

use twostep_net::LinkId;

use crate::node::report::LinksReport;
use crate::prechecked::Prechecked;
use crate::types::Party;

/// A chunk of so many bytes is handed over before the turn ends, so that the order loop works while the lane reads on.
const FULL_BYTES: usize = 128 << 10;
/// The same for prechecked messages.
const FULL_PRECHECKED: usize = 32;
/// How much memory an empty chunk keeps. Bytes.
const KEPT_BYTES: usize = 1 << 20;
/// The same for arrivals.
const KEPT_ARRIVALS: usize = 1 << 14;

/// What a lane has for the order loop, in the order of its arrival.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    arrivals: Vec<Arrival>,
    bytes: Vec<u8>,
    prechecked: Vec<Prechecked>,
    reports: Vec<(u64, LinksReport)>,
}

#[derive(Clone, Copy, Debug)]
enum Arrival {
    Bytes { from: Party, len: usize },
    Prechecked,
    Up { link: LinkId, party: Party },
    Down { link: LinkId, party: Party },
    Report,
}

/// One thing that a lane has for the order loop.
#[derive(Debug)]
pub(super) enum Item<'a> {
    /// A message as it came.
    Bytes {
        /// From whom.
        from: Party,
        /// The message.
        bytes: &'a [u8],
    },
    /// A message that the lane has checked.
    Prechecked(Prechecked),
    /// A link of the lane is up.
    Up {
        /// Which.
        link: LinkId,
        /// To whom.
        party: Party,
    },
    /// It is up no more.
    Down {
        /// Which.
        link: LinkId,
        /// To whom.
        party: Party,
    },
    /// What the lane's links have done, as it was asked, with the round of the question.
    Report(u64, Box<LinksReport>),
}

impl Chunk {
    pub fn is_empty(&self) -> bool {
        self.arrivals.is_empty()
    }

    /// Whether it is worth handing over within a turn.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= FULL_BYTES || self.prechecked.len() >= FULL_PRECHECKED
    }

    pub fn push_bytes(&mut self, from: Party, bytes: &[u8]) {
        let len = bytes.len();
        self.arrivals.push(Arrival::Bytes { from, len });
        self.bytes.extend_from_slice(bytes);
    }

    pub fn push_prechecked(&mut self, message: Prechecked) {
        self.arrivals.push(Arrival::Prechecked);
        self.prechecked.push(message);
    }

    pub fn push_up(&mut self, link: LinkId, party: Party) {
        self.arrivals.push(Arrival::Up { link, party });
    }

    pub fn push_down(&mut self, link: LinkId, party: Party) {
        self.arrivals.push(Arrival::Down { link, party });
    }

    pub fn push_report(&mut self, round: u64, report: LinksReport) {
        self.arrivals.push(Arrival::Report);
        self.reports.push((round, report));
    }

    /// Takes everything out, in order.
    pub fn drain(&mut self) -> Items<'_> {
        Items {
            arrivals: self.arrivals.drain(..),
            bytes: &self.bytes,
            prechecked: self.prechecked.drain(..),
            reports: self.reports.drain(..),
        }
    }

    /// Makes it as new, with its memory up to a bound.
    pub fn clear(&mut self) {
        self.arrivals.clear();
        self.arrivals.shrink_to(KEPT_ARRIVALS);
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
        self.prechecked.clear();
        self.reports.clear();
    }
}

/// The items of a chunk.
pub(super) struct Items<'a> {
    arrivals: Drain<'a, Arrival>,
    bytes: &'a [u8],
    prechecked: Drain<'a, Prechecked>,
    reports: Drain<'a, (u64, LinksReport)>,
}

impl<'a> Iterator for Items<'a> {
    type Item = Item<'a>;

    fn next(&mut self) -> Option<Item<'a>> {
        Some(match self.arrivals.next()? {
            Arrival::Bytes { from, len } => {
                let (bytes, rest) = self.bytes.split_at(len);
                self.bytes = rest;
                Item::Bytes { from, bytes }
            }
            Arrival::Prechecked => Item::Prechecked(
                self.prechecked
                    .next()
                    .expect("one was pushed with its arrival"),
            ),
            Arrival::Up { link, party } => Item::Up { link, party },
            Arrival::Down { link, party } => Item::Down { link, party },
            Arrival::Report => {
                let report = self.reports.next();
                let (round, report) = report.expect("one was pushed with its arrival");
                Item::Report(round, Box::new(report))
            }
        })
    }
}
