//! Execution: what is decided is applied to the state machine, in decree order, each request once.
//!
//! ```text
//! deliver(d, batch) → Executor::execute → per request: session table → StateMachine::execute → reply
//!                                       → Replies (one entry per request, in order), results digest
//! ```
//!
//! Everything here is a function of the ordered batches, so all learners get the same replies and digests:
//! `results_d = H(results_{d−1} ‖ d ‖ digests of the replies of d)`, the start being 32 zeroes (PROTOCOL.md section
//! 5.4). There is a digest for each message that a client gets, which stands for it where a learner does not answer in
//! full. It costs one pass over the replies of a decree, never over the state.
//!
//! A reply above the configuration's `reply_bytes_max` is not sent: the operation was executed and cannot be
//! undone, so the client is told `ExecutedReplyGone`, now and on every repeat.
//!
//! After every multiple of S an image of state and sessions is taken, for [`crate::snapshot`]; [`Executor::install`] is the
//! way back.
//!
//! *Bounds.* Small requests may have large replies, and a duplicate costs its client nothing. So once the entries of
//! a decree would exceed `decree_reply_bytes_max`, the replies of the rest are sent as digests, wherever these are
//! shorter. The session table keeps such a reply all the same: the client's retry fetches it. A look-up for a retry
//! ends at the same bound; what it leaves out is asked for again.

use std::collections::{BTreeSet, VecDeque};
use std::io;

use twostep_crypto::{Context as DigestContext, Scope};

use crate::batch::{Batch, Bundle, Request, RequestKind};
use crate::configuration::{Configuration, Limits};
use crate::machine::{Input, Question, Replies};
use crate::message::{Outcome, Reply, RequestNames, Snapshot, reply_digest};
use crate::session::{Fingerprint, SessionReader, SessionTable, Verdict};
use crate::snapshot::{Image, ImageReader, chunk_bytes};
use crate::state_machine::{ChunkSource, Context, StateMachine, StateTrouble};
use crate::types::{ClientId, Decree, Digest, Seq, SessionId};
use crate::wire::{Bounds, reply_bytes_max};

/// What the execution of one decree gave; [`crate::machine::Input::Executed`] takes it.
#[derive(Clone, Copy, Debug)]
pub struct Executed<'a> {
    /// One entry per request of the batch, in its order, sealed.
    pub replies: &'a Replies,
    /// The running digest of all replies up to this decree.
    pub results: Digest,
}

/// A state machine with the session table in front of it. See the [module](self).
#[derive(Debug)]
pub struct Executor<S: StateMachine> {
    machine: S,
    sessions: SessionTable,
    scope: Scope,
    limits: Limits,
    reply_bytes_max: usize,
    decree_reply_bytes_max: usize,
    /// Where the replies to one client are cut into several messages. Bytes.
    replies_bytes_max: usize,
    duplicates: Duplicates,
    executed: Decree,
    results: Digest,
    recent_opens: RecentOpens,
    /// What was taken at the newest multiple of S, until somebody wants it.
    image: Option<Image>,
    /// Reused from decree to decree, as the two below from request to request.
    replies: Replies,
    found: Replies,
    reply: Vec<u8>,
    names: Vec<u8>,
}

/// What happens to a request that is ordered a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Duplicates {
    Suppressed,
    Executed,
}

impl<S: StateMachine> Executor<S> {
    /// Puts `machine`, in its first state, behind an empty session table.
    #[must_use]
    pub fn new(configuration: &Configuration, machine: S) -> Executor<S> {
        Executor {
            machine,
            sessions: SessionTable::new(configuration.limits()),
            scope: configuration.scope(),
            limits: *configuration.limits(),
            reply_bytes_max: configuration.limits().reply_bytes_max as usize,
            decree_reply_bytes_max: configuration.limits().decree_reply_bytes_max as usize,
            replies_bytes_max: Bounds::of(configuration).replies_bytes_max(),
            duplicates: Duplicates::Suppressed,
            executed: Decree::NONE,
            results: Digest::ZERO,
            recent_opens: RecentOpens::default(),
            image: None,
            replies: Replies::default(),
            found: Replies::default(),
            reply: Vec::new(),
            names: Vec::new(),
        }
    }

    /// An executor that executes every ordered operation, also a repeated, stale or foreign one: the way to see
    /// what the session table prevents. Opens are answered as ever, so that clients run unchanged. For
    /// demonstrations and tests of checkers; a cluster that runs so executes retried operations twice.
    #[must_use]
    pub fn without_sessions(configuration: &Configuration, machine: S) -> Executor<S> {
        Executor {
            duplicates: Duplicates::Executed,
            ..Executor::new(configuration, machine)
        }
    }

    /// Executes the batch of the next decree, unless the state machine cannot go on.
    ///
    /// # Errors
    /// Why not. Nothing that came of the batch means anything then, and it stays so: nobody may hear of it.
    ///
    /// # Panics
    /// As [`Executor::execute`] does.
    pub fn try_execute(
        &mut self,
        decree: Decree,
        batch: &Batch,
    ) -> Result<Executed<'_>, StateTrouble> {
        if self.trouble().is_none() {
            self.execute(decree, batch);
        }
        match self.trouble() {
            Some(trouble) => Err(trouble),
            None => Ok(Executed {
                replies: &self.replies,
                results: self.results,
            }),
        }
    }

    /// Executes the batch of the next decree. A state machine that may have [trouble](Executor::trouble) needs
    /// [`Executor::try_execute`].
    ///
    /// # Panics
    /// If `decree` is not the one after [`Executor::executed`]: a gap would be silent divergence.
    pub fn execute(&mut self, decree: Decree, batch: &Batch) -> Executed<'_> {
        assert_eq!(
            decree,
            self.executed.next(),
            "decrees are executed in order, each once"
        );
        self.replies.begin(self.replies_bytes_max);
        self.sessions.begin(decree);
        let mut index = 0;
        for bundle in batch.bundles() {
            for request in bundle.requests() {
                match request.kind {
                    RequestKind::Open => {
                        self.open(bundle.client, &request, SessionId { decree, index });
                    }
                    RequestKind::Operation => self.apply(bundle.client, &request, decree),
                }
                index += 1;
            }
        }
        self.executed = decree;
        let mut hasher = self.scope.hasher(DigestContext::Results);
        hasher
            .update(&self.results.0)
            .update(&decree.0.to_le_bytes());
        for digest in self.replies.seal(&self.scope) {
            hasher.update(&digest.0);
        }
        self.results = hasher.finish();
        if decree.0.is_multiple_of(self.limits.snapshot_every) {
            let (sessions, state) = (self.sessions.image(), self.machine.snapshot());
            self.image = Some(Image::new(
                decree,
                chunk_bytes(&self.limits),
                sessions,
                state,
            ));
        }
        Executed {
            replies: &self.replies,
            results: self.results,
        }
    }

    /// Takes the image that was taken at the newest multiple of S, unless it was taken already.
    pub fn take_image(&mut self) -> Option<Image> {
        self.image.take()
    }

    /// Takes up state and sessions of a certified snapshot: the next decree to execute is the one after it. The machine
    /// may have any state before.
    ///
    /// # Errors
    /// When a chunk cannot be had or the chunks are no image. What stands then is unspecified, and nothing may be
    /// executed on it before another snapshot is installed.
    pub fn install(&mut self, snapshot: &Snapshot, chunks: &mut dyn ChunkSource) -> io::Result<()> {
        let session_bytes_max = SessionReader::session_bytes_max(&self.limits);
        let mut image = ImageReader::new(chunks, session_bytes_max);
        let mut sessions = SessionReader::new(&self.limits);
        let mut frame = Vec::new();
        let broken = |why| io::Error::new(io::ErrorKind::InvalidData, why);
        while image.next_frame(&mut frame)? {
            sessions.feed(&frame).map_err(broken)?;
        }
        self.sessions = sessions.finish().map_err(broken)?;
        self.machine.restore(&mut image)?;
        image.finish()?;
        self.recent_opens = RecentOpens::default();
        self.image = None;
        (self.executed, self.results) = (snapshot.decree, snapshot.results);
        Ok(())
    }

    /// Takes the replies of the decree that was executed last; `spare` is memory for those of the next one.
    pub fn take_replies(&mut self, spare: Replies) -> Replies {
        std::mem::replace(&mut self.replies, spare)
    }

    /// Answers those requests of a retried bundle that were executed already, with the reply in full; none
    /// if there is no such request. Changes nothing that is replicated. It answers from the front, at most
    /// `decree_reply_bytes_max`: the client asks for the rest again.
    pub fn lookup(&mut self, bundle: &Bundle) -> Option<&Replies> {
        self.found.begin(self.replies_bytes_max);
        let view = bundle.view();
        for request in view.requests() {
            let Request { session, seq, .. } = request;
            let found = match request.kind {
                RequestKind::Open => self
                    .sessions
                    .opened(view.client, seq)
                    .map(|id| (id.decree, Outcome::Opened(id))),
                RequestKind::Operation => {
                    let operation = Fingerprint::of(request.operation);
                    self.sessions.recall(view.client, session, seq, operation)
                }
            };
            let Some((decree, outcome)) = found else {
                continue;
            };
            let reply = Reply {
                session,
                seq,
                decree,
                outcome,
            };
            let len = self.found.bytes().len() + reply_bytes_max(&reply);
            if len > self.decree_reply_bytes_max {
                break;
            }
            self.found.push(view.client, &reply);
        }
        (!self.found.bytes().is_empty()).then_some(&self.found)
    }

    /// What keeps the state machine from going on, if anything.
    #[must_use]
    pub fn trouble(&self) -> Option<StateTrouble> {
        self.machine.trouble()
    }

    /// Answers a question about the session table; none if there is nothing to tell. Changes nothing that is replicated.
    pub fn answer(&mut self, question: &Question) -> Option<Input<'_>> {
        if self.trouble().is_some() {
            // It may remember replies that mean nothing.
            return None;
        }
        match question {
            Question::Retried(bundle) => self.lookup(bundle).map(Input::Found),
            Question::Settled {
                asker,
                client,
                names,
            } => {
                let names = self.settled(RequestNames::new(*client, names)?)?;
                Some(Input::Settled {
                    asker: *asker,
                    names,
                })
            }
            // The host's keeper and its journal do these.
            Question::Snapshot(_) | Question::Archive(_) => None,
        }
    }

    /// Those of a client's requests that a proposer need not wait for any more: ordering them now would execute
    /// nothing. A session that this learner has not reached yet may still be opened, so nothing is said of it.
    fn settled(&mut self, names: RequestNames<'_>) -> Option<RequestNames<'_>> {
        self.names.clear();
        for (session, seq) in names.iter() {
            let settled = if session == SessionId::NONE {
                self.recent_opens.contains(names.client, seq)
                    || self.sessions.opened(names.client, seq).is_some()
                    || self.sessions.is_at_share(names.client)
            } else {
                session.decree <= self.executed && self.sessions.settled(names.client, session, seq)
            };
            if settled {
                RequestNames::write(session, seq, &mut self.names);
            }
        }
        RequestNames::new(names.client, &self.names).filter(|names| !names.is_empty())
    }

    /// The state machine, to be damaged: the way to see what becomes of a replica that diverges. For tests.
    pub fn machine_mut(&mut self) -> &mut S {
        &mut self.machine
    }

    /// The state machine, to be asked.
    #[must_use]
    pub fn machine(&self) -> &S {
        &self.machine
    }

    /// The session table.
    #[must_use]
    pub fn sessions(&self) -> &SessionTable {
        &self.sessions
    }

    /// The newest executed decree.
    #[must_use]
    pub fn executed(&self) -> Decree {
        self.executed
    }

    /// The running digest of all replies up to [`Executor::executed`].
    #[must_use]
    pub fn results(&self) -> Digest {
        self.results
    }

    /// A digest of the session table and the state, equal at learners that executed the same decrees. It reads
    /// all of both: not for the common path.
    #[must_use]
    pub fn state_digest(&self) -> Digest {
        let mut hasher = self.scope.hasher(DigestContext::State);
        self.sessions.write_canonical(|bytes| {
            hasher.update(bytes);
        });
        hasher.update(&self.machine.digest().0).finish()
    }

    fn open(&mut self, client: ClientId, request: &Request<'_>, id: SessionId) {
        let opened = self.sessions.open(client, request.seq, id);
        self.recent_opens.insert(client, request.seq);
        let outcome = Outcome::Opened(opened);
        let reply = Reply {
            session: request.session,
            seq: request.seq,
            decree: opened.decree,
            outcome,
        };
        self.replies.push(client, &reply);
    }

    fn apply(&mut self, client: ClientId, request: &Request<'_>, decree: Decree) {
        let Request {
            session,
            seq,
            operation,
            ..
        } = *request;
        let context = Context {
            decree,
            client,
            session,
            seq,
        };
        let (decree, outcome) = if self.duplicates == Duplicates::Executed {
            let outcome = run(
                &mut self.machine,
                &context,
                operation,
                &mut self.reply,
                self.reply_bytes_max,
            );
            (decree, outcome)
        } else {
            let fingerprint = Fingerprint::of(operation);
            match self.sessions.judge(client, session, seq, fingerprint) {
                Verdict::Execute(ticket) => {
                    let outcome = run(
                        &mut self.machine,
                        &context,
                        operation,
                        &mut self.reply,
                        self.reply_bytes_max,
                    );
                    let kept = if let Outcome::Executed(reply) = outcome {
                        Some(reply)
                    } else {
                        None
                    };
                    self.sessions.record(ticket, decree, fingerprint, kept);
                    (decree, outcome)
                }
                Verdict::Repeat { decree, outcome } => (decree, outcome),
                Verdict::Refuse(outcome) => (decree, outcome),
            }
        };
        let mut reply = Reply {
            session,
            seq,
            decree,
            outcome,
        };
        if let Outcome::Executed(bytes) = outcome
            && bytes.len() > size_of::<Digest>()
            && self.replies.bytes().len() + reply_bytes_max(&reply) > self.decree_reply_bytes_max
        {
            reply.outcome = Outcome::ExecutedDigest(reply_digest(&self.scope, bytes));
        }
        self.replies.push(client, &reply);
    }
}

/// The newest Opens. Their sessions may be dropped right away by other Opens of their client, which must not look as
/// if they had never been ordered: proposers would depose one leader after the other. Not part of the state.
#[derive(Debug, Default)]
struct RecentOpens {
    known: BTreeSet<(ClientId, Seq)>,
    order: VecDeque<(ClientId, Seq)>,
}

impl RecentOpens {
    /// So many are remembered. A client that opens more in a hurry has its full share of sessions.
    const MAX: usize = 4096;

    fn insert(&mut self, client: ClientId, nonce: Seq) {
        if !self.known.insert((client, nonce)) {
            return;
        }
        self.order.push_back((client, nonce));
        if self.order.len() > Self::MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    fn contains(&self, client: ClientId, nonce: Seq) -> bool {
        self.known.contains(&(client, nonce))
    }
}

fn run<'a>(
    machine: &mut impl StateMachine,
    context: &Context,
    operation: &[u8],
    reply: &'a mut Vec<u8>,
    reply_bytes_max: usize,
) -> Outcome<'a> {
    reply.clear();
    machine.execute(context, operation, reply);
    if reply.len() > reply_bytes_max {
        // Only the excess is given back: what replies may need again stays allocated.
        reply.clear();
        reply.shrink_to(reply_bytes_max);
        return Outcome::ExecutedReplyGone;
    }
    Outcome::Executed(reply)
}

#[cfg(test)]
mod tests;
