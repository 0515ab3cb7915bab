//! A journal that is open and not yet written to: what stands in it, and whether its node was born with it.

use std::sync::Arc;

use twostep_net::pool::Pool;

use super::appender::Appender;
use super::archive::Archive;
use super::error::JournalError;
use super::folder::Folder;
use super::format::Owner;
use super::record::Reading;
use super::records::Records;
use super::scan::{Cut, scan};
use super::segment::{self, SEGMENT_BYTES_MIN, SEGMENT_BYTES_USUAL, Segment, file_name};
use crate::configuration::Configuration;
use crate::types::{Decree, NodeId};
use crate::wire::Bounds;

/// What a record adds to the largest message, at most: the largest records are what a leader shows, and bodies. Bytes.
const RECORD_BYTES: usize = 64;

/// What the journals of a cluster's nodes have in common.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Whose journal it is.
    pub owner: Owner,
    /// How many bodies may be referred to: those of two windows.
    pub(super) places: usize,
    /// The largest payload of an entry. Bytes.
    pub(super) payload_bytes_max: usize,
    /// How long the first segment is; each is twice as long as the one before. Bytes.
    pub first_segment_bytes: u64,
    /// How long segments become, unless the largest record needs more. Bytes.
    pub segment_bytes_max: u64,
}

impl Shape {
    /// That of the journal of `node`.
    ///
    /// # Panics
    /// If the window does not fit into memory: no configuration has such a one.
    #[must_use]
    pub fn of(configuration: &Configuration, node: NodeId) -> Shape {
        let window = configuration.limits().window;
        let places = usize::try_from(window.saturating_mul(2)).expect("a window fits into memory");
        let scope = configuration.scope();
        Shape {
            owner: Owner {
                cluster: scope.cluster(),
                epoch: scope.epoch(),
                node,
            },
            places,
            payload_bytes_max: Bounds::of(configuration).message_bytes_max() + RECORD_BYTES,
            first_segment_bytes: SEGMENT_BYTES_MIN,
            segment_bytes_max: SEGMENT_BYTES_USUAL,
        }
    }
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    appender: Appender,
    shape: Shape,
    /// A segment that was made ahead.
    spare: Option<Segment>,
    cut: Option<Cut>,
    pruned: Decree,
}

impl Journal {
    /// Makes a new journal. `born`: its node has never run. Durable when this returns.
    ///
    /// # Errors
    /// [`JournalError`], if there is one already, or it cannot be made.
    pub fn create(
        folder: Arc<dyn Folder>,
        shape: Shape,
        born: bool,
    ) -> Result<Journal, JournalError> {
        Ok(Journal {
            appender: Appender::create(folder, shape, born)?,
            shape,
            spare: None,
            cut: None,
            pruned: Decree::NONE,
        })
    }

    /// Opens the journal in `folder`, and reads all of it; none if there is none.
    ///
    /// # Errors
    /// [`JournalError`], if it is damaged, another node's, or of a later program; nothing of it may be used then.
    pub fn open(folder: Arc<dyn Folder>, shape: Shape) -> Result<Option<Journal>, JournalError> {
        let Some(mut found) = scan(&*folder, shape.owner, shape.places)? else {
            return Ok(None);
        };
        let (spare, cut) = (found.spare.take(), found.cut.take());
        let (pruned, active) = (found.preamble.pruned, found.active.header.number);
        let mut appender = Appender::new(folder, shape, found);
        // What was found is used from now on, so it is known to be durable from now on.
        appender.mark();
        appender.commit().map_err(|source| {
            segment::failed(&**appender.folder(), &file_name(active), "write", source)
        })?;
        Ok(Some(Journal {
            appender,
            shape,
            spare,
            cut,
            pruned,
        }))
    }

    /// Whether the node was born with it. If not, its node has lost an earlier one.
    #[must_use]
    pub fn born(&self) -> bool {
        self.appender.born()
    }

    /// Whether no record was ever stored in it.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        self.appender.durable() == 0
    }

    /// What was cut off: a write that was under way when the power failed.
    #[must_use]
    pub fn cut(&self) -> Option<&Cut> {
        self.cut.as_ref()
    }

    /// How many bytes hold entries.
    #[must_use]
    pub fn entry_bytes(&self) -> u64 {
        self.appender.kept().map(|kept| kept.end as u64).sum()
    }

    /// What reads learned decrees back, also while the journal is written, into memory of `pool`.
    #[must_use]
    pub fn archive(&self, pool: Pool) -> Archive {
        Archive::new(self.folder(), self.appender.index(), pool)
    }

    /// Where it is.
    pub(super) fn folder(&self) -> Arc<dyn Folder> {
        Arc::clone(self.appender.folder())
    }

    /// Whose it is.
    pub(super) fn owner(&self) -> Owner {
        self.shape.owner
    }

    /// What writes to it, and a segment that was made ahead.
    #[must_use]
    pub fn into_appender(self) -> (Appender, Option<Segment>) {
        (self.appender, self.spare)
    }

    /// Its records, in the order in which they were stored.
    #[must_use]
    pub fn records(&self, reading: Reading) -> Records {
        Records::new(
            Arc::clone(self.appender.folder()),
            self.shape.owner,
            reading,
            self.pruned,
            self.appender.kept().copied(),
            self.shape.places,
        )
    }
}
