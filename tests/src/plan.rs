//! What one seed draws: topology, window, links, disks, faults, clients. The swarm.
//!
//! A plan is a function of the options and the seed alone. Faults strike at a number of committed operations,
//! not at a time, so that each one strikes while there is work, however fast the drawn links are.

mod lying;
mod restarts;

use std::time::Duration;

use twostep_engine::configuration::{Limits, Roles, Tuning};
use twostep_engine::machine::JournalState;
use twostep_engine::quorum::FaultModel;
use twostep_engine::types::{NodeId, NodeSet};

use crate::actors::clients::ClientActor;
use crate::actors::troupe::Actor;
use crate::disk::{Fate, SyncProfile};
use crate::network::LinkProfile;
use crate::random::Random;
use crate::topology::{Classes, Topology, roles};

/// Which worlds to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimOptions {
    /// The fault model; `None` draws it where nodes lie, and is FaB elsewhere.
    pub model: Option<FaultModel>,
    /// Faults to bear, at least 1; `None` draws one or two where nodes lie, and is one elsewhere.
    pub f: Option<usize>,
    /// Draw every seed on this topology; `None` draws the topology as well.
    pub topology: Option<Topology>,
    /// Let the leader of regency 0 stop as well.
    pub leader_stops: bool,
    /// Whether nodes lie.
    pub faults: Faults,
    /// A strategy of [`crate::actors`] that some node, or client, plays in every seed in which nodes lie.
    pub strategy: Option<&'static str>,
    /// Let logs in memory hold next to nothing, and the journals serve what is in them no more.
    pub archives: bool,
}

/// What may be wrong with nodes beside stopping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Faults {
    /// Nothing.
    #[default]
    None,
    /// Up to f nodes of every class play strategies of [`crate::actors`]; in mode C the first leader stops as well.
    All,
}

impl Default for SimOptions {
    fn default() -> SimOptions {
        SimOptions {
            model: None,
            f: None,
            topology: None,
            leader_stops: false,
            faults: Faults::None,
            strategy: None,
            archives: false,
        }
    }
}

impl SimOptions {
    /// The fault model and f of a seed. Most drawn seeds are small ones of mode F: two faults take four times as
    /// long to run, and mode C has no liars.
    fn size(&self, random: &mut Random) -> (FaultModel, usize) {
        let lies = self.faults == Faults::All;
        let model = if lies && self.strategy.is_none() && random.chance(200) {
            FaultModel::Crash
        } else {
            FaultModel::Fab
        };
        let f = if lies && random.chance(300) { 2 } else { 1 };
        (self.model.unwrap_or(model), self.f.unwrap_or(f))
    }
}

/// What is fixed before a world is drawn.
#[derive(Clone, Copy, Debug)]
struct Frame {
    model: FaultModel,
    f: usize,
    topology: Option<Topology>,
    leader_stops: bool,
}

/// Committed operations that every seed reaches at least.
pub const OPERATIONS_MIN: u64 = 300;
/// Certified checkpoints that every seed reaches at least.
pub const CHECKPOINTS_MIN: u64 = 3;

/// The most that logs hold where journals serve what is in them no more: some decrees. Bytes.
const LOG_BYTES_MAX: u64 = 4096;

/// Everything that decides one run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The fault model.
    pub model: FaultModel,
    /// Faults to bear.
    pub f: usize,
    /// Where the roles are.
    pub topology: Topology,
    /// W, K and the bounds of bodies.
    pub limits: Limits,
    /// T0, pipeline and queues of every node.
    pub tuning: Tuning,
    /// The links until they heal.
    pub links: LinkProfile,
    /// The disks.
    pub syncs: SyncProfile,
    /// How long a decree takes to execute. Nanoseconds, drawn evenly from 0 up to this.
    pub execution_max_ns: u64,
    /// How long a node collects inputs before it ends its turn. Nanoseconds.
    pub turn_ns: u64,
    /// The clients.
    pub clients: ClientPlan,
    /// Whether nodes read back for others what their journals hold.
    pub archives: bool,
    /// What strikes, in the order in which it strikes.
    pub faults: Vec<Fault>,
    /// Who lies, and how.
    pub actors: Vec<Actor>,
    /// Which clients lie, and how.
    pub client_actors: Vec<ClientActor>,
}

/// How many clients there are and what they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientPlan {
    /// Client identities.
    pub count: usize,
    /// Sessions of each.
    pub sessions: usize,
    /// Calls in flight per session, at most 64.
    pub pipeline: usize,
    /// How long a client waits before it retries for the first time.
    pub retry: Duration,
    /// The longest it waits between retries.
    pub retry_max: Duration,
    /// After how long a call ends as unknown.
    pub deadline: Duration,
    /// How long a client rests after each answer. Nanoseconds, drawn evenly from 0 up to this.
    pub rest_max_ns: u64,
    /// How many of 1000 operations carry a larger value instead of counting.
    pub put_per_mille: u64,
}

/// Something that goes wrong once so many operations are committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The number of committed operations at which it strikes.
    pub at: u64,
    /// What happens.
    pub what: FaultKind,
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A node stops, unless it is down already.
    Crash {
        /// Which one.
        node: NodeId,
        /// What its disk keeps.
        fate: Fate,
        /// When it starts again, with what its disk kept.
        rejoin_after: Option<Duration>,
    },
    /// A node loses its disk, if fewer than f others are faulty at that time, and starts again: it asks the others for what
    /// it must know, and takes part again.
    Loss {
        /// Which one.
        node: NodeId,
        /// When it starts again.
        after: Duration,
    },
    /// The journal of a node keeps nothing for a while.
    Journal {
        /// Whose.
        node: NodeId,
        /// What it says of itself: a slow one hangs, and says nothing.
        state: JournalState,
        /// For how long.
        lasting: Duration,
    },
    /// All nodes that do not lie stop at once, and start again.
    Blackout {
        /// What their disks keep.
        fate: Fate,
        /// When they start again.
        after: Duration,
    },
    /// The state of a learner is damaged, and it does not know: a state machine that is not deterministic, a bit of memory.
    Corrupt {
        /// Which one.
        node: NodeId,
    },
    /// Messages from one side to the other are lost for a while.
    Cut {
        /// Who is not heard.
        from: NodeSet,
        /// By whom.
        to: NodeSet,
        /// For how long.
        lasting: Duration,
    },
    /// The leader of the newest regency that a correct node is in has trouble, though it is not to blame.
    Leader {
        /// Of what kind.
        trouble: Trouble,
        /// For how long.
        lasting: Duration,
    },
}

/// What a correct leader may suffer from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No node hears it.
    Mute,
    /// It hears no node.
    Deaf,
    /// Both.
    Alone,
    /// All that it says is under way for so much longer. Nanoseconds.
    Slow(u64),
}

impl Plan {
    /// What `seed` draws.
    #[must_use]
    pub fn draw(options: &SimOptions, seed: u64) -> Plan {
        let (model, f) = options.size(&mut Random::fork(seed, "size"));
        let frame = Frame {
            model,
            f,
            topology: options.topology,
            leader_stops: options.leader_stops,
        };
        let mut plan = match options.faults {
            Faults::None => Plan::draw_world(&frame, seed),
            Faults::All => lying::draw(&frame, options.strategy, seed),
        };
        restarts::add(&mut plan, &mut Random::fork(seed, "restarts"));
        if options.archives {
            plan.archives = true;
            let bytes = Random::fork(seed, "archives").between(1, LOG_BYTES_MAX);
            plan.tuning.log_bytes_max = usize::try_from(bytes).expect("a small number");
            // A state that is damaged is mended from the own log, which has to be long enough for it.
            plan.faults
                .retain(|fault| !matches!(fault.what, FaultKind::Corrupt { .. }));
        }
        plan
    }

    fn draw_world(frame: &Frame, seed: u64) -> Plan {
        let mut random = Random::fork(seed, "plan");
        let random = &mut random;
        let topology = frame
            .topology
            .unwrap_or_else(|| *random.pick(&[Topology::Shared, Topology::Separate]));
        let limits = limits(random);
        let links = links(random);
        let slowest = if links.late_per_mille > 0 {
            links.delay_max_ns * 2
        } else {
            links.delay_max_ns
        };
        let t0 = Duration::from_nanos(slowest * random.between(4, 16));
        let syncs = SyncProfile {
            delay_min_ns: 0,
            delay_max_ns: links.delay_max_ns * random.below(3),
            hang_per_mille: if random.chance(250) { 5 } else { 0 },
        };
        let apart = &mut Random::fork(seed, "snapshots");
        let tuning = Tuning {
            t0,
            in_flight_max: random.between(1, 16),
            log_decrees_max: *apart.pick(&[1 << 20, 64, 1]),
            ..Tuning::default()
        };
        let clients = ClientPlan {
            count: usize::try_from(random.between(3, 8)).expect("a small number"),
            sessions: usize::try_from(random.between(1, 2)).expect("a small number"),
            pipeline: usize::try_from(random.between(1, 8)).expect("a small number"),
            retry: t0 * 2,
            retry_max: t0 * 16,
            deadline: t0 * 10_000,
            rest_max_ns: if random.chance(300) {
                links.delay_max_ns * 4
            } else {
                0
            },
            put_per_mille: *random.pick(&[0, 50, 300]),
        };
        let mut faults = faults(random, frame, topology, t0);
        if frame.model == FaultModel::Fab {
            damage(apart, frame, topology, &mut faults);
        }
        Plan {
            model: frame.model,
            f: frame.f,
            topology,
            limits,
            tuning,
            links,
            syncs,
            execution_max_ns: links.delay_max_ns * random.below(2),
            turn_ns: *random.pick(&[0, 1_000, 20_000, 100_000]),
            clients,
            archives: false,
            faults,
            actors: Vec::new(),
            client_actors: Vec::new(),
        }
    }

    /// A calm world in which every link takes exactly one unit and everything else no time at all.
    #[must_use]
    pub fn unit(model: FaultModel, f: usize, topology: Topology, unit_ns: u64) -> Plan {
        let t0 = Duration::from_nanos(unit_ns * 1000);
        Plan {
            model,
            f,
            topology,
            limits: Limits::default(),
            tuning: Tuning {
                t0,
                ..Tuning::default()
            },
            links: LinkProfile::unit(unit_ns),
            syncs: SyncProfile::INSTANT,
            execution_max_ns: 0,
            turn_ns: 0,
            clients: ClientPlan {
                count: 1,
                sessions: 1,
                pipeline: 1,
                retry: t0 * 2,
                retry_max: t0 * 16,
                deadline: t0 * 1000,
                rest_max_ns: 0,
                put_per_mille: 0,
            },
            archives: false,
            faults: Vec::new(),
            actors: Vec::new(),
            client_actors: Vec::new(),
        }
    }

    /// How a client lies, if it does.
    #[must_use]
    pub fn strategy_of(&self, client: usize) -> Option<&'static str> {
        let mut actors = self.client_actors.iter();
        let actor = actors.find(|actor| actor.client == client)?;
        Some(actor.strategy)
    }

    /// How long it may take until everything is at rest once no client calls any more:
    ///
    /// `4·(retry_max + 8·T0 + 2·W·hop)`, where a hop is one message, one sync and one execution at their slowest.
    /// A client whose last message was lost says it again within `retry_max`. Whatever a node last said into
    /// the void it says again within T0 (PROTOCOL.md section 3), and the repair of a gap is a chain of at most
    /// four such things: a lost proposal, its votes, a checkpoint, its certificate, each with one answer. What
    /// was missed below the window's base is pulled decree by decree in the worst case: at most W of them, each
    /// a question and an answer.
    #[must_use]
    pub fn rest_bound(&self) -> Duration {
        let pulls = Duration::from_nanos(2 * self.limits.window * self.hop_ns());
        (self.clients.retry_max + self.tuning.t0 * 8 + pulls) * 4
    }

    /// How long a leader may fill the order for a node that lost its disk: 3W + K decrees, one after the other, each a
    /// proposal, its votes and their acknowledgement.
    #[must_use]
    pub fn fill_bound(&self) -> Duration {
        let decrees = 3 * self.limits.window + self.limits.checkpoint_every;
        Duration::from_nanos(3 * decrees * self.hop_ns())
    }

    fn hop_ns(&self) -> u64 {
        let hang = if self.syncs.hang_per_mille > 0 { 20 } else { 1 };
        self.links.delay_max_ns
            + self.syncs.delay_max_ns * hang
            + self.execution_max_ns
            + self.turn_ns
    }
}

/// W is drawn by its magnitude, so that small windows, which wait for their checkpoints all the time, are as
/// frequent as large ones.
fn limits(random: &mut Random) -> Limits {
    let base = 8 << random.below(5);
    let window = random.between(base, base * 2);
    let checkpoint_every = random.between((window / 8).max(1), window / 2);
    let snapshot_every = checkpoint_every * random.between(1, 8);
    Limits {
        window,
        checkpoint_every,
        snapshot_every,
        body_bytes_max: 64 << 10,
        request_bytes_max: 8 << 10,
        ..Limits::default()
    }
}

fn links(random: &mut Random) -> LinkProfile {
    let delay_min_ns = random.between(20_000, 1_000_000);
    LinkProfile {
        delay_min_ns,
        delay_max_ns: delay_min_ns * random.between(1, 20),
        late_per_mille: *random.pick(&[0, 0, 10, 50]),
        loss_per_mille: *random.pick(&[0, 10, 100, 200, 300]),
        double_per_mille: *random.pick(&[0, 10, 100]),
    }
}

fn faults(random: &mut Random, frame: &Frame, topology: Topology, t0: Duration) -> Vec<Fault> {
    let roles = roles(frame.model, frame.f, topology);
    let classes = Classes::of(frame.model, frame.f);
    let id = |node: usize| NodeId(u16::try_from(node).expect("a configuration has few nodes"));
    let mut faults = Vec::new();
    if random.chance(700) {
        for node in victims(random, frame, &roles) {
            let fate = *random.pick(&[Fate::Kept, Fate::TailLost, Fate::AllLost]);
            let rejoin_after = random
                .chance(400)
                .then(|| t0 * u32::try_from(random.between(0, 20)).expect("small"));
            faults.push(Fault {
                at: random.below(OPERATIONS_MIN),
                what: FaultKind::Crash {
                    node: id(node),
                    fate,
                    rejoin_after,
                },
            });
        }
    }
    for _ in 0..random.below(4) {
        let everyone: NodeSet = (0..roles.len()).map(id).collect();
        let some: NodeSet = everyone.iter().filter(|_| random.chance(300)).collect();
        let others = everyone.minus(some);
        let lasting = t0 * u32::try_from(random.between(1, 8)).expect("small");
        let at = random.below(OPERATIONS_MIN);
        faults.push(Fault {
            at,
            what: FaultKind::Cut {
                from: some,
                to: others,
                lasting,
            },
        });
        if random.chance(500) {
            faults.push(Fault {
                at,
                what: FaultKind::Cut {
                    from: others,
                    to: some,
                    lasting,
                },
            });
        }
    }
    assert!(
        classes.acceptors > frame.f,
        "a majority outlives its faults"
    );
    faults.sort_by_key(|fault| fault.at);
    faults
}

/// A node that comes back with its disk does not count among the f.
fn is_borne(fault: &Fault) -> bool {
    let comes_back = |fate, rejoin: Option<Duration>| fate != Fate::AllLost && rejoin.is_some();
    matches!(fault.what, FaultKind::Crash { fate, rejoin_after, .. } if comes_back(fate, rejoin_after))
}

/// A quarter of the learners that would stop have their state damaged instead. In mode C that is beyond the bound.
fn damage(random: &mut Random, frame: &Frame, topology: Topology, faults: &mut [Fault]) {
    let roles = roles(frame.model, frame.f, topology);
    for fault in faults {
        if let FaultKind::Crash { node, .. } = fault.what
            && roles[usize::from(node.0)].learner
            && !is_borne(fault)
            && random.chance(250)
        {
            fault.what = FaultKind::Corrupt { node };
        }
    }
}

/// Up to f acceptors and up to f learners; the leader of regency 0 only if asked for.
/// A proposer may stop as well where it has no other role: it is not needed.
fn victims(random: &mut Random, frame: &Frame, roles: &[Roles]) -> Vec<usize> {
    let f = frame.f;
    let leader = roles
        .iter()
        .position(|roles| roles.proposer)
        .expect("there is a proposer");
    let spared = |node: &usize| *node == leader && !frame.leader_stops;
    let mut candidates: Vec<usize> = (0..roles.len()).filter(|node| !spared(node)).collect();
    let order = random.draw(&mut candidates, roles.len());
    let (mut acceptors, mut learners, mut proposers) = (0, 0, 0);
    let mut victims = Vec::new();
    for node in order {
        let Some(role) = roles.get(node) else {
            continue;
        };
        let fits = |count: usize, held: bool| !held || count < f;
        if fits(acceptors, role.acceptor)
            && fits(learners, role.learner)
            && fits(proposers, role.proposer)
        {
            acceptors += usize::from(role.acceptor);
            learners += usize::from(role.learner);
            proposers += usize::from(role.proposer);
            victims.push(node);
        }
    }
    victims
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_plan() {
        let options = SimOptions::default();
        assert_eq!(
            format!("{:?}", Plan::draw(&options, 9)),
            format!("{:?}", Plan::draw(&options, 9))
        );
        assert_ne!(
            format!("{:?}", Plan::draw(&options, 9)),
            format!("{:?}", Plan::draw(&options, 10))
        );
    }

    #[test]
    fn plans_stay_within_what_the_protocol_bears() {
        for model in [FaultModel::Fab, FaultModel::Crash] {
            for seed in 0..500 {
                let options = SimOptions {
                    model: Some(model),
                    f: Some(1 + usize::try_from(seed % 3).unwrap()),
                    ..SimOptions::default()
                };
                let plan = Plan::draw(&options, seed);
                assert!((8..=256).contains(&plan.limits.window));
                assert!(plan.limits.checkpoint_every * 2 <= plan.limits.window);
                assert!(plan.links.loss_per_mille <= 300);
                assert!(plan.clients.count >= 3);
                let roles = roles(model, plan.f, plan.topology);
                let crashed = |role: fn(&twostep_engine::configuration::Roles) -> bool| {
                    let of = |fault: &&Fault| match fault.what {
                        _ if is_borne(fault) => false,
                        FaultKind::Crash { node, .. } | FaultKind::Corrupt { node } => {
                            role(&roles[usize::from(node.0)])
                        }
                        FaultKind::Loss { .. }
                        | FaultKind::Journal { .. }
                        | FaultKind::Blackout { .. }
                        | FaultKind::Cut { .. }
                        | FaultKind::Leader { .. } => false,
                    };
                    plan.faults.iter().filter(of).count()
                };
                assert!(crashed(|roles| roles.acceptor) <= plan.f);
                assert!(crashed(|roles| roles.learner) <= plan.f);
                let leader = |fault: &Fault| {
                    let of_leader = matches!(
                        fault.what,
                        FaultKind::Crash {
                            node: NodeId(0),
                            ..
                        }
                    );
                    of_leader && !is_borne(fault)
                };
                assert!(!plan.faults.iter().any(leader), "the leader stays up");
            }
        }
    }
}
