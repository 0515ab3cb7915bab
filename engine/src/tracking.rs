//! The requests that a proposer knows to be waiting: what it suspects a leader for.
//!
//! | event | rule (PROTOCOL.md section 4, "No censorship") |
//! |---|---|
//! | a client's signed retry, or a relay of one | its requests are tracked, its bytes are kept |
//! | a regency is entered | the kept bundles go to the new leader, which orders them: it need not wait for another retry |
//! | a request has waited for `4·T` | overdue |
//! | W decrees were acknowledged since f+1 proposers relayed it | overdue: the leader serves others and not this one |
//! | executed here, or settled as f+1 learners say | forgotten |
//!
//! Only signed requests count (mode C: any), so that nobody can depose a leader with junk; and only what can be executed:
//! in a session that some decree can have opened by now, or an Open. Bounded: at most
//! [`TRACKED_MAX`] requests and [`CLIENT_BYTES_MAX`] bytes of one client, and a number of bytes in all. What is above a
//! bound is served, but not watched over.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::batch::{Bundle, Request, RequestKind};
use crate::message::{Outcome, ReplyEntries, RequestNames};
use crate::types::{ClientId, Decree, Digest, NodeId, NodeSet, Seq, SessionId, Time};

/// The most requests of one client that are tracked (section 5.8).
pub const TRACKED_MAX: usize = 64;

/// The most bytes of bundles that are kept for one client, beyond its first bundle.
pub const CLIENT_BYTES_MAX: usize = 1 << 20;

/// Requests that wait, by client.
#[derive(Debug)]
pub struct Tracking {
    clients: BTreeMap<ClientId, Waiting>,
    bytes: usize,
    bytes_max: usize,
    relay_quorum: usize,
}

/// What waits of one client.
#[derive(Debug, Default)]
struct Waiting {
    requests: BTreeMap<Name, Tracked>,
    /// Each holds at least one tracked request.
    bundles: Vec<Bundle>,
    bytes: usize,
}

/// What a request is called: its session, or none for an Open, and its number.
type Name = (SessionId, Seq);

#[derive(Debug)]
struct Tracked {
    since: Time,
    relayers: NodeSet,
    /// What was acknowledged when enough proposers had relayed it.
    relayed_at: Option<Decree>,
    /// The learners that say it is settled.
    settled_by: NodeSet,
}

/// When a request is overdue.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// After it has waited so long: 4·T.
    pub time: Duration,
    /// After so many decrees went by since enough proposers relayed it: W.
    pub decrees: u64,
    /// But not before it has waited so long: a fast leader may do W decrees before anybody can know that the request is
    /// among them.
    pub least: Duration,
}

/// What was new about a bundle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Some of its requests were not tracked before.
    pub requests: bool,
    /// Its relayer had not passed on some of its requests before.
    pub relayer: bool,
}

impl Tracking {
    /// Nothing waits. Bundles of at most `bytes_max` bytes are kept; `relay_quorum` proposers, f+1, relay for sure what
    /// a correct one knows.
    #[must_use]
    pub fn new(bytes_max: usize, relay_quorum: usize) -> Tracking {
        Tracking {
            clients: BTreeMap::new(),
            bytes: 0,
            bytes_max,
            relay_quorum,
        }
    }

    /// Tracks the requests of a bundle whose signature was checked. `relayer` is the proposer that passed it on, or this
    /// one if it came from the client; `progress` is what f+1 learners acknowledged.
    pub fn track(&mut self, bundle: &Bundle, relayer: NodeId, now: Time, progress: Decree) -> News {
        let view = bundle.view();
        let waiting = self.clients.entry(view.client).or_default();
        let fits = waiting.bundles.is_empty() || waiting.bytes + bundle.len() <= CLIENT_BYTES_MAX;
        let room = fits && self.bytes + bundle.len() <= self.bytes_max;
        let before = waiting.requests.len();
        let mut news = News::default();
        let names = view.requests().filter_map(|request| name(&request));
        // A client uses a session when f+1 learners have told it that it is open.
        for name in names.filter(|(session, _)| session.decree <= progress) {
            if room && waiting.requests.len() < TRACKED_MAX {
                waiting.requests.entry(name).or_insert(Tracked {
                    since: now,
                    relayers: NodeSet::EMPTY,
                    relayed_at: None,
                    settled_by: NodeSet::EMPTY,
                });
            }
            if let Some(tracked) = waiting.requests.get_mut(&name) {
                news.relayer |= tracked.relayers.insert(relayer);
                if tracked.relayers.len() >= self.relay_quorum {
                    tracked.relayed_at.get_or_insert(progress);
                }
            }
        }
        news.requests = waiting.requests.len() > before;
        if news.requests {
            waiting.bundles.push(bundle.clone());
            waiting.bytes += bundle.len();
            self.bytes += bundle.len();
        } else if waiting.requests.is_empty() {
            self.clients.remove(&view.client);
        }
        news
    }

    /// The bundle of this digest, if it is kept: its signature was checked already.
    #[must_use]
    pub fn kept(&self, client: ClientId, digest: &Digest) -> Option<&Bundle> {
        let mut bundles = self.clients.get(&client)?.bundles.iter();
        bundles.find(|bundle| bundle.digest() == *digest)
    }

    /// All bundles that hold a request that waits.
    pub fn bundles(&self) -> impl Iterator<Item = &Bundle> {
        self.clients.values().flat_map(|waiting| &waiting.bundles)
    }

    /// The names of all requests that wait, by client, as [`RequestNames`] carry them.
    pub fn names(&self) -> impl Iterator<Item = (ClientId, Vec<u8>)> {
        self.clients
            .iter()
            .map(|(client, waiting)| (*client, waiting.names()))
    }

    /// The names of one client's requests that wait.
    #[must_use]
    pub fn names_of(&self, client: ClientId) -> Vec<u8> {
        self.clients
            .get(&client)
            .map_or_else(Vec::new, Waiting::names)
    }

    /// Forgets what was executed, or ordered and refused.
    pub fn done(&mut self, client: ClientId, entries: ReplyEntries<'_>) {
        self.forget(client, |requests| {
            for reply in entries.iter().flatten() {
                let opened = matches!(reply.outcome, Outcome::Opened(_));
                let session = if opened {
                    SessionId::NONE
                } else {
                    reply.session
                };
                requests.remove(&(session, reply.seq));
            }
        });
    }

    /// A learner says that these are settled; what `quorum` learners say is forgotten.
    pub fn settled(&mut self, learner: NodeId, names: RequestNames<'_>, quorum: usize) {
        self.forget(names.client, |requests| {
            for name in names.iter() {
                let Some(tracked) = requests.get_mut(&name) else {
                    continue;
                };
                tracked.settled_by.insert(learner);
                if tracked.settled_by.len() >= quorum {
                    requests.remove(&name);
                }
            }
        });
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Whether some request is overdue; if so, each starts to wait anew.
    pub fn overdue(&mut self, now: Time, progress: Decree, patience: Patience) -> bool {
        let overdue = self.requests().any(|tracked| {
            let passed_over = tracked
                .relayed_at
                .is_some_and(|at| progress.since(at) >= patience.decrees);
            let waited = now.since(tracked.since);
            passed_over && waited >= patience.least || waited >= patience.time
        });
        if overdue {
            self.restart(now, progress);
        }
        overdue
    }

    /// A new leader gets as much time as the old one had.
    pub fn restart(&mut self, now: Time, progress: Decree) {
        for waiting in self.clients.values_mut() {
            for tracked in waiting.requests.values_mut() {
                tracked.since = now;
                tracked.relayed_at = tracked.relayed_at.map(|_| progress);
            }
        }
    }

    /// When the oldest request becomes overdue by time.
    #[must_use]
    pub fn deadline(&self, patience: Duration) -> Option<Time> {
        self.requests()
            .map(|tracked| tracked.since + patience)
            .min()
    }

    fn requests(&self) -> impl Iterator<Item = &Tracked> {
        self.clients
            .values()
            .flat_map(|waiting| waiting.requests.values())
    }

    /// Lets `forget` remove requests of a client, then drops the bundles that hold none any more.
    fn forget(&mut self, client: ClientId, forget: impl FnOnce(&mut BTreeMap<Name, Tracked>)) {
        let Some(waiting) = self.clients.get_mut(&client) else {
            return;
        };
        let before = waiting.requests.len();
        forget(&mut waiting.requests);
        if waiting.requests.len() == before {
            return;
        }
        let requests = &waiting.requests;
        let waits = |bundle: &Bundle| {
            let view = bundle.view();
            let mut names = view.requests().filter_map(|request| name(&request));
            names.any(|name| requests.contains_key(&name))
        };
        waiting.bundles.retain(waits);
        let kept = waiting.bundles.iter().map(Bundle::len).sum();
        self.bytes -= waiting.bytes - kept;
        waiting.bytes = kept;
        if waiting.requests.is_empty() {
            self.clients.remove(&client);
        }
    }
}

impl Waiting {
    fn names(&self) -> Vec<u8> {
        let mut names = Vec::new();
        for (session, seq) in self.requests.keys() {
            RequestNames::write(*session, *seq, &mut names);
        }
        names
    }
}

/// None of an operation without a session: nobody will ever execute it.
fn name(request: &Request<'_>) -> Option<Name> {
    match request.kind {
        RequestKind::Open => Some((SessionId::NONE, request.seq)),
        RequestKind::Operation => {
            (request.session != SessionId::NONE).then_some((request.session, request.seq))
        }
    }
}

#[cfg(test)]
#[path = "tracking_tests.rs"]
mod tests;
