//! The loop's side of a journal: takes what the machine stores, and tells what has become durable. It never waits.
//!
//! | call | when |
//! |---|---|
//! | [`Recorder::store`] | for every record |
//! | [`Recorder::hand_over`] | at the end of every turn: one chunk for the writer |
//! | [`Recorder::stored`], [`Recorder::changed`] | at the beginning of every turn, and when the loop was woken |
//! | [`Recorder::takes_more`] | before input that may lead to records: no, while too much waits for the disk |
//!
//! *Bounds.* The queue holds [`CHUNKS_MAX`] chunks; what finds no room stays here until the next turn. Beyond [`WAITING_RECORDS_MAX`] records or
//! [`WAITING_BYTES_MAX`] bytes of bodies the host takes no further input but time, so that what waits is bounded by that and one turn.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tracing::warn;
use twostep_net::{Idle, Sleeper, WakeUp, queue};

use super::error::JournalError;
use super::faults::DiskFaultHandle;
use super::maker::Maker;
use super::opened::Journal;
use super::shared::{Figures, Shared};
use super::writer::{Pending, Writer, body_bytes};
use crate::machine::JournalState;
use crate::record::{OwnedRecord, Record};
use crate::types::{Decree, RecordSeq};

/// Chunks that may wait for the writer.
pub const CHUNKS_MAX: usize = 64;
/// Records that may wait for the disk before the host takes no more input.
pub const WAITING_RECORDS_MAX: usize = 1 << 16;
/// Bytes of bodies that may. Most of them are held by the window and the log as well.
pub const WAITING_BYTES_MAX: usize = 64 << 20;
/// Records for which a chunk keeps its memory.
const CHUNK_RECORDS_KEPT: usize = 4096;
/// How long the end of a node waits for its last records.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

/// Records on their way to the writer.
pub(super) type Chunk = Vec<(RecordSeq, OwnedRecord)>;

/// The loop's side of a journal. When it is dropped the journal is closed; a disk that hangs is not waited for.
#[derive(Debug)]
pub struct Recorder {
    chunk: Chunk,
    to_writer: queue::Sender<Chunk>,
    spent: queue::Receiver<Chunk>,
    shared: Arc<Shared>,
    /// What the loop was told last.
    told: RecordSeq,
    state: JournalState,
    waker: WakeUp,
    thread: Option<JoinHandle<()>>,
    /// In tests only: what may be wrong with it on purpose.
    faults: Option<DiskFaultHandle>,
    /// The last record that was handed over.
    handed: RecordSeq,
}

impl Recorder {
    /// Starts to write a journal. `loop_waker` wakes the loop that the recorder is for; the files take at most `quota_bytes`, or as many
    /// as there is room for if that is 0.
    ///
    /// # Errors
    /// [`JournalError::Thread`].
    pub fn start(
        journal: Journal,
        loop_waker: WakeUp,
        quota_bytes: u64,
    ) -> Result<Recorder, JournalError> {
        let shared = Arc::new(Shared::new());
        let sleeper = Sleeper::new(Idle::default());
        let waker = sleeper.waker();
        let (to_writer, chunks) =
            queue::bounded_both(CHUNKS_MAX, waker.clone(), loop_waker.clone());
        // Nobody waits for empty chunks.
        let (back, spent) = queue::bounded(CHUNKS_MAX, WakeUp::new(|| {}));
        let (folder, owner) = (journal.folder(), journal.owner());
        let maker = Maker::start(folder, owner, waker.clone())?;
        let (appender, spare) = journal.into_appender();
        let writer = Writer {
            appender,
            spare,
            chunks,
            spent: back,
            shared: Arc::clone(&shared),
            maker,
            loop_waker,
            sleeper,
            quota_bytes,
            pending: Pending::default(),
            retired: Vec::new(),
        };
        let thread = thread::Builder::new().name("journal".to_owned());
        let thread = thread
            .spawn(move || writer.run())
            .map_err(JournalError::Thread)?;
        Ok(Recorder {
            chunk: Chunk::new(),
            to_writer,
            spent,
            shared,
            told: RecordSeq(0),
            state: JournalState::Ok,
            waker,
            thread: Some(thread),
            faults: None,
            handed: RecordSeq(0),
        })
    }

    /// Lets tests make it wrong ([`DiskFaults::told_early`](super::faults::DiskFaults::told_early)).
    #[must_use]
    pub fn with_faults(mut self, faults: Option<DiskFaultHandle>) -> Recorder {
        self.faults = faults;
        self
    }

    /// Takes a record; [`Recorder::stored`] tells when it is durable.
    pub fn store(&mut self, seq: RecordSeq, record: &Record<'_>) {
        let owned = record.owned();
        let bytes = body_bytes(&owned);
        self.shared.waiting_records.fetch_add(1, Ordering::Relaxed);
        self.shared
            .waiting_bytes
            .fetch_add(bytes, Ordering::Relaxed);
        self.chunk.push((seq, owned));
        self.handed = seq;
    }

    /// Hands over what was stored since the last time.
    pub fn hand_over(&mut self) {
        if self.chunk.is_empty() {
            return;
        }
        match self.to_writer.send(std::mem::take(&mut self.chunk)) {
            Ok(()) => {
                self.chunk = self.spent.receive().unwrap_or_default();
                self.chunk.shrink_to(CHUNK_RECORDS_KEPT);
            }
            // The writer wakes the loop when it has room.
            Err(queue::SendError::Full(chunk) | queue::SendError::Closed(chunk)) => {
                self.chunk = chunk;
            }
        }
    }

    /// The last durable record, if it is another one than the last time.
    pub fn stored(&mut self) -> Option<RecordSeq> {
        let early = self
            .faults
            .as_ref()
            .is_some_and(|faults| faults.faults().told_early);
        let durable = if early {
            self.handed
        } else {
            self.shared.durable()
        };
        (durable > self.told).then(|| {
            self.told = durable;
            durable
        })
    }

    /// How the journal fares, if it fares differently than the last time.
    pub fn changed(&mut self, now: Instant) -> Option<JournalState> {
        let state = self.state(now);
        (state != self.state).then(|| {
            self.state = state;
            state
        })
    }

    /// How the journal fares.
    #[must_use]
    pub fn state(&self, now: Instant) -> JournalState {
        // A writer that has ended before its node has failed for good.
        if self.thread.as_ref().is_some_and(JoinHandle::is_finished) {
            return JournalState::Failed;
        }
        self.shared.state(now)
    }

    /// Whether the host may take input that leads to records.
    #[must_use]
    pub fn takes_more(&self) -> bool {
        self.shared.waiting_records.load(Ordering::Relaxed) < WAITING_RECORDS_MAX
            && self.shared.waiting_bytes.load(Ordering::Relaxed) < WAITING_BYTES_MAX
    }

    /// Nobody needs what was recorded for the decrees up to `decree` any more: neither acceptor nor learner.
    pub fn prune(&self, decree: Decree) {
        self.shared.set_pruned(decree);
    }

    /// The last durable record.
    #[must_use]
    pub fn durable(&self) -> RecordSeq {
        self.shared.durable()
    }

    /// Whether little room is left.
    #[must_use]
    pub fn low_space(&self) -> bool {
        self.shared.low_space.load(Ordering::Relaxed)
    }

    /// What is told of the journal.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.shared.figures().clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.hand_over();
        self.shared.stopping.store(true, Ordering::Release);
        self.waker.wake();
        let Some(thread) = self.thread.take() else {
            return;
        };
        let until = Instant::now() + ENDS_WITHIN;
        while !thread.is_finished() {
            if Instant::now() > until {
                warn!(
                    "the journal's disk does not answer: its last records are lost, as in a power cut"
                );
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        // The thread has no result, and a panic of it was reported when it happened.
        let _ = thread.join();
    }
}
