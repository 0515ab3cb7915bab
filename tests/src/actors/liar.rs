//! A node that lies: a real replica inside, and strategies that decide what others hear of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use twostep_crypto::{Digest, Identity, Scope, Signable, Signed};
use twostep_engine::batch::{Authenticator, Batch, Bundle, Malformed, TAG_BYTES};
use twostep_engine::configuration::Configuration;
use twostep_engine::machine::{Effects, Event, Input, Machine, Question, Record, To, earlier};
use twostep_engine::message::Message;
use twostep_engine::replica::{Replica, Setup};
use twostep_engine::types::{ClientId, Decree, NodeId, NodeSet, Party, RecordSeq, Regency, Time};
use twostep_engine::wire;
use twostep_net::pool::{Body, Pool};

use super::Strategy;
use super::plot::Plot;
use crate::random::Random;

/// What a liar has: the configuration, which everybody knows, and the keys of its own node.
pub struct Means {
    /// The cluster.
    pub configuration: Arc<Configuration>,
    /// Who it is.
    pub me: NodeId,
    /// T0.
    pub t0: Duration,
    scope: Scope,
    identity: Arc<Identity>,
    pool: Pool,
    /// The regency that its replica is in.
    regency: Regency,
    /// How long its replica waits for a leader: what correct nodes do as well, give or take a doubling.
    timeout: Duration,
    /// The newest checkpoint that its replica knows.
    low: Decree,
    /// The newest body with requests that went by.
    body: Option<Body>,
    /// What its replica is made of, in the simulator.
    setup: Option<Setup>,
}

impl Means {
    /// The means of node `me`, whose identity this is. Bodies that it makes up live in `pool`.
    #[must_use]
    pub fn new(
        configuration: Arc<Configuration>,
        me: NodeId,
        t0: Duration,
        identity: Arc<Identity>,
        pool: Pool,
    ) -> Means {
        Means {
            scope: configuration.scope(),
            configuration,
            me,
            t0,
            identity,
            pool,
            regency: Regency(0),
            timeout: t0,
            low: Decree::NONE,
            body: None,
            setup: None,
        }
    }

    /// What another replica with the same key can be made of; none in a real node.
    #[must_use]
    pub fn setup(&self) -> Option<Setup> {
        self.setup.clone()
    }

    /// The regency of the replica inside.
    #[must_use]
    pub fn regency(&self) -> Regency {
        self.regency
    }

    /// The newest certified checkpoint of the replica inside.
    #[must_use]
    pub fn low(&self) -> Decree {
        self.low
    }

    /// How long correct nodes wait for a leader, as far as the replica inside can tell.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether it leads the regency of its replica.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.configuration.leader(self.regency) == self.me
    }

    /// All proposers.
    #[must_use]
    pub fn proposers(&self) -> NodeSet {
        self.configuration.proposers().iter().copied().collect()
    }

    /// Signs with the own key.
    pub fn sign<T: Signable>(&self, content: T) -> Signed<T> {
        let me = Party::Node(self.me);
        self.identity
            .signing()
            .sign(&self.scope, me, content)
            .into_signed()
    }

    /// A batch with nothing in it.
    #[must_use]
    pub fn noop(&self) -> Batch {
        Batch::noop(&self.scope)
    }

    /// The same batch, in which every tag is wrong but that of one acceptor; none if it holds no tags. The value does not
    /// cover them.
    #[must_use]
    pub fn with_bad_tags(&self, body: &Body) -> Option<Body> {
        let limits = self.configuration.limits();
        let parsed = Batch::parse(body.clone(), &self.scope, limits, |_, _| {
            Ok::<(), Malformed>(())
        });
        let mut bytes = body.to_vec();
        let mut at = body.len() - parsed.as_ref().ok()?.bundles_len();
        let mut spoilt = false;
        for view in parsed.ok()?.bundles() {
            at += view.encoded().len();
            if let Authenticator::Mac(tags) = view.authenticator {
                spoilt = true;
                let places = (1..tags.len() / TAG_BYTES).map(|place| at - place * TAG_BYTES);
                places.for_each(|tag| bytes[tag] ^= 1);
            }
        }
        spoilt.then(|| self.pool.copy(&bytes))
    }

    /// The bundles of a body, with the clients that they say to be from.
    #[must_use]
    pub fn bundles_of(&self, body: &Body) -> Vec<(ClientId, Digest)> {
        let limits = self.configuration.limits();
        let mut bundles = Vec::new();
        // What is malformed holds nothing to talk about.
        let _ = Batch::parse(body.clone(), &self.scope, limits, |bundle, digest| {
            bundles.push((bundle.client, *digest));
            Ok::<(), Malformed>(())
        });
        bundles
    }

    /// Whose bundle this is.
    #[must_use]
    pub fn client_of(&self, bundle: &[u8]) -> Option<ClientId> {
        let limits = self.configuration.limits();
        let bundle = Bundle::parse(self.pool.copy(bundle), &self.scope, limits).ok()?;
        Some(bundle.view().client)
    }

    /// A batch of authentic requests that is not the one of `body`, the same for the same `number`: nothing at
    /// all for 0, else the newest requests once more than `number` times. Duplicates in a body are legal.
    #[must_use]
    pub fn variant(&self, body: &Body, number: usize) -> Batch {
        let noop = Batch::noop(&self.scope);
        let copies = if body.len() == noop.body().len() {
            number
        } else {
            number + 1
        };
        let requests = if body.len() == noop.body().len() {
            self.body.as_ref()
        } else {
            Some(body)
        };
        let Some(requests) = requests.filter(|_| number > 0) else {
            return noop;
        };
        let limits = self.configuration.limits();
        let parsed = Batch::parse(requests.clone(), &self.scope, limits, |_, _| {
            Ok::<(), Malformed>(())
        });
        let Ok(batch) = parsed else { return noop };
        let mut bundles = VecDeque::new();
        for view in (0..copies).flat_map(|_| batch.bundles()) {
            if let Ok(bundle) = Bundle::parse(self.pool.copy(view.encoded()), &self.scope, limits) {
                bundles.push_back(bundle);
            }
        }
        if bundles.is_empty() {
            return noop;
        }
        let most = limits.body_bytes_max as usize - noop.body().len();
        Batch::assemble(&self.pool, &self.scope, &mut bundles, most)
    }
}

/// What a strategy speaks with.
pub struct Mouth<'a> {
    /// When.
    pub now: Time,
    /// What it has.
    pub means: &'a Means,
    /// Its chance.
    pub random: &'a mut Random,
    /// What all liars know.
    pub plot: &'a mut Plot,
    /// Its name.
    name: &'static str,
    fx: &'a mut dyn Effects,
}

impl Mouth<'_> {
    /// Says what the replica wanted to say, or something as true.
    pub fn truth(&mut self, to: NodeSet, message: &Message<'_>) {
        let to = to.minus(NodeSet::one(self.means.me));
        if !to.is_empty() {
            self.fx.send(To::Nodes(to), message);
        }
    }

    /// Says something that no correct node would say now, to these.
    pub fn lie(&mut self, to: NodeSet, message: &Message<'_>) {
        let to = to.minus(NodeSet::one(self.means.me));
        if !to.is_empty() {
            self.lie_to(To::Nodes(to), message);
        }
    }

    /// The same to nodes or a client.
    pub fn lie_to(&mut self, to: To, message: &Message<'_>) {
        let mut bytes = Vec::new();
        wire::encode(message, &mut bytes);
        self.plot.lied(self.name, self.means.me, &bytes);
        if let Message::Propose { decree, value, .. } = message {
            self.plot.learn_value(*decree, *value);
        }
        self.fx.send(to, message);
    }

    /// Says nothing where something is due.
    pub fn withhold(&mut self, from: To) {
        let (nodes, clients) = match from {
            To::Nodes(nodes) => (nodes, 0),
            To::Client(_) => (NodeSet::EMPTY, 1),
        };
        self.plot.withheld(self.name, nodes, clients);
    }

    /// Each of `nodes` with this chance in a thousand.
    pub fn some(&mut self, nodes: NodeSet, per_mille: u64) -> NodeSet {
        nodes
            .iter()
            .filter(|_| self.random.chance(per_mille))
            .collect()
    }
}

/// The strategies that a node plays, by name; of two that want to change the same message the first does.
pub type Part = Vec<(&'static str, Box<dyn Strategy>)>;

/// A node that lies. With no strategies to play it is a plain replica.
pub struct Liar {
    inner: Replica,
    means: Means,
    random: Random,
    strategies: Part,
    plot: Arc<Mutex<Plot>>,
}

impl Liar {
    /// A liar with these strategies.
    ///
    /// # Panics
    /// If the keys in `setup` are unusable, which those of the simulator are not.
    #[must_use]
    pub fn new(setup: Setup, strategies: Part, plot: Arc<Mutex<Plot>>, random: Random) -> Liar {
        let means = Means {
            setup: Some(setup.clone()),
            ..Means::new(
                Arc::clone(&setup.configuration),
                setup.me,
                setup.tuning.t0,
                Arc::clone(&setup.identity),
                setup.pool.clone(),
            )
        };
        let inner = Replica::new(setup).expect("the simulator's keys are sound");
        let mut liar = Liar::around(inner, means, plot, random);
        liar.play(strategies);
        liar
    }

    /// Around a replica; truthful until it is told what to play.
    #[must_use]
    pub fn around(inner: Replica, means: Means, plot: Arc<Mutex<Plot>>, random: Random) -> Liar {
        Liar {
            inner,
            means,
            random,
            strategies: Part::new(),
            plot,
        }
    }

    /// Plays these strategies from now on, in place of others.
    pub fn play(&mut self, strategies: Part) {
        // While it was truthful nobody looked.
        let report = self.inner.report();
        (self.means.regency, self.means.low) = (report.regency, report.low);
        self.strategies = strategies;
    }

    /// The names of what it plays.
    #[must_use]
    pub fn plays(&self) -> Vec<&'static str> {
        self.strategies.iter().map(|(name, _)| *name).collect()
    }

    /// What it has.
    #[must_use]
    pub fn means(&self) -> &Means {
        &self.means
    }

    /// What it knows of other liars, and its count.
    #[must_use]
    pub fn plot(&self) -> &Mutex<Plot> {
        &self.plot
    }

    /// The replica inside.
    #[must_use]
    pub fn replica(&self) -> &Replica {
        &self.inner
    }
}

impl Machine for Liar {
    fn step(&mut self, now: Time, input: Input<'_>, fx: &mut dyn Effects) {
        if self.strategies.is_empty() {
            return self.inner.step(now, input, fx);
        }
        let plot = &mut *self.plot.lock().unwrap_or_else(PoisonError::into_inner);
        let mut hears = true;
        match &input {
            Input::Message { from, message } => {
                match message {
                    Message::Propose {
                        decree,
                        value,
                        body,
                        ..
                    } => {
                        plot.learn_value(*decree, *value);
                        self.means.see(body);
                    }
                    Message::Report(report) => plot.learn_report(report),
                    Message::NewRegency(shown) => plot.learn_voucher(shown),
                    _ => {}
                }
                for (name, strategy) in &mut self.strategies {
                    let mouth = &mut Mouth {
                        now,
                        means: &self.means,
                        random: &mut self.random,
                        plot,
                        name,
                        fx,
                    };
                    hears &= strategy.hear(*from, message, mouth);
                }
            }
            Input::Tick => {
                for (name, strategy) in &mut self.strategies {
                    strategy.tick(&mut Mouth {
                        now,
                        means: &self.means,
                        random: &mut self.random,
                        plot,
                        name,
                        fx,
                    });
                }
            }
            _ => {}
        }
        if hears {
            let lips = &mut Lips {
                now,
                means: &mut self.means,
                random: &mut self.random,
                plot,
                strategies: &mut self.strategies,
                fx,
            };
            self.inner.step(now, input, lips);
        }
    }

    fn deadline(&self) -> Option<Time> {
        let strategies = self.strategies.iter();
        strategies
            .map(|(_, strategy)| strategy.deadline())
            .fold(self.inner.deadline(), earlier)
    }
}

impl Means {
    fn see(&mut self, body: &Body) {
        if body.len() > Batch::noop(&self.scope).body().len() {
            self.body = Some(body.clone());
        }
    }
}

/// Between the replica and the world.
struct Lips<'a> {
    now: Time,
    means: &'a mut Means,
    random: &'a mut Random,
    plot: &'a mut Plot,
    strategies: &'a mut Part,
    fx: &'a mut dyn Effects,
}

impl Effects for Lips<'_> {
    fn send(&mut self, to: To, message: &Message<'_>) {
        match message {
            Message::Propose {
                decree,
                value,
                body,
                ..
            } => {
                self.plot.learn_value(*decree, *value);
                self.means.see(body);
            }
            Message::NewRegency(shown) => self.plot.learn_voucher(shown),
            Message::Report(report) => self.plot.learn_report(report),
            _ => {}
        }
        for (name, strategy) in self.strategies.iter_mut() {
            let mouth = &mut Mouth {
                now: self.now,
                means: self.means,
                random: self.random,
                plot: self.plot,
                name,
                fx: self.fx,
            };
            if strategy.say(to, message, mouth) {
                return;
            }
        }
        self.fx.send(to, message);
    }

    fn store(&mut self, seq: RecordSeq, record: &Record<'_>) {
        self.fx.store(seq, record);
    }

    fn deliver(&mut self, decree: Decree, batch: &Batch) {
        self.fx.deliver(decree, batch);
    }

    fn ask(&mut self, question: Question) {
        self.fx.ask(question);
    }

    fn observe(&mut self, event: Event) {
        match event {
            Event::Regency { regency } => self.means.regency = regency,
            Event::Timeout { timeout } => self.means.timeout = timeout,
            Event::Low { decree } => self.means.low = decree,
            _ => {}
        }
        self.fx.observe(event);
    }
}
