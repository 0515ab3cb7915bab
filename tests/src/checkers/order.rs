//! Agreement, order and validity: one log for all learners, made of what clients submitted.

use std::collections::BTreeSet;

use twostep_engine::batch::{Batch, BundleView, Request, RequestKind};
use twostep_engine::types::{ClientId, Decree, NodeId, Value};

use super::{Finding, Property, found};

/// What the learners delivered, against what the clients submitted.
#[derive(Debug)]
pub struct OrderChecker {
    /// Digests of submitted requests. Authenticators are not in them: a retry is signed anew.
    submitted: BTreeSet<[u8; 32]>,
    /// Decree d at place d − 1: the value, and the digest of the requests.
    log: Vec<(Value, [u8; 32])>,
    /// How far each node delivered in its present run.
    delivered: Vec<Decree>,
}

impl OrderChecker {
    /// For so many nodes.
    #[must_use]
    pub fn new(nodes: usize) -> OrderChecker {
        OrderChecker {
            submitted: BTreeSet::new(),
            log: Vec::new(),
            delivered: vec![Decree::NONE; nodes],
        }
    }

    /// A client sent a bundle.
    pub fn submitted(&mut self, bundle: &BundleView<'_>) {
        for request in bundle.requests() {
            self.submitted
                .insert(request_digest(bundle.client, &request));
        }
    }

    /// A node starts again, without memory.
    pub fn restarted(&mut self, node: NodeId) {
        self.delivered[usize::from(node.0)] = Decree::NONE;
    }

    /// A node took up the state after `decree`: it delivers what comes behind.
    pub fn installed(&mut self, node: NodeId, decree: Decree) {
        self.delivered[usize::from(node.0)] = decree;
    }

    /// How far a node delivered in its present run.
    #[must_use]
    pub fn delivered_by(&self, node: NodeId) -> Decree {
        self.delivered[usize::from(node.0)]
    }

    /// The highest decree that any learner delivered.
    #[must_use]
    pub fn top(&self) -> Decree {
        Decree(self.log.len() as u64)
    }

    /// A node delivered a decree; true if it is the first to do so.
    ///
    /// # Errors
    /// The property that this violates.
    pub fn deliver(
        &mut self,
        node: NodeId,
        decree: Decree,
        batch: &Batch,
    ) -> Result<bool, Finding> {
        let last = &mut self.delivered[usize::from(node.0)];
        if decree.0 != last.0 + 1 {
            return found(
                Property::Order,
                format!("n{} delivered decree {decree} after decree {last}", node.0),
            );
        }
        *last = decree;
        let content = content_digest(batch);
        let place = usize::try_from(decree.0 - 1).expect("a run has few decrees");
        if let Some(first) = self.log.get(place) {
            if *first != (batch.value(), content) {
                let (value, other) = (batch.value(), first.0);
                let what = format!(
                    "decree {decree} is {value} at n{}, but {other} at an earlier learner",
                    node.0
                );
                return found(Property::Agreement, what);
            }
            return Ok(false);
        }
        assert_eq!(
            place,
            self.log.len(),
            "delivery without gaps extends the log by one"
        );
        for bundle in batch.bundles() {
            for request in bundle.requests() {
                if !self
                    .submitted
                    .contains(&request_digest(bundle.client, &request))
                {
                    let what = format!(
                        "decree {decree} holds request {} of session {}, which its client never submitted",
                        request.seq, request.session
                    );
                    return found(Property::Validity, what);
                }
            }
        }
        self.log.push((batch.value(), content));
        Ok(true)
    }
}

fn request_digest(client: ClientId, request: &Request<'_>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    feed(&mut hasher, client, request);
    *hasher.finalize().as_bytes()
}

/// The digest of a batch as the checkers see it: all requests in order, no authenticators.
fn content_digest(batch: &Batch) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for bundle in batch.bundles() {
        for request in bundle.requests() {
            feed(&mut hasher, bundle.client, &request);
        }
    }
    *hasher.finalize().as_bytes()
}

fn feed(hasher: &mut blake3::Hasher, client: ClientId, request: &Request<'_>) {
    hasher.update(&client.0);
    hasher.update(&[u8::from(request.kind == RequestKind::Open)]);
    hasher.update(&request.session.decree.0.to_le_bytes());
    hasher.update(&request.session.index.to_le_bytes());
    hasher.update(&request.seq.0.to_le_bytes());
    hasher.update(&(request.operation.len() as u64).to_le_bytes());
    hasher.update(request.operation);
}
