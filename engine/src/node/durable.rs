//! What a node with a journal does before it takes part: opens it, reads it, and becomes again what it was.
//!
//! | found in the node's folder | then |
//! |---|---|
//! | a journal that the node was born with | it goes on where the journal ends |
//! | one that it was not born with | it has lost its disk once; the journal says whether it takes part again |
//! | none | it has lost its disk: a journal is made, which says so for ever |
//! | one, and the node has run without it (`durability = "memory"`) | what it promised then is forgotten: a lost disk |
//! | a damaged one, another node's, or a later program's | it stops, and says what to do; nothing of the journal is used |
//!
//! Only [`testnet`](super::testnet) makes a journal that a node is born with (PROTOCOL.md section 5.5).

use std::path::{Path, PathBuf};
use std::time::Instant;

use tracing::{info, warn};

use crate::configuration::Configuration;
use crate::executor::Executor;
use crate::journal::faults::{DiskFaultHandle, FaultyFolder};
use crate::journal::folder::{DiskFolder, Folder};
use crate::journal::record::Reading;
use crate::journal::{Journal, JournalError, Shape};
use crate::node::NodeError;
use crate::node::birth::STARTED_FILE;
use crate::node::tunables::NodeOptions;
use crate::replica::{Replica, RestoreError, Setup, Standing};
use crate::state_machine::StateMachine;
use crate::types::NodeId;

/// The folder of the journal in a node's folder.
pub const JOURNAL_FOLDER: &str = "journal";

/// A journal that was opened, and what it says of the node.
pub(super) struct Durable {
    path: PathBuf,
    pub journal: Journal,
    pub standing: Standing,
    /// Steers the faults of its disk; none where faults are not allowed.
    pub faults: Option<DiskFaultHandle>,
}

impl Durable {
    /// Opens the journal in a node's folder; makes one that says that the node has lost its disk if there is none.
    pub fn open(
        folder: &Path,
        configuration: &Configuration,
        node: NodeId,
        options: &NodeOptions,
    ) -> Result<Durable, JournalError> {
        let path = folder.join(JOURNAL_FOLDER);
        let shape = shape(configuration, node, options);
        let files = DiskFolder::create(&path).map_err(|source| JournalError::Io {
            path: path.clone(),
            doing: "open",
            source,
        })?;
        let faults = options.faults.then(DiskFaultHandle::new);
        let files: std::sync::Arc<dyn Folder> = match &faults {
            Some(handle) => {
                handle.set(options.disk_faults.0);
                FaultyFolder::new(files, handle.clone())
            }
            None => files,
        };
        let Some(journal) = Journal::open(files.clone(), shape)? else {
            warn!(
                "{}: no journal, so this node has lost its disk; the journal of a new node is made by `twostep testnet`",
                path.display()
            );
            return Ok(Durable {
                path,
                journal: Journal::create(files, shape, false)?,
                standing: Standing::LostDisk,
                faults,
            });
        };
        if let Some(cut) = journal.cut() {
            warn!(
                "{}/{}: cut {} bytes at byte {}, which were being written when the node ended; nobody was told of them",
                path.display(),
                cut.file,
                cut.bytes,
                cut.offset
            );
        }
        let forgotten = folder.join(STARTED_FILE).exists();
        if forgotten {
            warn!(
                "this node has run without its journal (durability = memory): what it promised then is lost"
            );
        }
        Ok(Durable {
            path,
            standing: if journal.born() && !forgotten {
                Standing::Born
            } else {
                Standing::LostDisk
            },
            journal,
            faults,
        })
    }

    /// The replica that the journal tells of; what was learned is executed again. `cluster` is the file that lists the clients.
    pub fn restore<S: StateMachine>(
        &self,
        setup: Setup,
        executor: &mut Executor<S>,
        cluster: &Path,
    ) -> Result<Replica, NodeError> {
        let begun = Instant::now();
        let reading = Reading::new(&setup.configuration, setup.pool.clone());
        let mut records = self.journal.records(reading);
        let mut wrong = None;
        let sound = std::iter::from_fn(|| match records.next()? {
            Ok(record) => Some(record),
            Err(error) => {
                wrong = Some(error);
                None
            }
        });
        let restored = Replica::restore(setup, None, sound, &mut |decree, batch| {
            executor.execute(decree, batch).results
        });
        if let Some(error) = wrong {
            return Err(error.into());
        }
        let replica = restored.map_err(|why| match why {
            RestoreError::Key(source) => NodeError::Client {
                cluster: cluster.to_owned(),
                source,
            },
            why => NodeError::Restore {
                journal: self.path.clone(),
                why,
            },
        })?;
        info!(
            "the journal of {} bytes was read in {} ms: {} records, learned up to decree {}",
            self.journal.entry_bytes(),
            begun.elapsed().as_millis(),
            records.count(),
            replica.report().learned
        );
        Ok(replica)
    }
}

/// Makes the journal of a node that has never run.
///
/// # Errors
/// [`JournalError`], if there is one already, or it cannot be made.
pub fn bear(
    folder: &Path,
    configuration: &Configuration,
    node: NodeId,
    options: &NodeOptions,
) -> Result<(), JournalError> {
    let path = folder.join(JOURNAL_FOLDER);
    let files = DiskFolder::create(&path).map_err(|source| JournalError::Io {
        path,
        doing: "make",
        source,
    })?;
    Journal::create(files, shape(configuration, node, options), true).map(drop)
}

/// Whether a node that is to run without its journal has run with it: what it promised then it would not know.
///
/// # Errors
/// [`JournalError`], if it cannot be read.
pub(super) fn has_run(
    folder: &Path,
    configuration: &Configuration,
    node: NodeId,
    options: &NodeOptions,
) -> Result<bool, JournalError> {
    let path: PathBuf = folder.join(JOURNAL_FOLDER);
    if !path.exists() {
        return Ok(false);
    }
    let files = DiskFolder::open(&path).map_err(|source| JournalError::Io {
        path,
        doing: "open",
        source,
    })?;
    let journal = Journal::open(files, shape(configuration, node, options))?;
    Ok(journal.is_some_and(|journal| !(journal.born() && journal.is_untouched())))
}

fn shape(configuration: &Configuration, node: NodeId, options: &NodeOptions) -> Shape {
    let mut shape = Shape::of(configuration, node);
    shape.segment_bytes_max = options.journal_segment_bytes;
    shape
}
