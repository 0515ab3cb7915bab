//! The requests that a proposer knows to be waiting: what it suspects a leader for.
//!
//! A client's retry is signed and goes to every proposer; each tracks it until it learns that it was executed
//! (PROTOCOL.md section 4, "No censorship"). Only signed requests count, so that nobody can depose a leader with
//! junk. Bounded: at most [`TRACKED_MAX`] requests of one client.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::batch::{BundleView, RequestKind};
use crate::message::{Outcome, ReplyEntries};
use crate::types::{ClientId, Seq, SessionId, Time};

/// The most requests of one client that are tracked (section 5.8); more are served, but not watched over.
pub const TRACKED_MAX: usize = 64;

/// Requests that wait, by client.
#[derive(Debug, Default)]
pub struct Tracking {
    clients: BTreeMap<ClientId, BTreeMap<(SessionId, Seq), Time>>,
}

impl Tracking {
    /// Tracks the requests of a bundle whose signature was checked; true if some were not tracked before.
    pub fn track(&mut self, bundle: &BundleView<'_>, now: Time) -> bool {
        let requests = self.clients.entry(bundle.client).or_default();
        let before = requests.len();
        for request in bundle.requests() {
            let session = if request.kind == RequestKind::Open {
                SessionId::NONE
            } else {
                request.session
            };
            if requests.len() < TRACKED_MAX {
                requests.entry((session, request.seq)).or_insert(now);
            }
        }
        requests.len() > before
    }

    /// Forgets what was executed, or ordered and refused.
    pub fn done(&mut self, client: ClientId, entries: ReplyEntries<'_>) {
        let Some(requests) = self.clients.get_mut(&client) else {
            return;
        };
        for reply in entries.iter().flatten() {
            let opened = matches!(reply.outcome, Outcome::Opened(_));
            let session = if opened {
                SessionId::NONE
            } else {
                reply.session
            };
            requests.remove(&(session, reply.seq));
        }
        if requests.is_empty() {
            self.clients.remove(&client);
        }
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Whether some request has waited for `limit`; if so, each starts to wait anew.
    pub fn overdue(&mut self, now: Time, limit: Duration) -> bool {
        let mut times = self.clients.values_mut().flat_map(BTreeMap::values_mut);
        let overdue = times.any(|since| now.since(*since) >= limit);
        if overdue {
            self.restart(now);
        }
        overdue
    }

    /// A new leader gets as much time as the old one had.
    pub fn restart(&mut self, now: Time) {
        self.clients
            .values_mut()
            .flat_map(BTreeMap::values_mut)
            .for_each(|since| *since = now);
    }

    /// When the oldest request becomes overdue.
    #[must_use]
    pub fn deadline(&self, limit: Duration) -> Option<Time> {
        self.clients
            .values()
            .flat_map(BTreeMap::values)
            .min()
            .map(|since| *since + limit)
    }
}
