//! State transfer, as the learner that needs it sees it: which piece to ask of whom.
//!
//! | event | rule (PROTOCOL.md section 5.4) |
//! |---|---|
//! | a certified snapshot is needed | its manifest is asked of one that offered it; then the chunks, several at once, in turn of all that did |
//! | a piece is the right one | the next is asked for |
//! | a piece is wrong, or does not come in T0 | whoever was asked is asked last from now on, the piece goes to another one |
//! | everybody failed | after T0 from the beginning |
//! | all pieces are held | the snapshot is installed |
//!
//! *Bounds.* [`IN_FLIGHT_MAX`] pieces are asked for or on their way to the disk, so that is what a receiver holds in memory. A liar costs
//! one piece for each round of all holders.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::message::SnapshotCertificate;
use crate::types::{Decree, NodeId, NodeSet, Time};

/// The most pieces that are asked for at once, or wait to be stored.
pub const IN_FLIGHT_MAX: usize = 8;

/// One snapshot that is being received.
#[derive(Debug)]
pub struct Transfer {
    certificate: SnapshotCertificate,
    /// Whether the host is ready to take pieces in.
    ready: bool,
    /// By chunk, whether it is held; none while the manifest is not.
    held: Option<Vec<bool>>,
    lacking: usize,
    /// No chunk below this one is lacking and not asked for.
    next: usize,
    /// By place; together with `storing` at most [`IN_FLIGHT_MAX`].
    asked: BTreeMap<u32, (NodeId, Time)>,
    /// Pieces that the host checks and stores.
    storing: BTreeMap<u32, NodeId>,
    holders: NodeSet,
    /// Who gave wrong pieces, or none.
    shy: NodeSet,
    /// When the shy ones may be asked again, if nobody else is left.
    forgive_at: Time,
    turn: usize,
    moved_at: Time,
    installing: bool,
}

impl Transfer {
    /// Begins at `now`; `holders` offered the snapshot.
    #[must_use]
    pub fn new(certificate: SnapshotCertificate, holders: NodeSet, now: Time) -> Transfer {
        Transfer {
            certificate,
            ready: false,
            held: None,
            lacking: 0,
            next: 0,
            asked: BTreeMap::new(),
            storing: BTreeMap::new(),
            holders,
            shy: NodeSet::EMPTY,
            forgive_at: Time(0),
            turn: 0,
            moved_at: now,
            installing: false,
        }
    }

    /// What is being received.
    #[must_use]
    pub fn certificate(&self) -> &SnapshotCertificate {
        &self.certificate
    }

    /// After which decree it was taken.
    #[must_use]
    pub fn decree(&self) -> Decree {
        self.certificate.snapshot.decree
    }

    /// Chunks that are held, and chunks that there are; none while that is not known.
    #[must_use]
    pub fn progress(&self) -> Option<(usize, usize)> {
        let held = self.held.as_ref()?;
        Some((held.len() - self.lacking, held.len()))
    }

    /// One more node offers it.
    pub fn offered_by(&mut self, node: NodeId) {
        self.holders.insert(node);
    }

    /// When a piece came last.
    #[must_use]
    pub fn moved_at(&self) -> Time {
        self.moved_at
    }

    /// Whether it is with the executor.
    #[must_use]
    pub fn is_installing(&self) -> bool {
        self.installing
    }

    /// Whether everything is held, so that it can be installed; true once.
    pub fn completes(&mut self) -> bool {
        let complete = self.ready && self.held.is_some() && self.lacking == 0;
        let completes = complete && !self.installing;
        self.installing |= completes;
        completes
    }

    /// The host tells what it holds.
    pub fn receiving(&mut self, held: Option<Vec<bool>>, now: Time) {
        self.ready = true;
        self.lacking = held.iter().flatten().filter(|held| !**held).count();
        self.held = held;
        self.next = 0;
        self.asked.clear();
        self.storing.clear();
        self.moved_at = now;
    }

    /// A piece came; whether it was asked of this node, so that the host is to look at it.
    pub fn came(&mut self, from: NodeId, place: u32) -> bool {
        let asked = self
            .asked
            .get(&place)
            .is_some_and(|(node, _)| *node == from);
        if asked {
            self.asked.remove(&place);
            self.storing.insert(place, from);
        }
        asked
    }

    /// The host stored or refused a piece.
    pub fn kept(&mut self, from: NodeId, place: u32, good: bool, now: Time, t0: Duration) {
        self.storing.remove(&place);
        if !good {
            self.fail(from, now + t0);
            self.next = 0;
            return;
        }
        self.moved_at = now;
        let chunk = (place as usize).checked_sub(1);
        let held = self.held.as_mut().zip(chunk);
        if let Some(held) = held.and_then(|(held, chunk)| held.get_mut(chunk)) {
            self.lacking -= usize::from(!*held);
            *held = true;
        }
    }

    /// What is to be asked of whom now: `others` are the learners beside this one.
    pub fn asks(&mut self, others: NodeSet, now: Time, t0: Duration) -> Vec<(NodeId, u32)> {
        let overdue = self
            .asked
            .iter()
            .filter(|(_, (_, at))| now.since(*at) >= t0);
        let overdue: Vec<(u32, NodeId)> =
            overdue.map(|(place, (node, _))| (*place, *node)).collect();
        for (place, node) in overdue {
            self.asked.remove(&place);
            self.fail(node, now + t0);
            self.next = 0;
        }
        let mut asks = Vec::new();
        while self.ready && self.asked.len() + self.storing.len() < IN_FLIGHT_MAX {
            let Some(place) = self.lacking_place() else {
                break;
            };
            let Some(node) = self.holder(others, now) else {
                break;
            };
            self.next = place as usize;
            self.asked.insert(place, (node, now));
            asks.push((node, place));
        }
        if self.asked.is_empty() && self.forgive_at <= now {
            // Nobody is there to be asked: to look again at once would never end.
            self.forgive_at = now + t0;
        }
        asks
    }

    /// When [`Transfer::asks`] may have something new, at the latest.
    #[must_use]
    pub fn deadline(&self, t0: Duration) -> Option<Time> {
        let overdue = self.asked.values().map(|(_, at)| *at + t0).min();
        let waits =
            self.ready && !self.installing && self.asked.is_empty() && self.storing.is_empty();
        overdue.or(waits.then_some(self.forgive_at))
    }

    /// The first place that is neither held nor under way.
    fn lacking_place(&self) -> Option<u32> {
        let free =
            |place: &u32| !self.asked.contains_key(place) && !self.storing.contains_key(place);
        let Some(held) = &self.held else {
            return Some(0).filter(free);
        };
        let chunks = (self.next..held.len()).filter(|chunk| !held[*chunk]);
        let mut places =
            chunks.map(|chunk| u32::try_from(chunk + 1).expect("limits bound the chunks"));
        places.find(free)
    }

    /// The next one to be asked: those that offered it, in turn, the shy ones last.
    fn holder(&mut self, others: NodeSet, now: Time) -> Option<NodeId> {
        let known = if self.holders.is_empty() {
            others
        } else {
            self.holders
        };
        let mut willing = known.minus(self.shy);
        if willing.is_empty() {
            willing = others.minus(self.shy);
        }
        if willing.is_empty() && self.forgive_at <= now {
            self.shy = NodeSet::EMPTY;
            willing = known;
        }
        self.turn = self.turn.wrapping_add(1);
        let turn = self.turn.checked_rem(willing.len())?;
        willing.iter().nth(turn)
    }

    fn fail(&mut self, node: NodeId, forgive_at: Time) {
        self.shy.insert(node);
        self.forgive_at = self.forgive_at.max(forgive_at);
    }
}
