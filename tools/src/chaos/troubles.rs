//! What happens in which round: a function of the seed and the number of the round, whatever happened before.
//!
//! ```text
//! round N ─► strike ─► sometimes a second one, of another kind, before the first is over ─► time to suffer ─► heal
//! ```

use std::time::Duration;

use clap::ValueEnum;
use twostep_engine::configuration::Configuration;
use twostep_engine::journal::faults::DiskFaults;
use twostep_engine::node::control::FaultDirection;
use twostep_engine::quorum::FaultModel;
use twostep_engine::types::NodeId;
use twostep_tests::actors::live;
use twostep_tests::random::Random;

/// Lies that are about load, not about the order: a machine that all nodes share would only be slow.
const LEFT_OUT: [&str; 3] = ["flooder", "regency-flooder", "burner"];
/// How far clocks jump at most. Milliseconds.
const JUMP_MS_MAX: u64 = 120_000;
/// What is never in one run together: of who has lied learners keep the lies, such as a vote in the last of all regencies, as
/// the newest vote of a decree, until another decided it. So it is faulty still when it is truthful again, and who is away would
/// be one more than f.
const EITHER: [Kind; 2] = [Kind::Away, Kind::Lie];
/// How often a second trouble strikes before the first is over. Of 1000 rounds.
const SECOND_PER_MILLE: u64 = 350;

/// The kinds of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Kind {
    /// SIGKILL for one node, often the leader; it starts again
    KillOne,
    /// SIGKILL for several nodes at once
    KillSome,
    /// SIGKILL for all nodes at once
    KillAll,
    /// Several nodes are told to end, and start again
    Restart,
    /// SIGKILL for one node, which starts again some rounds later, far behind; not in runs in which nodes lie
    Away,
    /// Two sides that do not hear each other
    Partition,
    /// One node that is not heard, or does not hear
    OneWay,
    /// Every message is late, some are lost and some come twice
    Delay,
    /// Disks that are slow
    DiskSlow,
    /// Disks that do not answer
    DiskHung,
    /// Disks that are full
    DiskFull,
    /// Disks that cannot be written
    DiskReadOnly,
    /// The disks of at most f nodes lose what they are told to sync, and say so
    DiskFailing,
    /// Clocks that jump forward and backward
    Clock,
    /// At most f nodes lie; not in runs in which one is away
    Lie,
}

impl Kind {
    /// Whether nodes without journals cannot have it: they have no disks, and forget everything when they end.
    pub fn needs_journals(self) -> bool {
        match self {
            Kind::KillOne
            | Kind::KillSome
            | Kind::KillAll
            | Kind::Restart
            | Kind::Away
            | Kind::DiskSlow
            | Kind::DiskHung
            | Kind::DiskFull
            | Kind::DiskReadOnly
            | Kind::DiskFailing => true,
            Kind::Partition | Kind::OneWay | Kind::Delay | Kind::Clock | Kind::Lie => false,
        }
    }

    /// Its name as a flag says it.
    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// What happens to whom.
#[derive(Clone, Debug, PartialEq)]
pub enum Trouble {
    /// SIGKILL for these; for whoever leads if none is named.
    Kill(Vec<NodeId>),
    /// SIGKILL for all, after every sync has taken so much longer for so long. Where a sync takes a tenth of a millisecond, what
    /// is answered is synced anyway by the time that the answer has come, so a node that speaks before its records are
    /// synced is not found: 0 of 8 cuts with fast disks lost anything then, 5 of 5 with slow ones.
    PowerCut {
        /// How much longer syncs take before. Milliseconds.
        slow_ms: u64,
        /// How long they do.
        before: Duration,
    },
    /// These are told to end.
    Restart(Vec<NodeId>),
    /// SIGKILL for this one, which stays away for so many further rounds; nothing if another one is away.
    Away(NodeId, u64),
    /// These do not hear the others, nor the other way round.
    Partition(Vec<NodeId>),
    /// Nothing gets through this way at this node.
    OneWay(NodeId, FaultDirection),
    /// Every message at every node.
    Delay {
        /// Late by so much at most. Microseconds.
        most_us: u64,
        /// So many lost, and as many doubled, of a million.
        loss_ppm: u32,
    },
    /// The disks of these.
    Disk(Vec<NodeId>, DiskFaults),
    /// The clocks of these are so many milliseconds ahead.
    Clock(Vec<(NodeId, i64)>),
    /// These lie.
    Lie(Vec<(NodeId, String)>),
}

/// One trouble of a round.
#[derive(Clone, Debug, PartialEq)]
pub struct Strike {
    /// What kind.
    pub kind: Kind,
    /// What.
    pub trouble: Trouble,
    /// How long after the round, or the strike before, began.
    pub after: Duration,
}

/// One round: what strikes in it, in order, and how long after the last strike all is healed.
#[derive(Clone, Debug, PartialEq)]
pub struct Round {
    /// One or two.
    pub strikes: Vec<Strike>,
    /// From the last strike to the healing.
    pub lasts: Duration,
}

impl Round {
    /// The kinds of its strikes: `delay+kill-all`.
    pub fn name(&self) -> String {
        let names: Vec<String> = self
            .strikes
            .iter()
            .map(|strike| strike.kind.name())
            .collect();
        names.join("+")
    }
}

/// Who may be what, and the seed.
pub struct Draws<'a> {
    configuration: &'a Configuration,
    seed: u64,
    /// What there is to draw from.
    kinds: Vec<Kind>,
}

impl<'a> Draws<'a> {
    /// Those of `only`, or all; without what needs journals if nodes have none, and without one of two that exclude each other.
    pub fn new(
        configuration: &'a Configuration,
        seed: u64,
        only: &[Kind],
        journals: bool,
    ) -> Draws<'a> {
        let wanted = |kind: &Kind| {
            (only.is_empty() || only.contains(kind))
                && (journals || !kind.needs_journals())
                && (*kind != Kind::Lie || configuration.model() == FaultModel::Fab)
        };
        let all = Kind::value_variants().iter().copied();
        let mut kinds: Vec<Kind> = all.filter(wanted).collect();
        if EITHER.iter().all(|kind| kinds.contains(kind)) {
            let left_out = *Random::fork(seed, "either").pick(&EITHER);
            kinds.retain(|kind| *kind != left_out);
        }
        Draws {
            configuration,
            seed,
            kinds,
        }
    }

    /// The nodes that are faulty in this run, if any has to be: at most f, and the same ones all the time.
    pub fn faulty(&self) -> Vec<NodeId> {
        let mut random = Random::fork(self.seed, "faulty");
        random.draw(&mut self.nodes(), self.configuration.f())
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.configuration.nodes().iter().collect()
    }

    /// What happens in the round with this number.
    pub fn round(&self, number: u64) -> Round {
        let mut random = Random::fork(self.seed, &format!("round {number}"));
        let first = *random.pick(&self.kinds);
        let mut strikes = vec![self.strike(first, (100, 700), &mut random)];
        let others: Vec<Kind> = self.others(first);
        if !others.is_empty() && random.chance(SECOND_PER_MILLE) {
            let second = *random.pick(&others);
            strikes.push(self.strike(second, (20, 1000), &mut random));
        }
        Round {
            strikes,
            lasts: Duration::from_millis(random.between(50, 2500)),
        }
    }

    /// What may strike after this: when all are down nothing further can happen to them.
    fn others(&self, first: Kind) -> Vec<Kind> {
        let kinds = self.kinds.iter().copied();
        kinds
            .filter(|kind| *kind != first && first != Kind::KillAll)
            .collect()
    }

    fn strike(&self, kind: Kind, after_ms: (u64, u64), random: &mut Random) -> Strike {
        Strike {
            kind,
            trouble: self.trouble(kind, random),
            after: Duration::from_millis(random.between(after_ms.0, after_ms.1)),
        }
    }

    fn trouble(&self, kind: Kind, random: &mut Random) -> Trouble {
        let nodes = self.nodes();
        match kind {
            Kind::KillOne if random.chance(500) => Trouble::Kill(Vec::new()),
            Kind::KillOne => Trouble::Kill(self.some(random, 1)),
            Kind::KillSome => Trouble::Kill(self.some(random, nodes.len() - 1)),
            Kind::KillAll => {
                let slow = random.chance(600);
                Trouble::PowerCut {
                    slow_ms: if slow { random.between(5, 80) } else { 0 },
                    before: Duration::from_millis(random.between(100, 600)),
                }
            }
            Kind::Restart => Trouble::Restart(self.some(random, nodes.len())),
            Kind::Away => Trouble::Away(*random.pick(&nodes), random.between(1, 5)),
            Kind::Partition => Trouble::Partition(self.some(random, nodes.len() / 2)),
            Kind::OneWay => {
                let way = *random.pick(&[FaultDirection::In, FaultDirection::Out]);
                Trouble::OneWay(*random.pick(&nodes), way)
            }
            Kind::Delay => Trouble::Delay {
                loss_ppm: u32::try_from(random.below(100_000)).expect("small"),
                most_us: random.between(1_000, 60_000),
            },
            Kind::DiskSlow => self.disks(random, |disk, random| {
                disk.slow_ms = random.between(5, 200);
            }),
            Kind::DiskHung => self.disks(random, |disk, _| disk.hung = true),
            Kind::DiskFull => self.disks(random, |disk, _| disk.full = true),
            Kind::DiskReadOnly => self.disks(random, |disk, _| disk.read_only = true),
            Kind::DiskFailing => {
                let failing = DiskFaults {
                    failing_syncs: true,
                    ..DiskFaults::default()
                };
                Trouble::Disk(self.faulty(), failing)
            }
            Kind::Clock => {
                let jumping = self.some(random, nodes.len());
                let jump = |node| {
                    let ms = i64::try_from(random.below(2 * JUMP_MS_MAX)).expect("small");
                    (node, ms - i64::try_from(JUMP_MS_MAX).expect("small"))
                };
                Trouble::Clock(jumping.into_iter().map(jump).collect())
            }
            Kind::Lie => {
                let lie = |node| (node, self.strategy(node, random));
                Trouble::Lie(self.faulty().into_iter().map(lie).collect())
            }
        }
    }

    /// At least one node, and at most so many.
    fn some(&self, random: &mut Random, most: usize) -> Vec<NodeId> {
        let count = random.between(1, most.max(1) as u64);
        let count = usize::try_from(count).expect("few nodes");
        random.draw(&mut self.nodes(), count)
    }

    /// The disks of some nodes, all of them too: what they acknowledged they keep.
    fn disks(&self, random: &mut Random, fail: fn(&mut DiskFaults, &mut Random)) -> Trouble {
        let mut faults = DiskFaults::default();
        fail(&mut faults, random);
        Trouble::Disk(
            self.some(random, self.configuration.members().len()),
            faults,
        )
    }

    fn strategy(&self, node: NodeId, random: &mut Random) -> String {
        let roles = self.configuration.member(node).map(|member| member.roles);
        let roles = roles.unwrap_or_default();
        let fits = |name: &&str| !LEFT_OUT.contains(name) && live::part(name, &roles).is_ok();
        let names: Vec<&str> = live::names().into_iter().filter(fits).collect();
        (*random.pick(&names)).to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use twostep_bench::lab::configuration;

    fn rounds(draws: &Draws<'_>, count: u64) -> Vec<Round> {
        (0..count).map(|number| draws.round(number)).collect()
    }

    #[test]
    fn a_seed_says_what_happens_and_everything_comes_up() {
        let configuration = configuration(FaultModel::Fab, 2);
        let of = |seed| rounds(&Draws::new(&configuration, seed, &[], true), 300);
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
        let kinds = |seed| -> BTreeSet<Kind> {
            let rounds = of(seed);
            let strikes = rounds.iter().flat_map(|round| &round.strikes);
            strikes.map(|strike| strike.kind).collect()
        };
        let (all, mut seen) = (Kind::value_variants().len(), BTreeSet::new());
        for seed in 0..8 {
            assert_eq!(kinds(seed).len(), all - 1, "one of {EITHER:?} is not there");
            seen.extend(kinds(seed));
        }
        assert_eq!(seen.len(), all);
        let double = of(7)
            .iter()
            .filter(|round| round.strikes.len() == 2)
            .count();
        assert!((60..150).contains(&double), "{double}");
    }

    #[test]
    fn never_more_than_f_nodes_are_faulty() {
        let configuration = configuration(FaultModel::Fab, 2);
        for seed in 0..50 {
            let draws = Draws::new(&configuration, seed, &[Kind::Lie, Kind::DiskFailing], true);
            let faulty = draws.faulty();
            assert_eq!(faulty.len(), 2);
            let strikes = rounds(&draws, 50);
            for strike in strikes.into_iter().flat_map(|round| round.strikes) {
                let them: Vec<NodeId> = match strike.trouble {
                    Trouble::Lie(lies) => lies.into_iter().map(|(node, _)| node).collect(),
                    Trouble::Disk(nodes, faults) => {
                        assert!(faults.failing_syncs);
                        nodes
                    }
                    other => panic!("{other:?}"),
                };
                assert_eq!(them, faulty);
            }
        }
    }

    #[test]
    fn without_journals_nobody_is_killed_and_with_one_kind_there_is_no_other() {
        let configuration = configuration(FaultModel::Crash, 1);
        let draws = Draws::new(&configuration, 1, &[], false);
        assert_eq!(
            draws.kinds,
            [Kind::Partition, Kind::OneWay, Kind::Delay, Kind::Clock]
        );
        let draws = Draws::new(&configuration, 1, &[Kind::KillAll], true);
        let alone = |round: &Round| round.strikes.len() == 1 && round.name() == "kill-all";
        assert!(rounds(&draws, 50).iter().all(alone));
    }
}
