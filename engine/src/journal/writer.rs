//! The thread that makes records durable, in groups.
//!
//! ```text
//!  loop ── chunk of records ──► queue ──► encode ─► one write, one sync ─► durable: the loop is woken
//!       ◄── empty chunk ───────                      ▲
//!                                 maker: next segment┘  made ahead; old ones removed
//! ```
//!
//! *Rules.* Whatever waits when a sync ends goes into the next one: nothing waits for a timer to fill a group, and none is larger than
//! [`GROUP_BYTES_MAX`]. Only what nothing rests on yet, learned values, waits for company, at most [`LAZY_MAX`]. When
//! [`QUIET`] has passed without work a mark says how far the journal is durable ([`super::scan`]).
//!
//! *Trouble.* What fails is tried again every [`RETRY`], with the same bytes at the same place, until it succeeds; meanwhile
//! nothing further counts as durable, and [`JournalState`](crate::machine::JournalState) says so. A sync that failed is never believed later without
//! writing its bytes again.
//!
//! *Cost.* Per group one write of its bytes to preallocated space and one sync, and waking two threads; per record its copy and its check. Nothing
//! is allocated once buffers are warm.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use tracing::{info, warn};
use twostep_net::{Sleeper, WakeUp, queue};

use super::appender::Appender;
use super::maker::Maker;
use super::record;
use super::recorder::Chunk;
use super::segment::Segment;
use super::shared::Shared;
use crate::types::RecordSeq;

/// A group takes no further chunk beyond this. Bytes.
pub const GROUP_BYTES_MAX: usize = 4 << 20;
/// How long learned values wait for company.
pub const LAZY_MAX: Duration = Duration::from_millis(5);
/// How long the journal is without work before a mark is written.
pub const QUIET: Duration = Duration::from_millis(20);
/// How long after a failure it is tried again.
pub const RETRY: Duration = Duration::from_millis(100);
/// Below so many segments' worth of free space a warning is given, and from this share of the quota on. Percent.
const FREE_SEGMENTS_MIN: u64 = 4;
const QUOTA_WARNING_PERCENT: u64 = 80;

/// The writer's side of a journal.
#[derive(Debug)]
pub(super) struct Writer {
    pub appender: Appender,
    pub spare: Option<Segment>,
    pub chunks: queue::Receiver<Chunk>,
    /// Takes empty chunks back.
    pub spent: queue::Sender<Chunk>,
    pub shared: Arc<Shared>,
    pub maker: Maker,
    /// Wakes the loop.
    pub loop_waker: WakeUp,
    pub sleeper: Sleeper,
    /// The most bytes that the files of the journal may take; 0 for as many as there is room for.
    pub quota_bytes: u64,
    pub pending: Pending,
    /// Segments that are to be removed.
    pub retired: Vec<u64>,
}

/// What is encoded and not yet durable.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// The machine's number of the newest record.
    seq: RecordSeq,
    records: usize,
    body_bytes: usize,
    /// Whether something rests on one of them.
    urgent: bool,
    /// When the oldest of those that may wait came.
    since: Option<Instant>,
    /// Whether a segment was asked for.
    asked: bool,
    /// When there was work last.
    worked_at: Option<Instant>,
}

/// The node ends, and what is not durable will not be.
struct Stopped;

impl Writer {
    /// Works until the node ends and everything is durable, or can not be.
    pub fn run(mut self) {
        self.report();
        loop {
            let now = Instant::now();
            match self.turn(now) {
                Ok(Some(deadline)) => self.sleeper.wait(now, false, deadline),
                Ok(None) => {}
                Err(Stopped) => return,
            }
        }
    }

    /// One turn: `None` if there is more to do at once, otherwise until when there is nothing.
    fn turn(&mut self, now: Instant) -> Result<Option<Option<Instant>>, Stopped> {
        // First: what was handed over before the end is seen by the turn that sees the end.
        let stopping = self.shared.is_stopping();
        while self.appender.buffered() < GROUP_BYTES_MAX {
            let Some(chunk) = self.chunks.receive() else {
                break;
            };
            self.take(chunk, now)?;
        }
        let lazy = self.pending.since.map(|since| since + LAZY_MAX);
        let due = self.pending.urgent
            || self.appender.buffered() >= GROUP_BYTES_MAX
            || lazy.is_some_and(|at| at <= now)
            || stopping;
        if due && self.appender.buffered() > 0 {
            self.commit()?;
            self.pending.worked_at = Some(now);
            self.tend();
            return Ok(None);
        }
        if !self.chunks.is_empty() {
            return Ok(None);
        }
        self.tend();
        if self.appender.buffered() > 0 {
            return Ok(Some(lazy));
        }
        let quiet_at = self.pending.worked_at.map(|at| at + QUIET);
        if self.appender.is_marked() {
            return if stopping {
                Err(Stopped)
            } else {
                Ok(Some(None))
            };
        }
        if stopping || quiet_at.is_none_or(|at| at <= now) {
            self.appender.mark();
            self.commit()?;
            return Ok(None);
        }
        Ok(Some(quiet_at))
    }

    /// Encodes a chunk of records.
    fn take(&mut self, mut chunk: Chunk, now: Instant) -> Result<(), Stopped> {
        for (seq, stored) in chunk.drain(..) {
            let borrowed = stored.borrowed();
            if self.appender.append(&borrowed).is_err() {
                self.commit()?;
                let next = self.next_segment()?;
                self.appender.turn_over(next);
                self.report();
                let fits = self.appender.append(&borrowed);
                assert!(fits.is_ok(), "a segment is made for the largest record");
            }
            let pending = &mut self.pending;
            pending.seq = seq;
            pending.records += 1;
            pending.body_bytes += body_bytes(&stored);
            if record::may_wait(record::kind(&borrowed)) {
                pending.since.get_or_insert(now);
            } else {
                pending.urgent = true;
            }
        }
        // A loop that has enough of them lets it go.
        let _ = self.spent.send(chunk);
        Ok(())
    }

    /// Makes everything that is encoded durable, however long it takes.
    fn commit(&mut self) -> Result<(), Stopped> {
        let begun = Instant::now();
        let bytes = self.appender.buffered();
        self.shared.begin(begun);
        while let Err(error) = self.appender.commit() {
            self.trouble(&error, "cannot write the journal")?;
            self.shared.begin(Instant::now());
        }
        self.shared.end();
        self.relief();
        let pending = &mut self.pending;
        let mut figures = self.shared.figures();
        let took = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        figures.syncs.saturating_record(took);
        figures.records += pending.records as u64;
        figures.written_bytes += bytes as u64;
        drop(figures);
        if pending.records > 0 {
            let Pending {
                seq,
                records,
                body_bytes,
                ..
            } = *pending;
            self.shared.set_durable(seq);
            self.shared
                .waiting_records
                .fetch_sub(records, Ordering::Relaxed);
            self.shared
                .waiting_bytes
                .fetch_sub(body_bytes, Ordering::Relaxed);
            (pending.records, pending.body_bytes) = (0, 0);
            self.loop_waker.wake();
        }
        (pending.urgent, pending.since) = (false, None);
        Ok(())
    }

    /// The segment after the active one, however long it takes.
    fn next_segment(&mut self) -> Result<Segment, Stopped> {
        self.shared.begin(Instant::now());
        loop {
            // What may be removed makes room.
            self.tend();
            if let Some(segment) = self.spare.take() {
                self.shared.end();
                self.relief();
                return Ok(segment);
            }
            self.ask_for_segment()?;
            match self.maker.wait(RETRY) {
                Some(made) => self.made(made)?,
                None if self.shared.is_stopping() => return Err(Stopped),
                None => {}
            }
        }
    }

    /// Looks after the files: the next segment is made before it is needed, those that nobody needs go.
    fn tend(&mut self) {
        if let Some(made) = self.maker.take() {
            match made {
                Ok(segment) => self.spare(segment),
                Err(error) => {
                    // It is asked for again, at the latest when it is needed.
                    self.pending.asked = false;
                    self.shared.figures().error = Some(error.to_string());
                }
            }
        }
        if self.spare.is_none() && self.appender.is_half_full() && !self.over_quota() {
            // If it is not made now it is when it is needed.
            let _ = self.ask_for_segment();
        }
        if self.appender.buffered() == 0 && self.appender.prune(self.shared.pruned()) {
            if self.appender.buffered() > 0 && self.commit().is_err() {
                return;
            }
            self.retired.extend(self.appender.retire());
            self.report();
        }
        self.maker.remove(&mut self.retired);
    }

    fn ask_for_segment(&mut self) -> Result<(), Stopped> {
        if self.pending.asked {
            return Ok(());
        }
        if self.over_quota() {
            let full = std::io::ErrorKind::QuotaExceeded.into();
            return self.trouble(
                &full,
                "the journal has reached its quota (journal_quota_bytes)",
            );
        }
        let (number, length) = self.appender.next();
        self.pending.asked = self.maker.ask(number, length);
        Ok(())
    }

    fn made(&mut self, made: std::io::Result<Segment>) -> Result<(), Stopped> {
        match made {
            Ok(segment) => {
                self.spare(segment);
                Ok(())
            }
            Err(error) => {
                self.pending.asked = false;
                self.trouble(&error, "cannot make the next segment of the journal")
            }
        }
    }

    fn spare(&mut self, segment: Segment) {
        self.pending.asked = false;
        let (used, quota) = (self.bytes() + segment.header.length, self.quota_bytes);
        let free = self.appender.free_bytes();
        let low = quota > 0
            && used.saturating_mul(100) > quota.saturating_mul(QUOTA_WARNING_PERCENT)
            || free.is_some_and(|free| free < FREE_SEGMENTS_MIN * segment.header.length);
        if low && !self.shared.low_space.load(Ordering::Relaxed) {
            let free = free.unwrap_or(0);
            warn!(
                "little room is left for the journal: it has {used} bytes, of {quota} that it may have (0: no bound); {free} are free"
            );
        }
        self.shared.low_space.store(low, Ordering::Relaxed);
        self.spare = Some(segment);
        self.report();
    }

    fn over_quota(&self) -> bool {
        let (_, length) = self.appender.next();
        self.quota_bytes > 0 && self.bytes() + length > self.quota_bytes
    }

    /// How long the files are together.
    fn bytes(&self) -> u64 {
        let spare = self.spare.as_ref().map(|spare| spare.header.length);
        let kept = self.appender.kept().map(|kept| kept.length);
        kept.chain(spare).sum()
    }

    /// Something failed: says so and waits a while, unless the node ends.
    fn trouble(&mut self, error: &std::io::Error, what: &str) -> Result<(), Stopped> {
        if self.shared.fails(error, what) {
            warn!("{what}: {error}; it is tried again until it works");
            self.loop_waker.wake();
        }
        if self.shared.is_stopping() {
            return Err(Stopped);
        }
        self.shared.end();
        thread::sleep(RETRY);
        Ok(())
    }

    fn relief(&mut self) {
        if self.shared.works() {
            info!("the journal can be written again");
            self.loop_waker.wake();
        }
    }

    fn report(&self) {
        let mut figures = self.shared.figures();
        figures.bytes = self.bytes();
        figures.segments =
            (self.appender.kept().count() + usize::from(self.spare.is_some())) as u64;
    }
}

/// Bytes of the body that a record holds.
pub(super) fn body_bytes(stored: &crate::record::OwnedRecord) -> usize {
    record::batch(&stored.borrowed()).map_or(0, |(_, batch)| batch.body().len())
}
