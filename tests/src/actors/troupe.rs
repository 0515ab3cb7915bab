//! The cast of a world in which some nodes lie.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use twostep_engine::machine::Machine;
use twostep_engine::replica::{Replica, Setup};
use twostep_engine::types::{NodeId, NodeSet};

use super::by_name;
use super::liar::Liar;
use super::plot::{Lies, Plot};
use crate::random::Random;
use crate::world::Cast;

/// A node and the strategies that it plays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Which node.
    pub node: NodeId,
    /// The names of its strategies, the first one before the others.
    pub strategies: Vec<&'static str>,
}

/// Real replicas, and liars in the place of some.
#[derive(Debug)]
pub struct Troupe {
    actors: Vec<Actor>,
    seed: u64,
    plot: Arc<Mutex<Plot>>,
}

impl Troupe {
    /// These nodes lie, everybody else does not. `seed` decides what the liars leave to chance.
    #[must_use]
    pub fn new(actors: Vec<Actor>, seed: u64) -> Troupe {
        let byzantine = actors.iter().map(|actor| actor.node).collect();
        let plot = Arc::new(Mutex::new(Plot::new(byzantine)));
        Troupe { actors, seed, plot }
    }

    fn plot(&self) -> MutexGuard<'_, Plot> {
        self.plot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cast for Troupe {
    fn machine(&self, setup: Setup) -> Box<dyn Machine> {
        let Some(actor) = self.actors.iter().find(|actor| actor.node == setup.me) else {
            return Box::new(Replica::new(setup).expect("the simulator's keys are sound"));
        };
        let strategies = actor.strategies.iter().map(|name| {
            let entry = by_name(name).expect("plans name strategies that exist");
            (entry.name, (entry.make)())
        });
        let random = Random::fork(self.seed, &format!("liar {}", setup.me.0));
        Box::new(Liar::new(
            setup,
            strategies.collect(),
            Arc::clone(&self.plot),
            random,
        ))
    }

    fn byzantine(&self) -> NodeSet {
        self.actors.iter().map(|actor| actor.node).collect()
    }

    fn arrived(&self, from: NodeId, bytes: &[u8]) {
        self.plot().arrived(from, bytes);
    }

    fn lies(&self) -> BTreeMap<&'static str, Lies> {
        // A strategy that was played and found no occasion to lie counts as well.
        let played = self.actors.iter().flat_map(|actor| &actor.strategies);
        let mut lies: BTreeMap<_, _> = played.map(|name| (*name, Lies::default())).collect();
        lies.extend(self.plot().lies());
        lies
    }
}
