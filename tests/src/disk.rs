//! A virtual disk: records become durable in their order, some time after they were handed over.

use std::collections::VecDeque;

use twostep_engine::types::{RecordSeq, Time};

use crate::random::Random;

/// What a crash leaves of what a disk was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Everything that was handed over, synced or not: the process died, the machine did not.
    Kept,
    /// What was durable; the tail that was not yet synced is gone: the power failed.
    TailLost,
    /// Nothing.
    AllLost,
}

/// How long syncs take. Nanoseconds; drawn evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncProfile {
    /// The shortest.
    pub delay_min_ns: u64,
    /// The longest ordinary one.
    pub delay_max_ns: u64,
    /// How many of 1000 take twenty times the longest ordinary one.
    pub hang_per_mille: u64,
}

impl SyncProfile {
    /// Everything is durable at once.
    pub const INSTANT: SyncProfile = SyncProfile {
        delay_min_ns: 0,
        delay_max_ns: 0,
        hang_per_mille: 0,
    };
}

/// One node's disk. It knows numbers only: what the records hold is the business of the checkers.
#[derive(Debug)]
pub struct Disk {
    profile: SyncProfile,
    random: Random,
    /// Groups under way: the last record of each and when it is durable; both ascend.
    syncing: VecDeque<(RecordSeq, Time)>,
    written: RecordSeq,
    durable: RecordSeq,
}

impl Disk {
    /// An empty disk.
    #[must_use]
    pub fn new(profile: SyncProfile, random: Random) -> Disk {
        Disk {
            profile,
            random,
            syncing: VecDeque::new(),
            written: RecordSeq(0),
            durable: RecordSeq(0),
        }
    }

    /// Takes the records up to `seq` as one group; says when they are durable.
    ///
    /// # Panics
    /// If the numbers do not ascend: a machine numbers its records one by one.
    pub fn write(&mut self, now: Time, seq: RecordSeq) -> Time {
        assert!(
            seq > self.written,
            "record {} comes after record {}",
            seq.0,
            self.written.0
        );
        let SyncProfile {
            delay_min_ns,
            delay_max_ns,
            hang_per_mille,
        } = self.profile;
        let mut delay = self.random.between(delay_min_ns, delay_max_ns);
        if self.random.chance(hang_per_mille) {
            delay = delay_max_ns * 20;
        }
        let earliest = self.syncing.back().map_or(now, |(_, at)| *at);
        let at = earliest.max(Time(now.0 + delay));
        self.written = seq;
        self.syncing.push_back((seq, at));
        at
    }

    /// No further sync hangs; one that does is left to end.
    pub fn heal(&mut self) {
        self.profile.hang_per_mille = 0;
    }

    /// When everything that was handed over is durable: `now` if it is already.
    #[must_use]
    pub fn settled_at(&self, now: Time) -> Time {
        self.syncing.back().map_or(now, |(_, at)| now.max(*at))
    }

    /// The highest record that is durable at `now`.
    pub fn durable(&mut self, now: Time) -> RecordSeq {
        while let Some((seq, _)) = self.syncing.pop_front_if(|(_, at)| *at <= now) {
            self.durable = seq;
        }
        self.durable
    }

    /// The node stops; what remains is what `fate` says. Returns the last record that is still there.
    pub fn crash(&mut self, now: Time, fate: Fate) -> RecordSeq {
        self.durable(now);
        self.syncing.clear();
        self.durable = match fate {
            Fate::Kept => self.written,
            Fate::TailLost => self.durable,
            Fate::AllLost => RecordSeq(0),
        };
        self.written = self.durable;
        self.durable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: SyncProfile = SyncProfile {
        delay_min_ns: 10,
        delay_max_ns: 50,
        hang_per_mille: 0,
    };

    #[test]
    fn records_become_durable_in_their_order() {
        let mut disk = Disk::new(SLOW, Random::new(3));
        let times: Vec<Time> = (1..=100)
            .map(|seq| disk.write(Time(seq), RecordSeq(seq)))
            .collect();
        assert!(
            times.is_sorted(),
            "a later record is never durable before an earlier one"
        );
        assert_eq!(disk.durable(Time(0)), RecordSeq(0));
        for (seq, at) in (1..=100).zip(&times) {
            assert!(disk.durable(*at) >= RecordSeq(seq));
        }
    }

    #[test]
    fn a_healed_disk_does_not_hang() {
        let hanging = SyncProfile {
            hang_per_mille: 1000,
            ..SLOW
        };
        let mut disk = Disk::new(hanging, Random::new(3));
        assert_eq!(disk.write(Time(0), RecordSeq(1)), Time(50 * 20));
        assert_eq!(disk.settled_at(Time(0)), Time(50 * 20));
        disk.heal();
        let at = disk.write(Time(1), RecordSeq(2));
        assert_eq!(at, Time(50 * 20), "it waits for the one that hangs only");
    }

    #[test]
    fn a_crash_leaves_what_its_fate_says() {
        for (fate, left) in [(Fate::Kept, 2), (Fate::TailLost, 1), (Fate::AllLost, 0)] {
            let mut disk = Disk::new(SLOW, Random::new(3));
            let at = disk.write(Time(0), RecordSeq(1));
            let later = Time(at.0 + 1);
            disk.write(later, RecordSeq(2));
            assert_eq!(disk.crash(later, fate), RecordSeq(left), "{fate:?}");
        }
    }
}
