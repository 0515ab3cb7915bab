//! The part of a message's checks that needs no state of the replica, made by another loop than the one that orders.
//!
//! ```text
//! lane:   bytes ─► decode ─► Precheck::check: parse, hash, this node's tags, signatures ─► Prechecked ──┐ (a queue)
//! order:                                          Replica::take_prechecked ◄────────────────────────────┘
//! ```
//!
//! Only bundles and proposals are worth it: they are what is hashed, and what clients authenticate. What [`Precheck`] finds is a function of the
//! message and the configuration alone, so a replica does the same with it as with the plain message, whoever made the check and when.
//! A [`Prechecked`] cannot be made in any other way. Whatever is not well-formed is left to the replica, which refuses it under its name.
//!
//! *Bounds.* A replica spends a check only on what it would order or vote for, and so does a lane as far as it can tell from a [`Horizon`], which is a
//! little old: bundles when this node leads, proposals of the leader for open decrees, each decree once in a regency. A wrong guess costs a
//! check too many or leaves one to the replica; it changes nothing that is decided.

use std::sync::Arc;

use twostep_crypto::Scope;
use twostep_net::pool::Pool;

use crate::admission::Gate;
use crate::batch::{Batch, Bundle};
use crate::configuration::Configuration;
use crate::machine::Refusal;
use crate::message::Message;
use crate::types::{ClientId, Decree, NodeId, Party, Regency};

/// How far the order has come, as far as the checking loop knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Horizon {
    /// The regency that the replica is in.
    pub regency: Regency,
    /// Its newest certified checkpoint.
    pub low: Decree,
}

/// A message that was checked as far as it can be without the replica's state.
#[derive(Debug)]
pub struct Prechecked(Content);

/// What a [`Prechecked`] holds, for the replica.
#[derive(Debug)]
pub(crate) enum Content {
    Submit {
        client: ClientId,
        retry: bool,
        bundle: Bundle,
        /// Whether its client made it; none if that is still to be found out.
        authentic: Option<Result<(), Refusal>>,
    },
    Propose {
        from: NodeId,
        regency: Regency,
        decree: Decree,
        batch: CheckedBatch,
    },
}

/// A batch with the verdict on all of its bundles.
#[derive(Debug)]
pub(crate) struct CheckedBatch {
    pub(crate) batch: Batch,
    /// Whether their clients made them; none if that is still to be found out.
    pub(crate) authentic: Option<Result<(), Refusal>>,
}

impl Prechecked {
    pub(crate) fn open(self) -> Content {
        self.0
    }

    /// The message as it came, for a machine that checks for itself.
    pub fn with_plain<T>(&self, with: impl FnOnce(Party, Message<'_>) -> T) -> T {
        match &self.0 {
            Content::Submit {
                client,
                retry,
                bundle,
                ..
            } => with(
                Party::Client(*client),
                Message::Submit {
                    retry: *retry,
                    bundle: bundle.bytes(),
                },
            ),
            Content::Propose {
                from,
                regency,
                decree,
                batch,
            } => with(
                Party::Node(*from),
                Message::Propose {
                    regency: *regency,
                    decree: *decree,
                    value: batch.batch.value(),
                    body: batch.batch.body().clone(),
                },
            ),
        }
    }
}

/// Makes the checks of one loop. Each loop has its own.
#[derive(Clone, Debug)]
pub struct Precheck {
    configuration: Arc<Configuration>,
    scope: Scope,
    me: NodeId,
    accepts: bool,
    gate: Arc<Gate>,
    pool: Pool,
    /// By decree modulo the window: the proposal that was checked last. One per decree and regency, so that a leader that repeats itself is not
    /// checked again and again.
    seen: Vec<(Regency, Decree)>,
}

impl Precheck {
    /// Checks for node `me`, with the gate of its replica. Bodies go to `pool`.
    ///
    /// # Panics
    /// If `me` is no member of the configuration.
    #[must_use]
    pub fn new(
        configuration: Arc<Configuration>,
        me: NodeId,
        gate: Arc<Gate>,
        pool: Pool,
    ) -> Precheck {
        let member = configuration.member(me);
        let window = usize::try_from(configuration.limits().window).unwrap_or(usize::MAX);
        Precheck {
            scope: configuration.scope(),
            me,
            accepts: member.expect("a replica is a member").roles.acceptor,
            gate,
            pool,
            seen: vec![(Regency(0), Decree::NONE); window],
            configuration,
        }
    }

    /// Checks a message, if that is worth it; none if the replica is to have it as it is.
    pub fn check(
        &mut self,
        horizon: Horizon,
        from: Party,
        message: &Message<'_>,
    ) -> Option<Prechecked> {
        match (from, message) {
            (Party::Client(client), Message::Submit { retry, bundle }) => {
                self.submit(horizon, client, *retry, bundle)
            }
            (
                Party::Node(from),
                Message::Propose {
                    regency,
                    decree,
                    value,
                    body,
                },
            ) => {
                if !self.is_due(horizon, from, *regency, *decree) {
                    return None;
                }
                let mut checker = self.gate.checker();
                let limits = self.configuration.limits();
                let batch = Batch::parse(body.clone(), &self.scope, limits, |bundle, digest| {
                    if self.accepts {
                        checker.see(bundle, digest);
                    }
                    Ok::<(), Refusal>(())
                });
                let batch = batch.ok().filter(|batch| batch.value() == *value)?;
                let authentic = self.accepts.then(|| checker.finish());
                Some(Prechecked(Content::Propose {
                    from,
                    regency: *regency,
                    decree: *decree,
                    batch: CheckedBatch { batch, authentic },
                }))
            }
            _ => None,
        }
    }

    fn submit(
        &self,
        horizon: Horizon,
        client: ClientId,
        retry: bool,
        bytes: &[u8],
    ) -> Option<Prechecked> {
        let limits = self.configuration.limits();
        let bundle = Bundle::parse(self.pool.copy(bytes), &self.scope, limits).ok()?;
        let leads = self.configuration.leader(horizon.regency) == self.me;
        // A retry may be known already, and then its signature is not checked again.
        let authentic =
            (leads && !retry).then(|| self.gate.check(&bundle.view(), &bundle.digest()));
        Some(Prechecked(Content::Submit {
            client,
            retry,
            bundle,
            authentic,
        }))
    }

    fn is_due(&mut self, horizon: Horizon, from: NodeId, regency: Regency, decree: Decree) -> bool {
        let window = self.configuration.limits().window;
        let open = decree > horizon.low && decree <= horizon.low.plus(window);
        let leads = self.configuration.leader(regency) == from;
        if !(open && leads && regency == horizon.regency) {
            return false;
        }
        let place = usize::try_from(decree.0 % window).expect("below the window");
        let before = std::mem::replace(&mut self.seen[place], (regency, decree));
        before != (regency, decree)
    }
}

#[cfg(test)]
mod tests;
