//! The host of a [`ClientCore`]: one loop, on one thread, with a link to every proposer and learner.
//!
//! ```text
//!  link ── bytes ──► decode ──► ClientCore ── outcomes ──► Application
//!  link ◄── bytes ── encode ◄── bundles ◄── flush ◄── calls ◄──┘ at the end of every turn
//! ```
//!
//! What runs on top is an [`Application`]: the async [façade](super::facade) or a load generator. It makes its calls
//! in [`Application::turn`], in the loop's own thread, so a call costs no hand-over.

#![expect(
    clippy::disallowed_types,
    reason = "a host reads the clock for the core that it hosts"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use twostep_net::pool::Pool;
use twostep_net::{
    Carrier, DriverChoice, Idle, Limits, LinkDown, LinkId, Net, NetError, Reactor, ReactorConfig,
    Service, WakeUp,
};

use super::{CallOutcome, ClientCore, ClientEffects, ClientSetup, OpenError, SessionHandle};
use crate::configuration::Configuration;
use crate::letter::Letter;
use crate::machine::earlier;
use crate::message::Message;
use crate::types::{NodeId, NodeSet, Party, SessionId, Time};
use crate::wire::{self, Bounds};

/// What makes calls and is told how they ended. All callbacks run on the loop's thread and must not block it.
pub trait Application {
    /// A session is open, or could not be opened. See [`ClientEffects::opened`].
    fn opened(
        &mut self,
        now: Time,
        session: SessionHandle,
        token: u64,
        result: Result<SessionId, OpenError>,
    );
    /// A call ended. See [`ClientEffects::done`].
    fn done(&mut self, now: Time, session: SessionHandle, token: u64, outcome: CallOutcome<'_>);
    /// The end of a turn: the place to make calls. They are sent when it returns.
    fn turn(&mut self, client: &mut Turn<'_>);
    /// When it wants a turn at the latest. Calls that it makes before [`ClientCore::gathers_until`] are not sent before.
    fn deadline(&self, core: &ClientCore) -> Option<Time>;
    /// Whether the loop shall end.
    fn stopping(&self) -> bool;
}

/// What an [`Application`] can use in its turn.
pub struct Turn<'a> {
    /// Where calls are made.
    pub core: &'a mut ClientCore,
    /// The time of this turn.
    pub now: Time,
    net: &'a Net,
    contacts: NodeSet,
}

impl Turn<'_> {
    /// Whether the leader and enough learners can be reached for a call to commit, as far as links tell.
    #[must_use]
    pub fn reachable(&self) -> bool {
        self.core.reachable()
    }

    /// The proposers and learners without a link, with the reason in words.
    #[must_use]
    pub fn unreachable(&self) -> Vec<(NodeId, String)> {
        let missing = self.contacts.minus(self.core.links());
        let why = |node: NodeId| {
            let state = self
                .net
                .peers()
                .find(|peer| peer.party == Party::Node(node));
            let error = state.and_then(|peer| peer.last_error);
            error.unwrap_or_else(|| "no answer yet".to_owned())
        };
        missing.iter().map(|node| (node, why(node))).collect()
    }
}

/// Says something else than what a client wants to say, or nothing: how clients that lie speak. It is told whom the
/// client takes for the leader, to whom what is to be said, and where to say it, in wire form.
pub type Voice =
    Box<dyn FnMut(NodeId, NodeSet, &Message<'_>, &mut dyn FnMut(NodeSet, &[u8])) + Send>;

/// How a client's loop runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoopTuning {
    /// What the loop does when idle.
    pub idle: Idle,
    /// The core to which its thread is pinned.
    pub pin_core: Option<usize>,
    /// How the nodes talk; as the cluster file says.
    pub carrier: Carrier,
    /// The driver that is asked for.
    pub driver: DriverChoice,
}

/// A client with its links, ready to run.
pub struct ClientLoop {
    reactor: Reactor,
    core: ClientCore,
    configuration: Arc<Configuration>,
    started: Instant,
    voice: Option<Voice>,
}

impl ClientLoop {
    /// A client that dials every proposer and learner among `nodes`. The nonces of its Opens start at a random
    /// number, whatever the seed.
    ///
    /// # Errors
    /// [`NetError`] when the operating system gives no loop.
    pub fn new(
        mut setup: ClientSetup,
        nodes: &[(NodeId, SocketAddr)],
        tuning: LoopTuning,
    ) -> Result<ClientLoop, NetError> {
        let configuration = Arc::clone(&setup.configuration);
        let identity = Arc::clone(&setup.identity);
        let client = setup.identity.public().client_id();
        let members = Arc::clone(&configuration);
        let mut reactor = Reactor::new(
            reactor_config(&configuration, tuning),
            configuration.scope(),
            identity,
            Party::Client(client),
            move |party| match party {
                Party::Node(node) => members.member(node).map(|member| member.public),
                Party::Client(_) => None,
            },
        )?;
        // The boot nonce is random and new for every loop, which is what the nonces of Opens need.
        let random = u128::from_le_bytes(reactor.net().boot());
        setup.seed ^= u64::try_from(random >> 64).expect("half of 128 bits");
        let core = ClientCore::new(setup);
        for (node, address) in nodes {
            if core.contacts().contains(*node) {
                reactor.net().dial(Party::Node(*node), *address);
            }
        }
        Ok(ClientLoop {
            reactor,
            core,
            configuration,
            started: Instant::now(),
            voice: None,
        })
    }

    /// Speaks with this voice from now on: for tests of clients that lie.
    pub fn speak_with(&mut self, voice: Voice) {
        self.voice = Some(voice);
    }

    /// What makes the loop take a turn, from any thread.
    #[must_use]
    pub fn waker(&self) -> WakeUp {
        self.reactor.waker()
    }

    /// Runs until the application is stopping. May be called again.
    ///
    /// # Errors
    /// [`NetError`] when the thread cannot be pinned or waiting fails.
    pub fn run(&mut self, application: &mut impl Application) -> Result<(), NetError> {
        let mut service = Hosting {
            core: &mut self.core,
            application,
            bounds: Bounds::of(&self.configuration),
            // Nothing that a client may get carries a body; a pool that keeps nothing serves the decoder.
            pool: Pool::new(0),
            started: self.started,
            letter: Letter::default(),
            voice: &mut self.voice,
        };
        self.reactor.run(&mut service)
    }

    /// The client, for its counters.
    #[must_use]
    pub fn core(&self) -> &ClientCore {
        &self.core
    }
}

struct Hosting<'a, A> {
    core: &'a mut ClientCore,
    application: &'a mut A,
    bounds: Bounds,
    pool: Pool,
    started: Instant,
    letter: Letter,
    voice: &'a mut Option<Voice>,
}

impl<A> Hosting<'_, A> {
    fn time(&self, now: Instant) -> Time {
        Time(0) + now.saturating_duration_since(self.started)
    }
}

impl<A: Application> Service for Hosting<'_, A> {
    fn message(&mut self, net: &mut Net, _link: LinkId, from: Party, bytes: &[u8]) {
        let (Party::Node(from), now) = (from, self.time(net.now())) else {
            return;
        };
        // What cannot be decoded is a faulty node's; the link's MAC has excluded everybody else.
        let Ok(message) = wire::decode(bytes, &self.pool, &self.bounds) else {
            self.core.note_malformed();
            return;
        };
        let mut outlet = Outlet {
            now,
            net,
            application: self.application,
            letter: &mut self.letter,
            leader: self.core.leader(),
            voice: self.voice,
        };
        self.core.on_message(now, from, &message, &mut outlet);
    }

    fn link_up(&mut self, _net: &mut Net, _link: LinkId, party: Party) {
        if let Party::Node(node) = party {
            self.core.link_up(node);
        }
    }

    fn link_down(&mut self, net: &mut Net, _link: LinkId, party: Option<Party>, why: &LinkDown) {
        let Some(Party::Node(node)) = party else {
            return;
        };
        tracing::debug!("link to node {node}: {why}");
        // A newer link may have taken the place of the one that ended.
        if net.link_to(node).is_none() {
            self.core.link_down(node);
        }
    }

    fn turn(&mut self, net: &mut Net, now: Instant) {
        let now = self.time(now);
        let contacts = self.core.contacts();
        self.application.turn(&mut Turn {
            core: self.core,
            now,
            net,
            contacts,
        });
        let mut outlet = Outlet {
            now,
            net,
            application: self.application,
            letter: &mut self.letter,
            leader: self.core.leader(),
            voice: self.voice,
        };
        self.core.flush(now, &mut outlet);
    }

    fn deadline(&self) -> Option<Instant> {
        let deadline = earlier(self.core.deadline(), self.application.deadline(self.core))?;
        Some(self.started + Duration::from_nanos(deadline.0))
    }

    fn stopping(&self) -> bool {
        self.application.stopping()
    }
}

/// Carries out what the core wants done.
struct Outlet<'a, A> {
    now: Time,
    net: &'a mut Net,
    application: &'a mut A,
    letter: &'a mut Letter,
    /// Whom the core takes for the leader.
    leader: NodeId,
    voice: &'a mut Option<Voice>,
}

impl<A: Application> ClientEffects for Outlet<'_, A> {
    fn send(&mut self, to: NodeSet, message: &Message<'_>) {
        let net = &mut *self.net;
        if let Some(voice) = self.voice {
            return voice(self.leader, to, message, &mut |to, bytes| {
                send_all(net, to, bytes);
            });
        }
        let letter = self.letter.write(message);
        for node in to.iter() {
            if let Some(link) = net.link_to(node) {
                // What a full link drops is sent again when the call is due.
                let _ = letter.send(net, link);
            }
        }
    }

    fn opened(&mut self, session: SessionHandle, token: u64, result: Result<SessionId, OpenError>) {
        self.application.opened(self.now, session, token, result);
    }

    fn done(&mut self, session: SessionHandle, token: u64, outcome: CallOutcome<'_>) {
        self.application.done(self.now, session, token, outcome);
    }
}

fn send_all(net: &mut Net, to: NodeSet, bytes: &[u8]) {
    for node in to.iter() {
        if let Some(link) = net.link_to(node) {
            // What a full link drops is sent again when the call is due.
            let _ = net.send(link, bytes);
        }
    }
}

fn reactor_config(configuration: &Configuration, tuning: LoopTuning) -> ReactorConfig {
    let mut limits = Limits::default();
    let message_bytes_max = Bounds::of(configuration).message_bytes_max();
    limits.packet.message_bytes_max = limits.packet.message_bytes_max.max(message_bytes_max);
    limits.send_bytes_max = limits
        .send_bytes_max
        .max(4 * limits.packet.message_bytes_max);
    let mut config = ReactorConfig {
        limits,
        driver: tuning.driver,
        idle: tuning.idle,
        pin_core: tuning.pin_core,
        ..ReactorConfig::default()
    };
    tuning.carrier.apply(&mut config);
    config
}
