//! The thread that keeps a node's snapshots: it reads images, hashes, stores and serves, so that no other loop waits for it.
//!
//! ```text
//!  execution ── Image ─┐                      ┌─► News ────► replica
//!  replica ──── task ──┴─► Keeper (its thread) ┴─► Install ─► executor, then Installed to the replica
//! ```
//!
//! *Bounds.* [`WORK_MAX`] tasks and as many outcomes are on their way. A question of another learner that finds no room is lost, since it
//! will ask again; what the own replica counts on is kept until there is room: a few tasks, and the pieces that it has
//! asked for.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use tracing::error;
use twostep_net::{Idle, Sleeper, WakeUp, queue};

use crate::executor::Executor;
use crate::machine::{SnapshotNews, SnapshotTask};
use crate::message::SnapshotCertificate;
use crate::node::NodeError;
use crate::snapshot::{Image, Keeper, KeeperOutcome};
use crate::state_machine::{ChunkSource, StateMachine};

/// Tasks, and outcomes, that may be on their way.
const WORK_MAX: usize = 256;

/// What the thread is to do.
#[derive(Debug)]
pub(super) enum Work {
    Image(Image),
    Task(SnapshotTask),
}

/// A snapshot for the executor.
pub(super) struct Install {
    certificate: Box<SnapshotCertificate>,
    source: Box<dyn ChunkSource + Send>,
}

/// What the thread has to say to the loop that runs the replica.
pub(super) enum Told {
    /// For the replica.
    News(SnapshotNews),
    /// For the executor.
    Install(Install),
}

/// The thread, as the loop that runs the replica has it.
pub(super) struct Snapshots {
    work: queue::Sender<Work>,
    outcomes: queue::Receiver<KeeperOutcome>,
    /// What found no room.
    waiting: VecDeque<Work>,
}

/// Ends the thread when it is dropped.
pub(super) struct SnapshotsThread {
    stopping: Arc<AtomicBool>,
    waker: WakeUp,
    running: Option<JoinHandle<()>>,
}

impl Snapshots {
    /// Starts the thread of `keeper`; `waker` wakes the loop that runs the replica.
    ///
    /// # Errors
    /// [`NodeError::Thread`].
    pub fn start(keeper: Keeper, waker: WakeUp) -> Result<(Snapshots, SnapshotsThread), NodeError> {
        let sleeper = Sleeper::new(Idle::default());
        let thread_waker = sleeper.waker();
        let (work, to_do) = queue::bounded(WORK_MAX, thread_waker.clone());
        let (outcomes, told) = queue::bounded_both(WORK_MAX, waker, thread_waker.clone());
        let stopping = Arc::new(AtomicBool::new(false));
        let keeping = Keeping {
            keeper,
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

    /// What the thread has to say, oldest first; hands over what found no room before.
    pub fn told(&mut self) -> Option<Told> {
        while let Some(work) = self.waiting.pop_front() {
            if let Err(queue::SendError::Full(work)) = self.work.send(work) {
                self.waiting.push_front(work);
                break;
            }
        }
        Some(match self.outcomes.receive()? {
            KeeperOutcome::News(news) => Told::News(news),
            KeeperOutcome::Install(certificate, source) => Told::Install(Install {
                certificate,
                source,
            }),
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
    to_do: queue::Receiver<Work>,
    outcomes: queue::Sender<KeeperOutcome>,
    /// What found no room.
    unsaid: Option<KeeperOutcome>,
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

    /// Says what there is to say; false if there is no room.
    fn say(&mut self) -> bool {
        while let Some(outcome) = self.unsaid.take().or_else(|| self.keeper.outcome()) {
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
        true
    }
}
