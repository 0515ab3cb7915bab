//! Worlds in which nodes and clients lie, and leaders have trouble that is not their fault.

use std::time::Duration;

use twostep_engine::configuration::Roles;
use twostep_engine::quorum::FaultModel;
use twostep_engine::types::NodeId;

use super::{Fault, FaultKind, Frame, OPERATIONS_MIN, Plan, Trouble};
use crate::actors::clients::{CLIENT_STRATEGIES, ClientActor, client_by_name};
use crate::actors::troupe::Actor;
use crate::actors::{STRATEGIES, by_name};
use crate::random::Random;
use crate::topology::{Topology, roles};

/// What all liars of a seed play if one of them does.
const COLLUSION: &str = "favouring-leader";

/// A world as without liars, in which liars take the place of nodes that stop. `strategy` is played by one of them.
pub(super) fn draw(frame: &Frame, strategy: Option<&'static str>, seed: u64) -> Plan {
    let random = &mut Random::fork(seed, "actors");
    let topology = if random.chance(850) {
        Topology::Shared
    } else {
        Topology::Separate
    };
    let frame = &Frame {
        topology: frame.topology.or(Some(topology)),
        leader_stops: true,
        ..*frame
    };
    let mut plan = Plan::draw_world(frame, seed);
    let trouble = leader_trouble(&mut Random::fork(seed, "leaders"), plan.tuning.t0);
    plan.faults.extend(trouble);
    plan.faults.sort_by_key(|fault| fault.at);
    // Some seeds of mode F have stops and no liars, like all of mode C.
    let only_stops = random.chance(100) && strategy.is_none();
    if frame.model == FaultModel::Crash || only_stops {
        return plan;
    }
    // With f > 1 one of the faults may be a stop.
    let mut stops = (random.chance(300) && frame.f > 1).then_some(());
    let mut stopped = None;
    plan.faults.retain(|fault| match fault.what {
        FaultKind::Crash { node, .. } => {
            let stays = stops.take().is_some();
            stopped = stopped.or(stays.then_some(node));
            stays
        }
        FaultKind::Loss { .. }
        | FaultKind::Journal { .. }
        | FaultKind::Blackout { .. }
        | FaultKind::Cut { .. }
        | FaultKind::Leader { .. } => true,
        FaultKind::Corrupt { .. } => false,
    });
    plan.actors = liars(random, frame, plan.topology, stopped, strategy);
    plan.client_actors = lying_clients(seed, plan.clients.count, strategy);
    plan
}

/// In half of the seeds one or two leaders in a row are cut off or slow, long enough for others to depose them.
fn leader_trouble(random: &mut Random, t0: Duration) -> Vec<Fault> {
    let count = if random.chance(500) {
        random.between(1, 2)
    } else {
        0
    };
    let slow_max_ns = u64::try_from(t0.as_nanos()).expect("T0 is short") * 3;
    let mut one = || Fault {
        at: random.below(OPERATIONS_MIN),
        what: FaultKind::Leader {
            trouble: match random.below(4) {
                0 => Trouble::Mute,
                1 => Trouble::Deaf,
                2 => Trouble::Alone,
                _ => Trouble::Slow(random.between(slow_max_ns / 3, slow_max_ns)),
            },
            lasting: t0 * u32::try_from(random.between(4, 12)).expect("small"),
        },
    };
    (0..count).map(|_| one()).collect()
}

/// Up to f liars in every class beside the node that stops, each with one to three strategies.
fn liars(
    random: &mut Random,
    frame: &Frame,
    topology: Topology,
    stopped: Option<NodeId>,
    strategy: Option<&'static str>,
) -> Vec<Actor> {
    let f = frame.f;
    let roles = roles(frame.model, f, topology);
    let mut candidates: Vec<usize> = (0..roles.len()).collect();
    let mut order = random.draw(&mut candidates, roles.len());
    // Those that lead first: a liar does most harm where it leads.
    if random.chance(700) {
        let first = usize::from(random.chance(400));
        order.insert(0, first);
        if random.chance(500) {
            order.insert(1, 1 - first);
        }
    }
    let wanted = strategy.and_then(by_name);
    order.sort_by_key(|node| wanted.is_some_and(|entry| !(entry.fits)(&roles[*node])));
    let id = |node: usize| NodeId(u16::try_from(node).expect("a configuration has few nodes"));
    let mut actors: Vec<Actor> = Vec::new();
    let mut used = [0; 3];
    let held = |node: usize| {
        let Roles {
            acceptor,
            learner,
            proposer,
        } = roles[node];
        [acceptor, learner, proposer].map(usize::from)
    };
    if let Some(node) = stopped {
        used = held(usize::from(node.0));
    }
    for node in order {
        let known = actors.iter().any(|actor| actor.node == id(node));
        let after: Vec<usize> = (0..3)
            .map(|class| used[class] + held(node)[class])
            .collect();
        if known || stopped == Some(id(node)) || after.iter().any(|count| *count > f) {
            continue;
        }
        used.copy_from_slice(&after);
        let fits = STRATEGIES.iter().filter(|entry| (entry.fits)(&roles[node]));
        let mut names: Vec<&'static str> = fits.map(|entry| entry.name).collect();
        let count = usize::try_from(random.between(1, 3)).expect("small");
        let mut strategies = random.draw(&mut names, count);
        // One strategy that is asked for is seen best where no other is in its way.
        if let Some(entry) = wanted.filter(|_| actors.is_empty()) {
            strategies.retain(|name| *name != entry.name && random.chance(300));
            strategies.insert(0, entry.name);
        }
        actors.push(Actor {
            node: id(node),
            strategies,
        });
    }
    // Alone a favourer does nothing.
    let plays = |actor: &Actor| actor.strategies.contains(&COLLUSION);
    if actors.iter().any(plays) {
        for actor in &mut actors {
            actor.strategies.retain(|name| *name != COLLUSION);
            actor.strategies.insert(0, COLLUSION);
        }
    }
    actors
}

/// In a third of the worlds one or two clients lie, the last ones; where one strategy is asked for, that one or none.
fn lying_clients(seed: u64, clients: usize, strategy: Option<&'static str>) -> Vec<ClientActor> {
    let random = &mut Random::fork(seed, "lying clients");
    let wanted = strategy.and_then(client_by_name);
    let lie = wanted.is_some() || (strategy.is_none() && random.chance(333));
    if !lie {
        return Vec::new();
    }
    let count = usize::try_from(random.between(1, 2)).expect("small");
    let mut play = || {
        wanted
            .unwrap_or_else(|| random.pick(&CLIENT_STRATEGIES))
            .name
    };
    (clients - count..clients)
        .map(|client| ClientActor {
            client,
            strategy: play(),
        })
        .collect()
}
