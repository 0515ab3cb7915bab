//! Virtual links: they lose, double, delay and reorder messages, and partitions cut them, one way or both.
//!
//! Every message draws its own delay, so any two on one link may overtake each other. That is harsher than
//! TCP, which keeps the order of what it delivers, and it is what UDP does.

use std::fmt;

use twostep_engine::types::{NodeId, NodeSet, Time};

use crate::random::Random;

/// One end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// A node.
    Node(NodeId),
    /// A client, by its place in the world.
    Client(usize),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Node(node) => write!(f, "n{}", node.0),
            End::Client(place) => write!(f, "c{place}"),
        }
    }
}

/// How links behave while nothing cuts them. Delays are drawn evenly from `delay_min_ns..=delay_max_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkProfile {
    /// The shortest delay. Nanoseconds.
    pub delay_min_ns: u64,
    /// The longest ordinary delay. Nanoseconds.
    pub delay_max_ns: u64,
    /// How many of 1000 messages are late by up to eight times the longest ordinary delay.
    pub late_per_mille: u64,
    /// How many of 1000 messages are lost.
    pub loss_per_mille: u64,
    /// How many of 1000 messages arrive twice.
    pub double_per_mille: u64,
}

impl LinkProfile {
    /// Every message takes exactly one unit.
    #[must_use]
    pub fn unit(unit_ns: u64) -> LinkProfile {
        LinkProfile {
            delay_min_ns: unit_ns,
            delay_max_ns: unit_ns,
            late_per_mille: 0,
            loss_per_mille: 0,
            double_per_mille: 0,
        }
    }

    /// The same delays without loss, doubling or stragglers: links that healed.
    #[must_use]
    pub fn healed(self) -> LinkProfile {
        LinkProfile {
            late_per_mille: 0,
            loss_per_mille: 0,
            double_per_mille: 0,
            ..self
        }
    }
}

/// Messages from one of `from` to one of `to` are lost. Cutting both ways takes two cuts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Who is not heard.
    pub from: NodeSet,
    /// By whom.
    pub to: NodeSet,
    /// When it heals.
    pub until: Time,
}

/// Messages from one node are under way for longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slow {
    /// Which node.
    pub from: NodeId,
    /// By how much. Nanoseconds.
    pub by_ns: u64,
    /// When it ends.
    pub until: Time,
}

/// All links of a world.
#[derive(Debug)]
pub struct Network {
    profile: LinkProfile,
    cuts: Vec<Cut>,
    slows: Vec<Slow>,
    random: Random,
}

impl Network {
    /// Links of one profile. `random` decides every delay and loss.
    #[must_use]
    pub fn new(profile: LinkProfile, random: Random) -> Network {
        Network {
            profile,
            cuts: Vec::new(),
            slows: Vec::new(),
            random,
        }
    }

    /// When the copies of one message arrive: none if it is lost, two if it is doubled.
    pub fn arrivals(
        &mut self,
        now: Time,
        from: End,
        to: End,
    ) -> impl Iterator<Item = Time> + use<> {
        let lost = self.is_cut(now, from, to) || self.random.chance(self.profile.loss_per_mille);
        let slow_ns = self.slow_ns(now, from);
        let first = (!lost).then(|| self.arrival(now));
        let doubled = !lost && self.random.chance(self.profile.double_per_mille);
        let second = doubled.then(|| self.arrival(now));
        let copies = first.into_iter().chain(second);
        copies.map(move |at| Time(at.0 + slow_ns))
    }

    /// Cuts links until a moment.
    pub fn cut(&mut self, cut: Cut) {
        self.cuts.push(cut);
    }

    /// Slows a node down.
    pub fn slow(&mut self, slow: Slow) {
        self.slows.push(slow);
    }

    /// Ends every cut, all slowness, loss, doubling and lateness. What is under way still arrives.
    pub fn heal(&mut self) {
        self.cuts.clear();
        self.slows.clear();
        self.profile = self.profile.healed();
    }

    /// Whether some cut is in force, or some node slow.
    #[must_use]
    pub fn is_troubled(&self, now: Time) -> bool {
        let cut = self.cuts.iter().any(|cut| now < cut.until);
        cut || self.slows.iter().any(|slow| now < slow.until)
    }

    /// The longest time that a message can be under way once the links have healed. Nanoseconds.
    #[must_use]
    pub fn healed_delay_max_ns(&self) -> u64 {
        self.profile.delay_max_ns
    }

    fn slow_ns(&self, now: Time, from: End) -> u64 {
        let slow = |slow: &&Slow| End::Node(slow.from) == from && now < slow.until;
        self.slows
            .iter()
            .filter(slow)
            .map(|slow| slow.by_ns)
            .max()
            .unwrap_or(0)
    }

    fn is_cut(&self, now: Time, from: End, to: End) -> bool {
        let (End::Node(from), End::Node(to)) = (from, to) else {
            return false;
        };
        self.cuts
            .iter()
            .any(|cut| now < cut.until && cut.from.contains(from) && cut.to.contains(to))
    }

    fn arrival(&mut self, now: Time) -> Time {
        let LinkProfile {
            delay_min_ns,
            delay_max_ns,
            late_per_mille,
            ..
        } = self.profile;
        let mut delay = self.random.between(delay_min_ns, delay_max_ns);
        if self.random.chance(late_per_mille) {
            delay = self.random.between(delay_max_ns, delay_max_ns * 8);
        }
        Time(now.0 + delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: LinkProfile = LinkProfile {
        delay_min_ns: 10,
        delay_max_ns: 20,
        late_per_mille: 0,
        loss_per_mille: 0,
        double_per_mille: 0,
    };

    fn node(id: u16) -> End {
        End::Node(NodeId(id))
    }

    #[test]
    fn loss_and_doubling_come_at_their_rates() {
        let profile = LinkProfile {
            loss_per_mille: 300,
            double_per_mille: 100,
            ..CALM
        };
        let mut network = Network::new(profile, Random::new(1));
        let copies: Vec<usize> = (0..10_000)
            .map(|_| network.arrivals(Time(5), node(0), node(1)).count())
            .collect();
        let with = |count| copies.iter().filter(|copies| **copies == count).count();
        assert!(
            (2800..3200).contains(&with(0)),
            "{} of 10000 were lost",
            with(0)
        );
        assert!(
            (550..850).contains(&with(2)),
            "{} of 10000 were doubled",
            with(2)
        );
    }

    #[test]
    fn a_cut_is_one_way_and_ends() {
        let mut network = Network::new(CALM, Random::new(1));
        let cut = Cut {
            from: NodeSet::one(NodeId(0)),
            to: NodeSet::one(NodeId(1)),
            until: Time(100),
        };
        network.cut(cut);
        assert_eq!(network.arrivals(Time(99), node(0), node(1)).count(), 0);
        assert_eq!(network.arrivals(Time(99), node(1), node(0)).count(), 1);
        assert_eq!(network.arrivals(Time(100), node(0), node(1)).count(), 1);
        assert!(network.is_troubled(Time(99)) && !network.is_troubled(Time(100)));
    }

    #[test]
    fn a_slow_node_is_slow_for_a_while() {
        let mut network = Network::new(CALM, Random::new(1));
        network.slow(Slow {
            from: NodeId(0),
            by_ns: 1000,
            until: Time(100),
        });
        let mut delay = |now, from| {
            let at = network.arrivals(now, from, node(2)).next();
            at.expect("nothing is lost").0 - now.0
        };
        assert!((1010..=1020).contains(&delay(Time(99), node(0))));
        assert!((10..=20).contains(&delay(Time(99), node(1))));
        assert!((10..=20).contains(&delay(Time(100), node(0))));
    }

    #[test]
    fn delays_stay_in_their_range() {
        let mut network = Network::new(
            LinkProfile {
                late_per_mille: 500,
                ..CALM
            },
            Random::new(2),
        );
        for _ in 0..1000 {
            let at = network
                .arrivals(Time(0), node(0), node(1))
                .next()
                .expect("nothing is lost");
            assert!((10..=160).contains(&at.0), "{} ns", at.0);
        }
        network.heal();
        assert!((0..1000).all(|_| {
            network
                .arrivals(Time(0), node(0), node(1))
                .all(|at| at.0 <= 20)
        }));
    }
}
