//! What the writer of a journal and the loop that it serves know of each other: numbers, read and written without waiting.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::machine::JournalState;
use crate::types::{Decree, RecordSeq};

/// A write or sync that takes longer is told as [`JournalState::Slow`].
pub const SLOW_AFTER: Duration = Duration::from_millis(250);
/// One that takes longer is told as [`JournalState::Failed`]: nobody knows whether it will ever return.
pub const HUNG_AFTER: Duration = Duration::from_secs(2);
/// The longest sync that is told apart. Nanoseconds.
const SYNC_NS_MAX: u64 = 60_000_000_000;

const OK: u8 = 0;
const FULL: u8 = 1;
const FAILED: u8 = 2;

/// What both sides know.
#[derive(Debug)]
pub(super) struct Shared {
    began: Instant,
    /// The last durable record.
    durable: AtomicU64,
    /// Whether writing works.
    trouble: AtomicU8,
    /// When the writer turned to the disk, in nanoseconds since `began`, plus one; 0 while it does not wait for it.
    busy_since: AtomicU64,
    /// Records that were handed over and are not yet durable, and the bytes of their bodies.
    pub waiting_records: AtomicUsize,
    pub waiting_bytes: AtomicUsize,
    /// Nobody needs the decrees up to this one.
    pruned: AtomicU64,
    pub stopping: AtomicBool,
    /// Whether little room is left.
    pub low_space: AtomicBool,
    figures: Mutex<Figures>,
}

/// What is told of a journal.
#[derive(Clone, Debug)]
pub struct Figures {
    /// How long its files are together. Bytes.
    pub bytes: u64,
    /// How many there are.
    pub segments: u64,
    /// How long a write and its sync took. Nanoseconds.
    pub syncs: Histogram<u64>,
    /// Records that these covered.
    pub records: u64,
    /// Bytes that these wrote.
    pub written_bytes: u64,
    /// What went wrong last.
    pub error: Option<String>,
}

impl Shared {
    pub fn new() -> Shared {
        let syncs = Histogram::new_with_bounds(1, SYNC_NS_MAX, 2).expect("bounds of a histogram");
        Shared {
            began: Instant::now(),
            durable: AtomicU64::new(0),
            trouble: AtomicU8::new(OK),
            busy_since: AtomicU64::new(0),
            waiting_records: AtomicUsize::new(0),
            waiting_bytes: AtomicUsize::new(0),
            pruned: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            low_space: AtomicBool::new(false),
            figures: Mutex::new(Figures {
                bytes: 0,
                segments: 0,
                syncs,
                records: 0,
                written_bytes: 0,
                error: None,
            }),
        }
    }

    pub fn durable(&self) -> RecordSeq {
        RecordSeq(self.durable.load(Ordering::Acquire))
    }

    pub fn set_durable(&self, seq: RecordSeq) {
        self.durable.store(seq.0, Ordering::Release);
    }

    pub fn pruned(&self) -> Decree {
        Decree(self.pruned.load(Ordering::Relaxed))
    }

    pub fn set_pruned(&self, decree: Decree) {
        self.pruned.fetch_max(decree.0, Ordering::Relaxed);
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// The writer turns to the disk, and may be a while.
    pub fn begin(&self, now: Instant) {
        self.busy_since
            .store(self.nanos(now).saturating_add(1), Ordering::Relaxed);
    }

    /// The disk has answered.
    pub fn end(&self) {
        self.busy_since.store(0, Ordering::Relaxed);
    }

    /// Writing works again.
    pub fn works(&self) -> bool {
        self.trouble.swap(OK, Ordering::Relaxed) != OK
    }

    /// Writing failed. Whether that is news.
    pub fn fails(&self, error: &io::Error, what: &str) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let full = matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge);
        let trouble = if full { FULL } else { FAILED };
        self.figures().error = Some(format!("{what}: {error}"));
        self.trouble.swap(trouble, Ordering::Relaxed) != trouble
    }

    pub fn state(&self, now: Instant) -> JournalState {
        match self.trouble.load(Ordering::Relaxed) {
            OK => {}
            FULL => return JournalState::Full,
            _ => return JournalState::Failed,
        }
        let since = self.busy_since.load(Ordering::Relaxed);
        let busy = match since {
            0 => Duration::ZERO,
            since => Duration::from_nanos(self.nanos(now).saturating_sub(since)),
        };
        if busy > HUNG_AFTER {
            JournalState::Failed
        } else if busy > SLOW_AFTER {
            JournalState::Slow
        } else {
            JournalState::Ok
        }
    }

    pub fn figures(&self) -> MutexGuard<'_, Figures> {
        self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nanos(&self, now: Instant) -> u64 {
        let nanos = now.saturating_duration_since(self.began).as_nanos();
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_does_not_answer_is_slow_and_then_failed() {
        let shared = Shared::new();
        let now = shared.began + Duration::from_secs(9);
        assert_eq!(shared.state(now), JournalState::Ok);
        shared.begin(now);
        assert_eq!(shared.state(now + SLOW_AFTER), JournalState::Ok);
        let later = now + SLOW_AFTER + Duration::from_millis(1);
        assert_eq!(shared.state(later), JournalState::Slow);
        let later = now + HUNG_AFTER + Duration::from_millis(1);
        assert_eq!(shared.state(later), JournalState::Failed);
        shared.end();
        assert_eq!(shared.state(later), JournalState::Ok);
    }

    #[test]
    fn a_full_disk_is_told_from_a_failing_one() {
        let shared = Shared::new();
        let now = shared.began;
        assert!(shared.fails(&io::ErrorKind::StorageFull.into(), "write"));
        assert_eq!(shared.state(now), JournalState::Full);
        assert!(!shared.fails(&io::ErrorKind::StorageFull.into(), "write"));
        assert!(shared.fails(&io::Error::other("broken"), "sync"));
        assert_eq!(shared.state(now), JournalState::Failed);
        assert_eq!(shared.figures().error.as_deref(), Some("sync: broken"));
        assert!(shared.works());
        assert!(!shared.works());
        assert_eq!(shared.state(now), JournalState::Ok);
    }
}
