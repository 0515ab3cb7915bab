//! A journal over a disk in trouble, with its threads: full, hung, slow and failing disks, and power cuts at any time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use twostep_engine::journal::faults::{DiskFaultHandle, DiskFaults, FaultyFolder};
use twostep_engine::journal::folder::Folder;
use twostep_engine::journal::memory::MemoryFolder;
use twostep_engine::journal::writer::LAZY_MAX;
use twostep_engine::journal::{HUNG_AFTER, Journal, Recorder};
use twostep_engine::machine::JournalState;
use twostep_engine::record::OwnedRecord;
use twostep_engine::types::{Decree, RecordSeq};
use twostep_net::WakeUp;

use crate::samples::{batch, read, records, shape, vote};

const PATIENCE: Duration = Duration::from_secs(20);

/// A journal over a faulty disk, and what was stored in it so far.
struct Bench {
    below: Arc<MemoryFolder>,
    handle: DiskFaultHandle,
    recorder: Recorder,
    stored: Vec<OwnedRecord>,
    durable: RecordSeq,
}

impl Bench {
    fn new(below: Arc<MemoryFolder>, faults: DiskFaults, quota_bytes: u64) -> Bench {
        let handle = DiskFaultHandle::new();
        let folder = FaultyFolder::new(Arc::<MemoryFolder>::clone(&below), handle.clone());
        let journal = match Journal::open(Arc::<FaultyFolder>::clone(&folder), shape()).unwrap() {
            Some(journal) => journal,
            None => Journal::create(folder, shape(), true).unwrap(),
        };
        handle.set(faults);
        Bench {
            below,
            handle,
            recorder: Recorder::start(journal, WakeUp::new(|| {}), quota_bytes).unwrap(),
            stored: Vec::new(),
            durable: RecordSeq(0),
        }
    }

    fn store(&mut self, records: &[OwnedRecord]) {
        for record in records {
            self.stored.push(record.clone());
            let seq = RecordSeq(self.stored.len() as u64);
            self.recorder.store(seq, &record.borrowed());
        }
        self.recorder.hand_over();
    }

    /// Waits until so many records are durable.
    fn wait(&mut self, count: usize) {
        let until = Instant::now() + PATIENCE;
        while self.durable.0 < count as u64 {
            assert!(Instant::now() < until, "{} of {count}", self.durable.0);
            self.recorder.hand_over();
            if let Some(seq) = self.recorder.stored() {
                assert!(seq > self.durable, "it only grows");
                self.durable = seq;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn wait_for(&mut self, state: JournalState) {
        let until = Instant::now() + PATIENCE;
        while self.recorder.state(Instant::now()) != state {
            assert!(
                Instant::now() < until,
                "{:?}",
                self.recorder.state(Instant::now())
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn votes(decrees: std::ops::Range<u64>) -> Vec<OwnedRecord> {
    decrees
        .map(|decree| vote(6, decree, &batch(decree, &[7; 300])))
        .collect()
}

#[test]
fn everything_that_is_told_durable_is_there_after_a_power_cut() {
    let lossy = DiskFaults {
        lose_unsynced: true,
        ..DiskFaults::default()
    };
    let mut below = MemoryFolder::new();
    let mut expected = Vec::new();
    for round in 0..20_u64 {
        let mut bench = Bench::new(Arc::clone(&below), lossy, 0);
        bench.store(&votes(round * 100..round * 100 + 30));
        bench.wait(30);
        for decree in 30..60 {
            bench.store(&votes(round * 100 + decree..round * 100 + decree + 1));
        }
        bench.wait(30 + usize::try_from(round).unwrap());
        // What has reached the folder below by now is what a power cut leaves.
        let told = usize::try_from(bench.durable.0).unwrap();
        let left = bench.below.copy();
        let found = read(&left).unwrap();
        let stored: Vec<_> = expected.iter().chain(&bench.stored).cloned().collect();
        assert!(found.len() >= expected.len() + told, "round {round}");
        assert_eq!(found, stored[..found.len()]);
        expected = found;
        drop(bench);
        below = left;
    }
}

#[test]
fn a_full_disk_is_told_and_left_behind_when_there_is_room() {
    let mut bench = Bench::new(MemoryFolder::new(), DiskFaults::default(), 0);
    bench.store(&records());
    bench.wait(records().len());
    bench.handle.set(DiskFaults {
        full: true,
        ..DiskFaults::default()
    });
    bench.store(&votes(20..30));
    bench.wait_for(JournalState::Full);
    assert_eq!(
        bench.recorder.stored(),
        None,
        "nothing is said to be durable"
    );
    assert!(
        bench
            .recorder
            .figures()
            .error
            .unwrap()
            .contains("cannot write the journal")
    );
    bench.handle.set(DiskFaults::default());
    bench.wait(records().len() + 10);
    bench.wait_for(JournalState::Ok);
    let stored = bench.stored.clone();
    drop(bench.recorder);
    assert_eq!(read(&bench.below).unwrap(), stored);
}

#[test]
fn a_sync_that_failed_is_made_good_by_writing_again() {
    let mut bench = Bench::new(MemoryFolder::new(), DiskFaults::default(), 0);
    bench.handle.set(DiskFaults {
        failing_syncs: true,
        ..DiskFaults::default()
    });
    bench.store(&records());
    bench.wait_for(JournalState::Failed);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(bench.recorder.stored(), None);
    bench.handle.set(DiskFaults::default());
    bench.wait(records().len());
    let stored = bench.stored.clone();
    drop(bench.recorder);
    assert_eq!(read(&bench.below).unwrap(), stored);
}

#[test]
fn a_disk_that_hangs_is_told_and_bounds_what_waits() {
    let mut bench = Bench::new(MemoryFolder::new(), DiskFaults::default(), 0);
    bench.handle.set(DiskFaults {
        hung: true,
        ..DiskFaults::default()
    });
    let begun = Instant::now();
    bench.store(&votes(1..2));
    bench.wait_for(JournalState::Slow);
    bench.wait_for(JournalState::Failed);
    assert!(begun.elapsed() > HUNG_AFTER);
    let lead = OwnedRecord::Lead(twostep_engine::types::Regency(9));
    while bench.recorder.takes_more() {
        bench.store(&vec![lead.clone(); 500]);
        assert!(bench.stored.len() < 100_000, "the bound is never reached");
    }
    bench.handle.set(DiskFaults::default());
    bench.wait(bench.stored.len());
    assert!(bench.recorder.takes_more());
    assert_eq!(bench.recorder.state(Instant::now()), JournalState::Ok);
}

#[test]
fn a_node_ends_although_its_disk_hangs() {
    let mut bench = Bench::new(MemoryFolder::new(), DiskFaults::default(), 0);
    let hung = DiskFaults {
        hung: true,
        ..DiskFaults::default()
    };
    bench.handle.set(hung);
    bench.store(&votes(1..2));
    std::thread::sleep(Duration::from_millis(50));
    let begun = Instant::now();
    drop(bench.recorder);
    assert!(begun.elapsed() < Duration::from_secs(10));
    bench.handle.set(DiskFaults::default());
}

#[test]
fn groups_are_synced_together_and_a_mark_follows() {
    let slow = DiskFaults {
        slow_ms: 20,
        ..DiskFaults::default()
    };
    let mut bench = Bench::new(MemoryFolder::new(), slow, 0);
    for decree in 0..200 {
        bench.store(&votes(decree..decree + 1));
    }
    bench.wait(200);
    let figures = bench.recorder.figures();
    assert_eq!(figures.records, 200);
    assert!(
        figures.syncs.len() < 40,
        "{} syncs for 200 records",
        figures.syncs.len()
    );
    // Some time later damage to the last record is damage, although the journal was not closed.
    std::thread::sleep(Duration::from_millis(200));
    let left = bench.below.copy();
    // The last one may have been made ahead, with nothing behind its header.
    let last_end = |name: &String| {
        let mut end = 0;
        left.damage(name, |bytes| {
            end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        });
        (end > 4096).then_some(end)
    };
    let names = left.list().unwrap();
    let mut used = names.iter().rev();
    let (name, end) = used
        .find_map(|name| Some((name, last_end(name)?)))
        .expect("a segment with entries");
    left.damage(name, |bytes| bytes[end - 60] ^= 1);
    read(&left).expect_err("it was durable, and the mark knows");
}

#[test]
fn learned_values_wait_for_company_but_not_for_ever() {
    let mut bench = Bench::new(MemoryFolder::new(), DiskFaults::default(), 0);
    let learned = OwnedRecord::Learned {
        decree: Decree(3),
        batch: batch(3, b"learned"),
    };
    let begun = Instant::now();
    bench.store(&[learned]);
    bench.wait(1);
    assert!(begun.elapsed() >= LAZY_MAX, "{:?}", begun.elapsed());
}

#[test]
fn old_segments_go_and_a_quota_holds() {
    let mut bench = Bench::new(MemoryFolder::new(), DiskFaults::default(), 300_000);
    let mut decree = 20;
    let mut most = 0;
    for _ in 0..60 {
        bench.store(&votes(decree..decree + 20));
        decree += 20;
        bench.wait(bench.stored.len());
        most = most.max(bench.recorder.figures().bytes);
        bench.recorder.prune(Decree(decree - 40));
    }
    assert!(most < 150_000, "{most}");
    let files = bench.below.list().unwrap();
    assert!(files[0].as_str() > "segment-0000000005", "{files:?}");
    // Without pruning the quota is reached: the journal is full, until it may prune.
    let before = bench.stored.len();
    for _ in 0..60 {
        bench.store(&votes(decree..decree + 20));
        decree += 20;
    }
    bench.wait_for(JournalState::Full);
    assert!(bench.recorder.low_space(), "it was told before");
    assert!(bench.stored.len() > before);
    bench.recorder.prune(Decree(decree - 300));
    bench.wait(bench.stored.len());
    let newest = bench.stored.last().cloned().unwrap();
    drop(bench.recorder);
    assert_eq!(read(&bench.below).unwrap().last(), Some(&newest));
}
