//! A virtual disk: records become durable in their order, some time after they were handed over.

use std::collections::VecDeque;

use twostep_engine::record::OwnedRecord;
use twostep_engine::types::{RecordSeq, Time};

use crate::random::Random;

/// What a crash leaves of what a disk was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Everything that was handed over, synced or not: the process died, the machine did not.
    Kept,
    /// What was durable; the tail that was not yet synced is gone: the power failed.
    TailLost,
    /// What was durable and some of the tail, up to where the power failed in the middle of a write.
    Torn,
    /// Nothing.
    AllLost,
    /// Some of what was said to be durable: syncs did nothing, and the power failed. No honest disk does so.
    SyncedLost,
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

/// One node's disk. Each run of its node numbers its records from 1.
#[derive(Debug)]
pub struct Disk {
    profile: SyncProfile,
    random: Random,
    /// Everything that was handed over, and not lost in a crash.
    records: Vec<OwnedRecord>,
    /// How many of them are of earlier runs.
    earlier: usize,
    /// Groups under way: the last record of each and when it is durable; both ascend.
    syncing: VecDeque<(RecordSeq, Time)>,
    /// Whether nothing that is handed over now becomes durable until it is released.
    stuck: bool,
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
            records: Vec::new(),
            earlier: 0,
            syncing: VecDeque::new(),
            stuck: false,
            written: RecordSeq(0),
            durable: RecordSeq(0),
        }
    }

    /// Takes the records up to `seq` as one group; says when they are durable, if that is known.
    ///
    /// # Panics
    /// If the numbers do not ascend: a machine numbers its records one by one.
    pub fn write(&mut self, now: Time, seq: RecordSeq, group: Vec<OwnedRecord>) -> Option<Time> {
        assert!(
            seq > self.written && seq.0 - self.written.0 == group.len() as u64,
            "record {} comes after record {}",
            seq.0,
            self.written.0
        );
        self.records.extend(group);
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
        if self.stuck {
            return None;
        }
        self.syncing.push_back((seq, at));
        Some(at)
    }

    /// From now on nothing becomes durable.
    pub fn stick(&mut self) {
        self.stuck = true;
    }

    /// What was handed over meanwhile is durable now, up to the record that is returned.
    pub fn release(&mut self, now: Time) -> RecordSeq {
        self.stuck = false;
        let earliest = self.syncing.back().map_or(now, |(_, at)| now.max(*at));
        self.syncing.push_back((self.written, earliest));
        self.written
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

    /// The node stops; what remains is what `fate` says. Returns the last record of this run that is still there.
    pub fn crash(&mut self, now: Time, fate: Fate) -> RecordSeq {
        self.durable(now);
        self.syncing.clear();
        self.stuck = false;
        let left = match fate {
            Fate::Kept => self.written,
            Fate::TailLost => self.durable,
            Fate::Torn => RecordSeq(self.random.between(self.durable.0, self.written.0)),
            Fate::SyncedLost => RecordSeq(self.random.between(0, self.durable.0)),
            Fate::AllLost => {
                self.records.clear();
                self.earlier = 0;
                RecordSeq(0)
            }
        };
        let left_of_run = usize::try_from(left.0).expect("a run has few records");
        self.records.truncate(self.earlier + left_of_run);
        self.earlier = self.records.len();
        (self.written, self.durable) = (RecordSeq(0), RecordSeq(0));
        left
    }

    /// What a node finds when it starts again.
    #[must_use]
    pub fn records(&self) -> &[OwnedRecord] {
        &self.records
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use twostep_engine::types::Regency;

    use super::*;

    const SLOW: SyncProfile = SyncProfile {
        delay_min_ns: 10,
        delay_max_ns: 50,
        hang_per_mille: 0,
    };

    /// A group of one record that tells its number.
    fn one(number: u64) -> Vec<OwnedRecord> {
        vec![OwnedRecord::Lead(Regency(number))]
    }

    #[test]
    fn records_become_durable_in_their_order() {
        let mut disk = Disk::new(SLOW, Random::new(3));
        let times: Vec<Time> = (1..=100)
            .filter_map(|seq| disk.write(Time(seq), RecordSeq(seq), one(seq)))
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
        let at = disk.write(Time(0), RecordSeq(1), one(1));
        assert_eq!(at, Some(Time(50 * 20)));
        assert_eq!(disk.settled_at(Time(0)), Time(50 * 20));
        disk.heal();
        let at = disk.write(Time(1), RecordSeq(2), one(2));
        let expected = Some(Time(50 * 20));
        assert_eq!(at, expected, "it waits for the one that hangs only");
    }

    #[test]
    fn a_crash_leaves_what_its_fate_says() {
        let left = |fate, random| {
            let mut disk = Disk::new(SLOW, Random::new(random));
            let at = disk.write(Time(0), RecordSeq(1), one(1)).unwrap();
            let later = Time(at.0 + 1);
            disk.write(later, RecordSeq(3), [one(2), one(3)].concat());
            let left = disk.crash(later, fate).0;
            assert_eq!(disk.records().len() as u64, left, "{fate:?}");
            left
        };
        for (fate, expected) in [(Fate::Kept, 3), (Fate::TailLost, 1), (Fate::AllLost, 0)] {
            assert_eq!(left(fate, 3), expected, "{fate:?}");
        }
        let torn: BTreeSet<u64> = (0..50).map(|random| left(Fate::Torn, random)).collect();
        assert!(torn.into_iter().eq([1, 2, 3]), "the durable one is there");
    }

    #[test]
    fn what_a_stuck_disk_holds_is_lost_with_the_power_and_durable_once_it_is_released() {
        for (released, left) in [(false, 1), (true, 2)] {
            let mut disk = Disk::new(SyncProfile::INSTANT, Random::new(3));
            disk.write(Time(1), RecordSeq(1), one(1));
            disk.stick();
            assert_eq!(disk.write(Time(2), RecordSeq(2), one(2)), None);
            assert_eq!(disk.durable(Time(9)), RecordSeq(1));
            if released {
                assert_eq!(disk.release(Time(9)), RecordSeq(2));
            }
            assert_eq!(disk.crash(Time(9), Fate::TailLost), RecordSeq(left));
        }
    }

    #[test]
    fn what_one_run_left_is_there_for_the_next() {
        let mut disk = Disk::new(SyncProfile::INSTANT, Random::new(3));
        for run in 1..=3 {
            disk.write(Time(run), RecordSeq(1), one(run));
            assert_eq!(disk.crash(Time(run), Fate::TailLost), RecordSeq(1));
        }
        assert_eq!(disk.records(), [one(1), one(2), one(3)].concat());
    }
}
