//! Nodes that stop and start again with their disks: one by one, and all at once. They do not count among the f, so any
//! number of them may do so at any time; only while they are down may nothing happen. And nodes that lose their disks and
//! take part again, at most f at a time.

use std::time::Duration;

use twostep_engine::machine::JournalState;
use twostep_engine::types::NodeId;

use super::{Fault, FaultKind, OPERATIONS_MIN, Plan};
use crate::disk::Fate;
use crate::random::Random;
use crate::topology::roles;

/// What a disk keeps if it is not lost.
const FATES: [Fate; 3] = [Fate::Kept, Fate::TailLost, Fate::Torn];

/// Lets some nodes of a drawn world restart that do not lie.
pub(super) fn add(plan: &mut Plan, random: &mut Random) {
    let nodes = roles(plan.model, plan.f, plan.topology).len();
    let id = |node: u64| NodeId(u16::try_from(node).expect("a configuration has few nodes"));
    if random.chance(500) {
        for _ in 0..random.between(1, 6) {
            let node = id(random.below(nodes as u64));
            let what = FaultKind::Crash {
                node,
                fate: *random.pick(&FATES),
                rejoin_after: Some(pause(random, plan.tuning.t0)),
            };
            let at = random.below(OPERATIONS_MIN);
            if !plan.actors.iter().any(|actor| actor.node == node) {
                plan.faults.push(Fault { at, what });
            }
        }
    }
    if random.chance(300) {
        for _ in 0..random.between(1, 3) {
            let what = FaultKind::Blackout {
                fate: *random.pick(&FATES),
                after: pause(random, plan.tuning.t0),
            };
            let at = random.below(OPERATIONS_MIN);
            plan.faults.push(Fault { at, what });
        }
    }
    if random.chance(250) {
        for _ in 0..random.between(1, 4) {
            let node = id(random.below(nodes as u64));
            let states = [JournalState::Slow, JournalState::Full, JournalState::Failed];
            let what = FaultKind::Journal {
                node,
                state: *random.pick(&states),
                lasting: plan.tuning.t0 * u32::try_from(random.between(1, 15)).expect("small"),
            };
            let at = random.below(OPERATIONS_MIN);
            if !plan.actors.iter().any(|actor| actor.node == node) {
                plan.faults.push(Fault { at, what });
            }
        }
    }
    let spare =
        plan.faults.iter().all(|fault| comes_back(&fault.what)) && plan.actors.len() < plan.f;
    if spare && random.chance(600) {
        for _ in 0..random.between(1, 3) {
            let node = id(random.below(nodes as u64));
            let after = pause(random, plan.tuning.t0);
            let at = random.below(OPERATIONS_MIN);
            if !plan.actors.iter().any(|actor| actor.node == node) {
                let what = FaultKind::Loss { node, after };
                plan.faults.push(Fault { at, what });
            }
        }
    }
    plan.faults.sort_by_key(|fault| fault.at);
}

/// Whether it leaves no node down or without its disk.
fn comes_back(what: &FaultKind) -> bool {
    match what {
        FaultKind::Crash {
            fate, rejoin_after, ..
        } => *fate != Fate::AllLost && rejoin_after.is_some(),
        FaultKind::Loss { .. } | FaultKind::Corrupt { .. } => false,
        FaultKind::Journal { .. }
        | FaultKind::Blackout { .. }
        | FaultKind::Cut { .. }
        | FaultKind::Leader { .. } => true,
    }
}

/// How long a node is down: often so shortly that nobody has noticed.
fn pause(random: &mut Random, t0: Duration) -> Duration {
    if random.chance(400) {
        return t0 / 50;
    }
    t0 * u32::try_from(random.between(0, 12)).expect("small")
}
