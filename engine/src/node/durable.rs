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
//! Snapshots lie beside the journal, which holds what was learned above them.
//!
//! Only [`testnet`](super::testnet) makes a journal that a node is born with (PROTOCOL.md section 5.5).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tracing::{info, warn};

use crate::configuration::Configuration;
use crate::executor::Executor;
use crate::journal::faults::{DiskFaultHandle, FaultyFolder};
use crate::journal::folder::{DiskFolder, Folder};
use crate::journal::record::Reading;
use crate::journal::snapshots::FolderStore;
use crate::journal::{Journal, JournalError, Shape};
use crate::machine::SnapshotTask;
use crate::message::{Checkpoint, Snapshot};
use crate::node::NodeError;
use crate::node::birth::STARTED_FILE;
use crate::node::tunables::NodeOptions;
use crate::record::OwnedRecord;
use crate::replica::{Replica, RestoreError, Setup, Standing};
use crate::snapshot::{Keeper, chunk_bytes};
use crate::state_machine::{StateMachine, StateTrouble, TroubleKind};
use crate::types::{Decree, Digest, NodeId};

/// The folder of the journal in a node's folder.
pub const JOURNAL_FOLDER: &str = "journal";
/// The folder of the snapshots in a node's folder.
pub const SNAPSHOTS_FOLDER: &str = "snapshots";
/// The folder of a state that is kept on disk, in a node's folder.
pub const STATE_FOLDER: &str = "state";

/// A journal that was opened, and what it says of the node.
pub(super) struct Durable {
    path: PathBuf,
    pub journal: Journal,
    pub standing: Standing,
    /// The files of snapshots.
    snapshots: Arc<dyn Folder>,
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
        let faults = options.faults.then(DiskFaultHandle::new);
        if let Some(handle) = &faults {
            handle.set(options.disk_faults.0);
        }
        let files = open_folder(&path, faults.as_ref())?;
        let snapshots = open_folder(&folder.join(SNAPSHOTS_FOLDER), faults.as_ref())?;
        let Some(journal) = Journal::open(files.clone(), shape)? else {
            warn!(
                "{}: no journal, so this node has lost its disk; the journal of a new node is made by `twostep testnet`",
                path.display()
            );
            return Ok(Durable {
                path,
                journal: Journal::create(files, shape, false)?,
                standing: Standing::LostDisk,
                snapshots,
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
            snapshots,
            faults,
        })
    }

    /// The keeper of the snapshots on disk.
    pub fn keeper(&self, configuration: &Configuration) -> Keeper {
        let chunk_bytes = chunk_bytes(configuration.limits());
        let store = FolderStore::new(Arc::clone(&self.snapshots), chunk_bytes);
        Keeper::new(configuration, Box::new(store))
    }

    /// The replica that the journal tells of. The executor takes up the newest sound snapshot; what was learned above it is
    /// executed again. `cluster` is the file that lists the clients.
    ///
    /// Where snapshots are damaged or gone, what was learned behind a gap is left out: the learner learns it again from others.
    pub fn restore<S: StateMachine>(
        &self,
        setup: Setup,
        executor: &mut Executor<S>,
        keeper: &mut Keeper,
        cluster: &Path,
    ) -> Result<Replica, NodeError> {
        let begun = Instant::now();
        let reading = Reading::new(&setup.configuration, setup.pool.clone());
        let mut records = self.journal.records(reading);
        let mut wrong = None;
        let base = take_up(executor, keeper)?;
        let mut learned = base.map_or(Decree::NONE, |base| base.decree);
        let mut left_out = 0_u64;
        let sound = std::iter::from_fn(|| {
            loop {
                match records.next()? {
                    Ok(OwnedRecord::Learned { decree, .. }) if decree > learned.next() => {
                        left_out += 1;
                    }
                    Ok(record) => {
                        if let OwnedRecord::Learned { decree, .. } = record {
                            learned = learned.max(decree);
                        }
                        return Some(record);
                    }
                    Err(error) => {
                        wrong = Some(error);
                        return None;
                    }
                }
            }
        });
        let restored = Replica::restore(setup, base.as_ref(), sound, &mut |decree, batch| {
            // In trouble the digests mean nothing, and nothing is made of them.
            let results = executor.try_execute(decree, batch);
            let results = results.map_or(Digest::ZERO, |executed| executed.results);
            if let Some(image) = executor.take_image() {
                keeper.image(image);
            }
            results
        });
        if let Some(trouble) = executor.trouble() {
            return Err(trouble.into());
        }
        if left_out > 0 {
            warn!(
                "{left_out} learned decrees stand above a snapshot that is damaged or gone: this node learns from others again"
            );
        }
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
            records.read_so_far(),
            replica.report().learned
        );
        Ok(replica)
    }
}

/// Lets the executor take up the newest sound snapshot, if there is one.
fn take_up<S: StateMachine>(
    executor: &mut Executor<S>,
    keeper: &mut Keeper,
) -> Result<Option<Checkpoint>, StateTrouble> {
    while let Some((certificate, mut source)) = keeper.newest() {
        let Snapshot {
            decree,
            chain,
            results,
            ..
        } = certificate.snapshot;
        match executor.install(&certificate.snapshot, &mut *source) {
            Ok(()) => {
                info!("the state begins at the snapshot after decree {decree}");
                return Ok(Some(Checkpoint {
                    decree,
                    chain,
                    results,
                }));
            }
            Err(error) => {
                // The snapshot may be as good as ever.
                if let Some(trouble) = executor.trouble() {
                    return Err(trouble);
                }
                warn!("the snapshot after decree {decree} cannot be taken up: {error}");
                keeper.perform(SnapshotTask::Discard { decree });
            }
        }
    }
    Ok(None)
}

/// Where a state machine may keep what it has, in its node's folder. Whoever gets it may make files there: no other process
/// runs the node.
#[derive(Debug)]
pub struct StatePlace {
    path: PathBuf,
    faults: Option<DiskFaultHandle>,
    /// Memory that may be spent on it. Bytes.
    pub cache_bytes: usize,
}

impl StatePlace {
    /// In the folder of a node; `faults` steers the faults of its disk.
    pub(super) fn new(
        folder: &Path,
        faults: Option<&DiskFaultHandle>,
        options: &NodeOptions,
    ) -> StatePlace {
        StatePlace {
            path: folder.join(STATE_FOLDER),
            faults: faults.map(DiskFaultHandle::scratch),
            cache_bytes: options.state_cache_bytes,
        }
    }

    /// Opens the folder, which is made if there is none. Nothing in it need outlive the process: a state comes back from snapshots
    /// and the journal.
    ///
    /// # Errors
    /// When the disk does not let it.
    pub fn folder(&self) -> Result<Arc<dyn Folder>, StateTrouble> {
        let folder = open_folder(&self.path, self.faults.as_ref());
        folder.map_err(|why| StateTrouble {
            kind: TroubleKind::Failing,
            what: "the folder of the state cannot be had".to_owned(),
            why: why.to_string(),
        })
    }
}

fn open_folder(
    path: &Path,
    faults: Option<&DiskFaultHandle>,
) -> Result<Arc<dyn Folder>, JournalError> {
    let files = DiskFolder::create(path).map_err(|source| JournalError::Io {
        path: path.to_owned(),
        doing: "open",
        source,
    })?;
    Ok(match faults {
        Some(handle) => FaultyFolder::new(files, handle.clone()),
        None => files,
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::faults::DiskFaults;
    use crate::journal::memory::MemoryFolder;
    use crate::journal::snapshots::tests::{configuration, keeper, with_a_snapshot};
    use crate::key_value::DiskKeyValue;

    #[test]
    fn a_snapshot_is_kept_if_it_is_the_state_that_cannot_be_written() {
        let configuration = configuration();
        let (snapshots, state) = with_a_snapshot(&configuration);
        let mut keeper = keeper(&snapshots, &configuration);
        let handle = DiskFaultHandle::new();
        let folder = FaultyFolder::new(MemoryFolder::new(), handle.scratch());
        let executor = || {
            let machine = DiskKeyValue::create(&*folder, 0).expect("there is room");
            Executor::new(&configuration, machine)
        };
        let mut first = executor();
        handle.set(DiskFaults {
            full: true,
            ..DiskFaults::default()
        });
        let trouble = take_up(&mut first, &mut keeper).expect_err("there is none any more");
        assert_eq!(trouble.kind, TroubleKind::Full);
        drop(first);
        handle.set(DiskFaults::default());
        let mut second = executor();
        let base = take_up(&mut second, &mut keeper).expect("there is room again");
        assert_eq!(base.map(|base| base.decree), Some(Decree(4)));
        assert_eq!(second.state_digest(), state);
    }
}
