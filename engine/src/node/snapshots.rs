//! The thread that keeps a node's snapshots: it reads images, hashes, stores and serves, so that no other loop waits for it. It reads
//! the journal's archive as well: both are for learners that lag.
//!
//! ```text
//!  execution ── Image ─┐                                ┌─► News ────► replica
//!  replica ──── task ──┴─► Keeper, Archive (its thread) ┴─► Install ─► executor, then Installed to the replica
//! ```
//!
//! *Bounds.* [`WORK_MAX`] tasks and as many outcomes are on their way, with [`ARCHIVED_BYTES_MAX`] of bodies from the archive, give or take
//! one. A question of another learner that finds no room is lost, since it will ask again; what the own replica counts on is kept until there is room: a few tasks, and the pieces that it has
//! asked for.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use tracing::error;
use twostep_net::{Idle, Sleeper, WakeUp, queue};

use crate::executor::Executor;
use crate::journal::archive::Archive;
use crate::machine::{ArchiveNews, ArchiveTask, Input, SnapshotNews, SnapshotTask};
use crate::message::SnapshotCertificate;
use crate::node::NodeError;
use crate::snapshot::{Image, Keeper, KeeperOutcome};
use crate::state_machine::{ChunkSource, StateMachine};

/// Tasks, and outcomes, that may be on their way.
const WORK_MAX: usize = 256;
/// Bytes of bodies from the archive that may be on their way to the replica before no more are read.
const ARCHIVED_BYTES_MAX: usize = 16 << 20;

/// What the thread is to do.
#[derive(Debug)]
pub(super) enum Work {
    Image(Image),
    Task(SnapshotTask),
    Archive(ArchiveTask),
}

/// What comes of it.
enum Outcome {
    Keeper(KeeperOutcome),
    Archive(ArchiveNews),
}

/// A snapshot for the executor.
pub(super) struct Install {
    certificate: Box<SnapshotCertificate>,
    source: Box<dyn ChunkSource + Send>,
}

/// What the thread has to say to the loop that runs the replica.
pub(super) enum Told {
    /// For the replica.
    News(News),
    /// For the executor.
    Install(Install),
}

/// What the replica is told.
pub(super) enum News {
    /// Of snapshots.
    Snapshot(SnapshotNews),
    /// From the archive.
    Archive(ArchiveNews),
}

impl News {
    /// What the replica takes.
    pub fn input(self) -> Input<'static> {
        match self {
            News::Snapshot(news) => Input::Snapshot(news),
            News::Archive(news) => Input::Archive(news),
        }
    }
}

/// The thread, as the loop that runs the replica has it.
pub(super) struct Snapshots {
    work: queue::Sender<Work>,
    outcomes: queue::Receiver<Outcome>,
    /// What found no room.
    waiting: VecDeque<Work>,
    /// Bytes of bodies that are on their way.
    archived: Arc<AtomicUsize>,
}

/// Ends the thread when it is dropped.
pub(super) struct SnapshotsThread {
    stopping: Arc<AtomicBool>,
    waker: WakeUp,
    running: Option<JoinHandle<()>>,
}

impl Snapshots {
    /// Starts the thread of `keeper` and `archive`, if there is one; `waker` wakes the loop that runs the replica.
    ///
    /// # Errors
    /// [`NodeError::Thread`].
    pub fn start(
        keeper: Keeper,
        archive: Option<Archive>,
        waker: WakeUp,
    ) -> Result<(Snapshots, SnapshotsThread), NodeError> {
        let sleeper = Sleeper::new(Idle::default());
        let thread_waker = sleeper.waker();
        let (work, to_do) = queue::bounded(WORK_MAX, thread_waker.clone());
        let (outcomes, told) = queue::bounded_both(WORK_MAX, waker, thread_waker.clone());
        let stopping = Arc::new(AtomicBool::new(false));
        let archived = Arc::new(AtomicUsize::new(0));
        let keeping = Keeping {
            keeper,
            archive,
            archived: Arc::clone(&archived),
            to_do,
            outcomes,
            unsaid: None,
            sleeper,
            stopping: Arc::clone(&stopping),
        };
        let thread = thread::Builder::new().name("snapshots".to_owned());
        let running = thread.spawn(move || keeping.run());
        let snapshots = Snapshots {
            work,
            outcomes: told,
            waiting: VecDeque::new(),
            archived,
        };
        let thread = SnapshotsThread {
            stopping,
            waker: thread_waker,
            running: Some(running.map_err(NodeError::Thread)?),
        };
        Ok((snapshots, thread))
    }

    /// Where a loop of its own hands images over.
    pub fn images(&self) -> queue::Sender<Work> {
        self.work.clone()
    }

    /// Hands an image over. One that finds no room is lost: this learner signs no snapshot of it.
    pub fn image(&self, image: Image) {
        let _ = self.work.send(Work::Image(image));
    }

    /// Hands a task over.
    pub fn task(&mut self, task: SnapshotTask) {
        let served = matches!(task, SnapshotTask::Serve { .. });
        let work = Work::Task(task);
        if !self.waiting.is_empty() && !served {
            self.waiting.push_back(work);
        } else if let Err(queue::SendError::Full(work)) = self.work.send(work)
            && !served
        {
            self.waiting.push_back(work);
        }
    }

    /// Hands a question for the archive over. One that finds no room is lost.
    pub fn archive(&mut self, task: ArchiveTask) {
        let _ = self.work.send(Work::Archive(task));
    }

    /// What the thread has to say, oldest first; hands over what found no room before.
    pub fn told(&mut self) -> Option<Told> {
        while let Some(work) = self.waiting.pop_front() {
            if let Err(queue::SendError::Full(work)) = self.work.send(work) {
                self.waiting.push_front(work);
                break;
            }
        }
        Some(match self.outcomes.receive()? {
            Outcome::Keeper(KeeperOutcome::News(news)) => Told::News(News::Snapshot(news)),
            Outcome::Keeper(KeeperOutcome::Install(certificate, source)) => {
                Told::Install(Install {
                    certificate,
                    source,
                })
            }
            Outcome::Archive(news) => {
                self.archived
                    .fetch_sub(body_bytes(&news), Ordering::Relaxed);
                Told::News(News::Archive(news))
            }
        })
    }

    /// Whether the thread has something to say.
    pub fn has_told(&self) -> bool {
        !self.outcomes.is_empty()
    }
}

impl Install {
    /// Lets `executor` take the snapshot up; what the replica is to be told. Nothing if the state machine cannot go on: the snapshot
    /// may be as good as ever.
    pub fn install<S: StateMachine>(mut self, executor: &mut Executor<S>) -> Option<SnapshotNews> {
        let snapshot = &self.certificate.snapshot;
        let installed = executor.install(snapshot, &mut *self.source);
        if executor.trouble().is_some() {
            return None;
        }
        Some(match installed {
            Ok(()) => SnapshotNews::Installed(self.certificate),
            Err(error) => {
                let decree = snapshot.decree;
                error!("the snapshot after decree {decree} cannot be installed: {error}");
                SnapshotNews::NotInstalled { decree }
            }
        })
    }
}

impl fmt::Debug for Install {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Install").field(&self.certificate).finish()
    }
}

fn body_bytes(news: &ArchiveNews) -> usize {
    match news {
        ArchiveNews::Values { .. } => 0,
        ArchiveNews::Body { body, .. } => body.len(),
    }
}

impl Drop for SnapshotsThread {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(running) = self.running.take() {
            // If it panicked, that was logged.
            let _ = running.join();
        }
    }
}

/// The thread itself.
struct Keeping {
    keeper: Keeper,
    archive: Option<Archive>,
    /// Bytes of bodies that are on their way.
    archived: Arc<AtomicUsize>,
    to_do: queue::Receiver<Work>,
    outcomes: queue::Sender<Outcome>,
    /// What found no room.
    unsaid: Option<Outcome>,
    sleeper: Sleeper,
    stopping: Arc<AtomicBool>,
}

impl Keeping {
    fn run(mut self) {
        while !self.stopping.load(Ordering::Acquire) && !self.outcomes.is_closed() {
            let now = Instant::now();
            let mut worked = false;
            // While nobody takes what came of it, nothing more is done.
            if self.say() {
                if let Some(work) = self.to_do.receive() {
                    worked = true;
                    match work {
                        Work::Image(image) => self.keeper.image(image),
                        Work::Task(task) => self.keeper.perform(task),
                        Work::Archive(task) => self.read(task),
                    }
                } else if self.keeper.has_work() {
                    worked = true;
                    self.keeper.work();
                }
            }
            if !worked {
                self.sleeper.wait(now, false, None);
            }
        }
    }

    /// Reads the archive, unless too much of it is on its way.
    fn read(&mut self, task: ArchiveTask) {
        if self.archived.load(Ordering::Relaxed) >= ARCHIVED_BYTES_MAX {
            return;
        }
        let news = match (&mut self.archive, task) {
            (Some(archive), task) => archive.answer(task),
            (None, ArchiveTask::Values { asker, first, .. }) => Some(ArchiveNews::Values {
                asker,
                first,
                values: Vec::new(),
            }),
            (None, ArchiveTask::Body { .. }) => None,
        };
        if let Some(news) = news {
            self.archived
                .fetch_add(body_bytes(&news), Ordering::Relaxed);
            self.unsaid = Some(Outcome::Archive(news));
        }
    }

    /// Says what there is to say; false if there is no room.
    fn say(&mut self) -> bool {
        loop {
            let kept = || self.keeper.outcome().map(Outcome::Keeper);
            let Some(outcome) = self.unsaid.take().or_else(kept) else {
                return true;
            };
            match self.outcomes.send(outcome) {
                Ok(()) => {}
                Err(queue::SendError::Full(outcome)) => {
                    self.unsaid = Some(outcome);
                    return false;
                }
                // The node is ending.
                Err(queue::SendError::Closed(_)) => return false,
            }
        }
    }
}
