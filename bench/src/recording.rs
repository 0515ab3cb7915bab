//! The history of a load, written while it runs: what each call was, when it was made and answered, and how it ended.
//!
//! Times are those of the machine's monotonic clock, read before a call is sent and after its answer has come, and never the same
//! twice: the histories of several clients on one machine can be judged together. The format is that of
//! [`twostep_engine::client::history`]. *Cost*: two readings of the clock and one line for each call.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;

use rustix::time::{ClockId, clock_gettime};
use twostep_engine::client::CallOutcome;
use twostep_engine::client::history::Recorder;
use twostep_engine::types::{Seq, SessionId};

/// The buffer before the file. Bytes.
const BUFFER_BYTES: usize = 1 << 20;

/// A history that is being written, or nothing if none was asked for.
#[derive(Debug, Default)]
pub struct Recording {
    recorder: Option<Recorder<BufWriter<File>>>,
    last: u64,
}

impl Recording {
    /// Begins a history in a new file.
    ///
    /// # Errors
    /// When it cannot be made; a file that is there is not overwritten.
    pub fn begin(path: &Path) -> io::Result<Recording> {
        let file = File::create_new(path)?;
        let recorder = Recorder::begin(BufWriter::with_capacity(BUFFER_BYTES, file))?;
        Ok(Recording {
            recorder: Some(recorder),
            last: 0,
        })
    }

    /// Whether there is a history.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.recorder.is_some()
    }

    /// The time: later than all times that it has told. 0 if nothing is recorded.
    pub fn time(&mut self) -> u64 {
        if self.recorder.is_none() {
            return 0;
        }
        let now = clock_gettime(ClockId::Monotonic);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let now = seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0);
        self.last = now.max(self.last + 1);
        self.last
    }

    /// A call that was made at `invoked` has ended now.
    pub fn record(
        &mut self,
        invoked: u64,
        session: SessionId,
        seq: Seq,
        operation: &[u8],
        outcome: &CallOutcome<'_>,
    ) {
        let now = self.time();
        if let Some(recorder) = &mut self.recorder {
            recorder.record((invoked, now), session, seq, operation, outcome);
        }
    }

    /// Ends the history.
    ///
    /// # Errors
    /// When a part of it could not be written.
    pub fn finish(self) -> io::Result<()> {
        self.recorder.map_or(Ok(()), Recorder::finish)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twostep_engine::client::history::{End, read};
    use twostep_engine::types::Decree;

    #[test]
    fn times_ascend_and_nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history");
        let mut recording = Recording::begin(&path).unwrap();
        let session = SessionId {
            decree: Decree(3),
            index: 0,
        };
        let mut times = Vec::new();
        for seq in 1..=100 {
            times.push(recording.time());
            let unknown = CallOutcome::Unknown {
                session,
                seq: Seq(seq),
            };
            recording.record(times[times.len() - 1], session, Seq(seq), b"op", &unknown);
        }
        assert!(times.windows(2).all(|pair| pair[0] < pair[1]));
        recording.finish().unwrap();
        let calls = read(io::BufReader::new(File::open(&path).unwrap())).unwrap();
        assert!(calls.len() == 100 && calls.iter().all(|call| call.end == End::Unknown));
        let error = Recording::begin(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn without_a_file_nothing_is_recorded() {
        let mut recording = Recording::default();
        assert_eq!(recording.time(), 0);
        recording.finish().unwrap();
    }
}
