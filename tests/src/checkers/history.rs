//! Exactly once: an oracle that applies the one log with rules of its own, and holds every reply against it.
//!
//! The oracle knows two kinds of operations by their bytes: those that count (each adds one to its counter and
//! answers the new value) and all others. A session is the decree and the place of its Open; an operation
//! counts the first time its (session, number) stands in the log, and never again.

use std::collections::{BTreeMap, BTreeSet};

use twostep_engine::batch::{Batch, RequestKind};
use twostep_engine::types::{ClientId, Decree, Digest, NodeId, Seq, SessionId};

use super::{Finding, Property, found};

/// A counter that operations add to.
pub type Counter = u32;

/// What should have happened, and what clients were told.
#[derive(Debug, Default)]
pub struct HistoryChecker {
    /// Which counter an operation adds to, by its bytes.
    counting: BTreeMap<Vec<u8>, Counter>,
    counters: BTreeMap<Counter, i64>,
    sessions: BTreeMap<SessionId, Session>,
    opened: BTreeMap<(ClientId, Seq), SessionId>,
    /// Effects that no client has been told yet.
    untold: BTreeMap<(ClientId, Decree, Counter), BTreeSet<i64>>,
    /// Digests of all results up to each decree, by the first learner that executed it.
    results: BTreeMap<Decree, Digest>,
    operations: u64,
}

#[derive(Debug)]
struct Session {
    client: ClientId,
    executed: BTreeSet<Seq>,
}

impl HistoryChecker {
    /// From now on an operation of these bytes adds one to `counter`.
    pub fn counts(&mut self, operation: &[u8], counter: Counter) {
        self.counting.insert(operation.to_vec(), counter);
    }

    /// How many operations had an effect so far.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// What every counter should stand at.
    pub fn counters(&self) -> impl Iterator<Item = (Counter, i64)> {
        self.counters
            .iter()
            .map(|(counter, value)| (*counter, *value))
    }

    /// Applies a decree that was delivered for the first time.
    pub fn apply(&mut self, decree: Decree, batch: &Batch) {
        let mut index = 0;
        for bundle in batch.bundles() {
            for request in bundle.requests() {
                let place = SessionId { decree, index };
                index += 1;
                match request.kind {
                    RequestKind::Open => {
                        // Saying an Open twice opens nothing twice.
                        self.opened
                            .entry((bundle.client, request.seq))
                            .or_insert_with(|| {
                                let session = Session {
                                    client: bundle.client,
                                    executed: BTreeSet::new(),
                                };
                                self.sessions.insert(place, session);
                                place
                            });
                    }
                    RequestKind::Operation => {
                        let session = self.sessions.get_mut(&request.session);
                        let Some(session) =
                            session.filter(|session| session.client == bundle.client)
                        else {
                            continue;
                        };
                        if session.executed.insert(request.seq) {
                            self.operations += 1;
                            if let Some(counter) = self.counting.get(request.operation) {
                                let value = self.counters.entry(*counter).or_insert(0);
                                *value += 1;
                                self.untold
                                    .entry((bundle.client, decree, *counter))
                                    .or_default()
                                    .insert(*value);
                            }
                        }
                    }
                }
            }
        }
    }

    /// A learner executed up to a decree with this digest of all results.
    ///
    /// # Errors
    /// If an earlier learner had another one.
    pub fn executed(
        &mut self,
        node: NodeId,
        decree: Decree,
        results: Digest,
    ) -> Result<(), Finding> {
        let first = *self.results.entry(decree).or_insert(results);
        if first == results {
            return Ok(());
        }
        let what = format!(
            "n{} has results {results} at decree {decree}, an earlier learner has {first}",
            node.0
        );
        found(Property::Divergence, what)
    }

    /// A client's call to add to `counter` ended as committed in `decree`, with this answer.
    ///
    /// # Errors
    /// If nothing in the log had that effect, or its effect answered another call already.
    pub fn told(
        &mut self,
        client: ClientId,
        decree: Decree,
        counter: Counter,
        value: i64,
    ) -> Result<(), Finding> {
        let effects = self.untold.get_mut(&(client, decree, counter));
        if effects.is_some_and(|effects| effects.remove(&value)) {
            return Ok(());
        }
        let what = format!(
            "client {client:?} was told that decree {decree} took counter {counter} to {value}; no untold operation of its own did"
        );
        found(Property::ExactlyOnce, what)
    }
}
