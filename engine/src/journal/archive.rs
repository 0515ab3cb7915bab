//! What was learned, read back while the journal is written: for learners that lag further than the logs in memory reach.
//!
//! ```text
//!  writer ── learned d, its value, where its body is ──► Index ──► Archive ── values of d, d + 1, … ; the body of d ──► replica
//!                                                                    └─ one read of one entry, checked
//! ```
//!
//! The journal holds what was learned above the last but one certified snapshot, whatever the bound of the log in memory is (PROTOCOL.md
//! section 5.4). So whoever has taken up a certified snapshot finds here what comes next, however fast the order goes on.
//!
//! *Rules.* The writer notes a learned decree when it encodes it, and forgets it before its segment is removed. A body that is not written yet, or
//! whose segment went meanwhile, is not found: whoever asks asks again. Each entry is checked as it is read, and whoever gets a body
//! holds it against its value.
//!
//! *Cost.* 64 bytes of memory per decree, at most [`DECREES_MAX`] of them; values cost no read, a body costs one. *Bounds.* The oldest decrees are
//! forgotten beyond that.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::warn;
use twostep_net::pool::{Body, Pool};

use super::folder::{File, Folder};
use super::format::Entry;
use super::record;
use super::segment::file_name;
use crate::machine::{ArchiveNews, ArchiveTask};
use crate::types::{Decree, Value};

/// The most decrees that can be found. With the default S four times as many as two snapshots are apart.
pub const DECREES_MAX: usize = 1 << 17;

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// In which segment.
    pub segment: u64,
    /// Where it begins there. Bytes.
    pub offset: usize,
    /// How long it is. Bytes.
    pub bytes: usize,
}

/// Where the bodies of learned decrees are. Shared by the writer and the [`Archive`].
#[derive(Debug, Default)]
pub struct Index(Mutex<VecDeque<Learned>>);

#[derive(Clone, Copy, Debug)]
struct Learned {
    decree: Decree,
    value: Value,
    place: Place,
}

impl Index {
    /// A decree was learned; its body is there. A node that learns again from below supersedes what it had learned.
    pub fn learned(&self, decree: Decree, value: Value, place: Place) {
        let mut all = self.lock();
        while all.back().is_some_and(|last| last.decree >= decree) {
            all.pop_back();
        }
        if all.len() == DECREES_MAX {
            all.pop_front();
        }
        all.push_back(Learned {
            decree,
            value,
            place,
        });
    }

    /// Segments that hold decrees up to this one may go.
    pub fn forget(&self, decree: Decree) {
        let mut all = self.lock();
        while all.front().is_some_and(|first| first.decree <= decree) {
            all.pop_front();
        }
    }

    /// Appends the values of at most `count` decrees from `first` on, as far as all of them are known.
    fn values(&self, first: Decree, count: u64, values: &mut Vec<u8>) {
        let all = self.lock();
        let begin = all.partition_point(|learned| learned.decree < first);
        let wanted = all.range(begin..).zip(0..count);
        let consecutive = wanted.take_while(|(one, place)| one.decree == first.plus(*place));
        for (learned, _) in consecutive {
            values.extend_from_slice(&learned.value.0.0);
        }
    }

    fn find(&self, decree: Decree, value: Value) -> Option<Place> {
        let all = self.lock();
        let place = all.binary_search_by_key(&decree, |learned| learned.decree);
        let learned = all[place.ok()?];
        (learned.value == value).then_some(learned.place)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Learned>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads back what was learned. See the [module](self).
#[derive(Debug)]
pub struct Archive {
    folder: Arc<dyn Folder>,
    index: Arc<Index>,
    pool: Pool,
    /// The segment that was read last: whoever asks asks for what is beside it.
    open: Option<(u64, Box<dyn File>)>,
    bytes: Vec<u8>,
}

impl Archive {
    /// Reads what `index` knows of the journal in `folder`, into memory of `pool`.
    #[must_use]
    pub fn new(folder: Arc<dyn Folder>, index: Arc<Index>, pool: Pool) -> Archive {
        Archive {
            folder,
            index,
            pool,
            open: None,
            bytes: Vec::new(),
        }
    }

    /// What there is; none if there is no such body.
    pub fn answer(&mut self, task: ArchiveTask) -> Option<ArchiveNews> {
        match task {
            ArchiveTask::Values {
                asker,
                first,
                count,
            } => {
                let mut values = Vec::new();
                self.index.values(first, count, &mut values);
                Some(ArchiveNews::Values {
                    asker,
                    first,
                    values,
                })
            }
            ArchiveTask::Body {
                asker,
                decree,
                value,
            } => Some(ArchiveNews::Body {
                asker,
                decree,
                value,
                body: self.body(decree, value)?,
            }),
        }
    }

    fn body(&mut self, decree: Decree, value: Value) -> Option<Body> {
        let place = self.index.find(decree, value)?;
        let read = self.read(place).and_then(|()| {
            let entry = Entry::at(&self.bytes, place.segment, place.offset);
            let body = entry.and_then(|entry| record::body(entry.kind, entry.payload));
            let (head, body) = body.ok_or(io::ErrorKind::InvalidData)?;
            if (head.decree, head.value) == (decree, value) {
                Ok(self.pool.copy(body))
            } else {
                Err(io::ErrorKind::InvalidData.into())
            }
        });
        if read.is_err() {
            self.open = None;
        }
        match read {
            Ok(body) => Some(body),
            // Unless the segment was removed, or the entry is still to be written, this is damage, which the next start will find.
            Err(error) => {
                if self.index.find(decree, value) == Some(place) {
                    let (path, file) = (self.folder.path().display(), file_name(place.segment));
                    warn!(
                        "{path}/{file}: cannot read decree {decree} back from byte {}: {error}",
                        place.offset
                    );
                }
                None
            }
        }
    }

    fn read(&mut self, place: Place) -> io::Result<()> {
        let same = self
            .open
            .as_ref()
            .filter(|(open, _)| *open == place.segment);
        if same.is_none() {
            let file = self.folder.open(&file_name(place.segment))?;
            self.open = Some((place.segment, file));
        }
        self.bytes.clear();
        self.bytes.resize(place.bytes, 0);
        let (_, file) = self.open.as_ref().expect("it was just opened");
        file.read_at(&mut self.bytes, place.offset as u64)
    }
}
