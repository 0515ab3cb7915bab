//! A simulated client: the engine's client core with a workload in front of it.
//!
//! Each session keeps up to a plan's number of calls in flight. Most calls add one to a counter, either the
//! session's own or one that all sessions share, so that every effect can be told from every other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use twostep_engine::batch::Bundle;
use twostep_engine::client::{
    AuthenticatorKeys, CallOutcome, ClientCore, ClientEffects, ClientSetup, ClientTuning,
    OpenError, SessionHandle,
};
use twostep_engine::configuration::Configuration;
use twostep_engine::message::Message;
use twostep_engine::types::{ClientId, Decree, NodeId, NodeSet, SessionId, Time};
use twostep_engine::wire;
use twostep_net::pool::Pool;

use crate::actors::clients::{ClientLiar, Saying};
use crate::actors::plot::Lies;
use crate::checkers::history::Counter;
use crate::plan::ClientPlan;
use crate::random::Random;
use crate::topology::client_identity;
use crate::workload;

/// The counter that all sessions add to.
pub const SHARED_COUNTER: Counter = 0;

/// One client of a world.
#[derive(Debug)]
pub struct SimClient {
    core: ClientCore,
    plan: ClientPlan,
    place: usize,
    random: Random,
    sessions: BTreeMap<SessionHandle, OpenSession>,
    calls: BTreeMap<u64, Call>,
    token: u64,
    /// Whether it calls of its own accord.
    busy: bool,
    /// Calls that were asked for from outside and not made yet, because no session was open.
    asked: u64,
    tallies: Tallies,
    fx: Collector,
}

#[derive(Debug)]
struct OpenSession {
    counter: Counter,
    open: bool,
    in_flight: usize,
    rests_until: Time,
}

#[derive(Debug)]
struct Call {
    counter: Option<Counter>,
    called: Time,
}

/// How the calls of a client ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tallies {
    /// Committed calls.
    pub committed: u64,
    /// Calls that ended as unknown.
    pub unknown: u64,
    /// Calls that ended as busy.
    pub busy: u64,
    /// Calls that ended as rejected.
    pub rejected: u64,
}

/// Something that a client did.
#[derive(Debug)]
pub enum Act {
    /// It sent a message to some nodes.
    Send(Saying),
    /// It was told that its call added to a counter.
    Counted {
        /// In which decree.
        decree: Decree,
        /// Which counter.
        counter: Counter,
        /// The counter's new value, as it was told.
        value: i64,
    },
    /// A call was committed.
    Committed {
        /// In which decree.
        decree: Decree,
        /// When it was made.
        called: Time,
    },
    /// A reply is not what the operation can have.
    Nonsense {
        /// What it is, in words.
        what: String,
    },
}

#[derive(Debug)]
struct Collector {
    pool: Pool,
    configuration: Arc<Configuration>,
    scratch: Vec<u8>,
    acts: Vec<Act>,
    ends: Vec<End>,
    liar: Option<ClientLiar>,
    /// Whom the core takes for the leader.
    leader: NodeId,
}

#[derive(Debug)]
enum End {
    Opened {
        session: SessionHandle,
        result: Result<SessionId, OpenError>,
    },
    Committed {
        session: SessionHandle,
        token: u64,
        decree: Decree,
        reply: Option<Vec<u8>>,
    },
    Failed {
        session: SessionHandle,
        token: u64,
        how: How,
    },
}

#[derive(Clone, Copy, Debug)]
enum How {
    Unknown,
    Busy,
    Rejected,
}

impl ClientEffects for Collector {
    fn send(&mut self, to: NodeSet, message: &Message<'_>) {
        if let Some(liar) = &mut self.liar {
            let said = liar.alter(to, message, self.leader, &self.pool);
            self.acts.extend(said.into_iter().map(Act::Send));
            return;
        }
        self.scratch.clear();
        wire::encode(message, &mut self.scratch);
        let bundle = match message {
            Message::Submit { bundle, .. } => {
                let scope = self.configuration.scope();
                let bytes = self.pool.copy(bundle);
                let bundle = Bundle::parse(bytes, &scope, self.configuration.limits());
                Some(bundle.expect("a client makes well-formed bundles"))
            }
            Message::BundleSignature { .. } => None,
            _ => panic!("a client submits and signs, nothing else"),
        };
        self.acts.push(Act::Send(Saying {
            to,
            bytes: self.pool.copy(&self.scratch),
            bundle,
        }));
    }

    fn opened(
        &mut self,
        session: SessionHandle,
        _token: u64,
        result: Result<SessionId, OpenError>,
    ) {
        self.ends.push(End::Opened { session, result });
    }

    fn done(&mut self, session: SessionHandle, token: u64, outcome: CallOutcome<'_>) {
        self.ends.push(match outcome {
            CallOutcome::Committed { decree, reply } => End::Committed {
                session,
                token,
                decree,
                reply: reply.map(<[u8]>::to_vec),
            },
            CallOutcome::Unknown { .. } => End::Failed {
                session,
                token,
                how: How::Unknown,
            },
            CallOutcome::Busy { .. } => End::Failed {
                session,
                token,
                how: How::Busy,
            },
            CallOutcome::Rejected(_) => End::Failed {
                session,
                token,
                how: How::Rejected,
            },
        });
    }
}

impl SimClient {
    /// The client at `place`, linked to every node; `strategy` is how it lies, if it does
    /// ([`crate::actors::clients`]). It opens its sessions at its first turn.
    ///
    /// # Panics
    /// If the keys of the configuration are unusable, which those of the simulator are not.
    #[must_use]
    pub fn new(
        configuration: &Arc<Configuration>,
        plan: ClientPlan,
        place: usize,
        strategy: Option<&str>,
        pool: &Pool,
        seed: u64,
    ) -> SimClient {
        let mut random = Random::fork(seed, &format!("client {place}"));
        let identity = client_identity(place);
        let liar = strategy.map(|name| ClientLiar::new(name, place, configuration, &identity));
        let keys = AuthenticatorKeys::derive(configuration, &identity)
            .expect("the simulator's keys are sound");
        let tuning = ClientTuning {
            retry: plan.retry,
            retry_max: plan.retry_max,
            deadline: plan.deadline,
            signed: false,
            sessions_max: u32::try_from(plan.sessions).expect("few sessions"),
            window: plan.pipeline,
        };
        let setup = ClientSetup {
            configuration: Arc::clone(configuration),
            identity,
            keys,
            tuning,
            seed: random.word(),
        };
        let mut core = ClientCore::new(setup);
        for node in configuration.nodes().iter() {
            core.link_up(node);
        }
        SimClient {
            core,
            plan,
            place,
            random,
            sessions: BTreeMap::new(),
            calls: BTreeMap::new(),
            token: 0,
            busy: true,
            asked: 0,
            tallies: Tallies::default(),
            fx: Collector {
                pool: pool.clone(),
                configuration: Arc::clone(configuration),
                scratch: Vec::new(),
                acts: Vec::new(),
                ends: Vec::new(),
                liar,
                leader: NodeId(0),
            },
        }
    }

    /// Who it is.
    #[must_use]
    pub fn id(&self) -> ClientId {
        self.core.client()
    }

    /// Whether it lies.
    #[must_use]
    pub fn is_liar(&self) -> bool {
        self.fx.liar.is_some()
    }

    /// Its strategy, and how often it lied.
    #[must_use]
    pub fn lies(&self) -> Option<(&'static str, Lies)> {
        self.fx.liar.as_ref().map(ClientLiar::lies)
    }

    /// A node takes in what it said.
    pub fn arrived(&mut self, bytes: &[u8]) {
        if let Some(liar) = &mut self.fx.liar {
            liar.arrived(bytes);
        }
    }

    /// How its calls ended so far.
    #[must_use]
    pub fn tallies(&self) -> Tallies {
        self.tallies
    }

    /// Calls and Opens that have not ended.
    #[must_use]
    pub fn unresolved(&self) -> usize {
        self.core.unresolved()
    }

    /// Whether all its sessions are open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.sessions.len() == self.plan.sessions
            && self.sessions.values().all(|session| session.open)
    }

    /// Starts or stops calling of its own accord.
    pub fn set_busy(&mut self, busy: bool) {
        self.busy = busy;
    }

    /// Makes so many calls at its next turns, whether or not it calls of its own accord.
    pub fn ask(&mut self, calls: u64) {
        self.asked += calls;
    }

    /// The counters that its sessions add to, with the operations that do so.
    pub fn operations(&self) -> impl Iterator<Item = (Vec<u8>, Counter)> + use<'_> {
        let own = (0..self.plan.sessions).map(|session| self.own_counter(session));
        own.chain([SHARED_COUNTER])
            .map(|counter| (workload::increment(counter), counter))
    }

    /// Takes a message from a node.
    pub fn hear(&mut self, now: Time, from: NodeId, message: &Message<'_>) {
        self.core.on_message(now, from, message, &mut self.fx);
        self.settle(now);
    }

    /// Its turn: opens sessions, makes calls, sends.
    pub fn turn(&mut self, now: Time) {
        while self.sessions.len() < self.plan.sessions {
            let counter = self.own_counter(self.sessions.len());
            self.token += 1;
            let session = self
                .core
                .open_session(self.token, now)
                .expect("as many sessions as planned");
            let entry = OpenSession {
                counter,
                open: false,
                in_flight: 0,
                rests_until: now,
            };
            self.sessions.insert(session, entry);
        }
        let handles: Vec<SessionHandle> = self.sessions.keys().copied().collect();
        for handle in handles {
            while self.wants_to_call(handle, now) {
                self.call(handle, now);
            }
        }
        self.fx.leader = self.core.leader();
        self.core.flush(now, &mut self.fx);
        self.settle(now);
    }

    /// When it wants its next turn.
    #[must_use]
    pub fn deadline(&self, now: Time) -> Option<Time> {
        let rest = |(handle, session): (&SessionHandle, &OpenSession)| {
            let room = session.open
                && session.in_flight < self.plan.pipeline
                && self.core.room(*handle) > 0;
            (room && (self.busy || self.asked > 0)).then_some(session.rests_until.max(now))
        };
        let rest = self.sessions.iter().filter_map(rest).min();
        let wants_session = (self.sessions.len() < self.plan.sessions).then_some(now);
        [rest, wants_session, self.core.deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Takes what it did.
    pub fn take_acts(&mut self, into: &mut Vec<Act>) {
        into.append(&mut self.fx.acts);
    }

    fn own_counter(&self, session: usize) -> Counter {
        let counter = 1 + self.place * self.plan.sessions + session;
        Counter::try_from(counter).expect("few sessions")
    }

    fn wants_to_call(&self, handle: SessionHandle, now: Time) -> bool {
        let session = &self.sessions[&handle];
        let willing = self.asked > 0 || (self.busy && session.rests_until <= now);
        willing
            && session.open
            && session.in_flight < self.plan.pipeline
            && self.core.room(handle) > 0
    }

    fn call(&mut self, handle: SessionHandle, now: Time) {
        let session = self
            .sessions
            .get_mut(&handle)
            .expect("a session of this client");
        let put = self.random.chance(self.plan.put_per_mille);
        let counter = if self.random.chance(200) {
            SHARED_COUNTER
        } else {
            session.counter
        };
        let operation = if put {
            let length = usize::try_from(self.random.below(2048)).expect("small");
            workload::put(session.counter, length)
        } else {
            workload::increment(counter)
        };
        self.token += 1;
        self.core
            .call(handle, &operation, self.token, now)
            .expect("there is room");
        session.in_flight += 1;
        self.asked = self.asked.saturating_sub(1);
        self.calls.insert(
            self.token,
            Call {
                counter: (!put).then_some(counter),
                called: now,
            },
        );
    }

    fn settle(&mut self, now: Time) {
        for end in std::mem::take(&mut self.fx.ends) {
            match end {
                End::Opened {
                    session,
                    result: Ok(_),
                } => {
                    self.sessions
                        .get_mut(&session)
                        .expect("a session of this client")
                        .open = true;
                }
                End::Opened {
                    session,
                    result: Err(_),
                } => {
                    self.sessions.remove(&session);
                }
                End::Committed {
                    session,
                    token,
                    decree,
                    reply,
                } => {
                    let call = self.finish(session, token, now);
                    self.tallies.committed += 1;
                    self.fx.acts.push(Act::Committed {
                        decree,
                        called: call.called,
                    });
                    if let Some(counter) = call.counter {
                        self.fx
                            .acts
                            .push(match reply.as_deref().map(workload::number) {
                                Some(Some(value)) => Act::Counted {
                                    decree,
                                    counter,
                                    value,
                                },
                                _ => Act::Nonsense {
                                    what: format!("counter {counter} was answered {reply:?}"),
                                },
                            });
                    }
                }
                End::Failed {
                    session,
                    token,
                    how,
                } => {
                    self.finish(session, token, now);
                    match how {
                        How::Unknown => self.tallies.unknown += 1,
                        How::Busy => self.tallies.busy += 1,
                        How::Rejected => self.tallies.rejected += 1,
                    }
                }
            }
        }
    }

    fn finish(&mut self, session: SessionHandle, token: u64, now: Time) -> Call {
        let rest = Duration::from_nanos(self.random.below(self.plan.rest_max_ns + 1));
        if let Some(session) = self.sessions.get_mut(&session) {
            session.in_flight -= 1;
            session.rests_until = now + rest;
        }
        self.calls
            .remove(&token)
            .expect("a call ends once, and only if it was made")
    }
}
