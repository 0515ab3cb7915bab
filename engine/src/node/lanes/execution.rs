//! The execution loop: it owns the state machine and the session table, and does its tasks in their order.
//!
//! One queue carries delivered batches and questions, so a lookup sees every decree that was delivered before it was asked, as it does in a node with
//! one lane. The replica delivers at most a window ahead of what was executed, and the order loop keeps at most [`QUESTIONS_MAX`] questions open, so
//! neither queue can overflow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use twostep_net::{Sleeper, WakeUp, queue};

use crate::batch::Batch;
use crate::executor::{Executed, Executor};
use crate::machine::{Input, Question, Replies, SnapshotNews};
use crate::message::RequestNames;
use crate::node::NodeError;
use crate::node::core::Executing;
use crate::node::refused_time::thread_time;
use crate::node::report::ExecutionReport;
use crate::node::snapshots::{Install, News, Snapshots, Told, Work};
use crate::state_machine::StateMachine;
use crate::types::{ClientId, Decree, Digest, NodeId};

/// Questions that are open at once; those beyond it are dropped, and whoever asks asks again.
const QUESTIONS_MAX: usize = 1024;
/// Status reports that are open at once: the order loop collects one at a time.
const REPORTS_MAX: usize = 1;
/// Snapshots that are installed at once: the replica receives one at a time.
const INSTALLS_MAX: usize = 1;

/// What the execution loop is to do.
#[derive(Debug)]
enum Task {
    Execute(Decree, Batch),
    Answer(Question),
    Install(Install),
    Report { digests: bool },
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// A decree was executed.
    Executed {
        /// Which one.
        decree: Decree,
        /// What became of its requests.
        replies: Replies,
        /// The running digest of all results.
        results: Digest,
        /// How long it took.
        took: Duration,
    },
    /// A retry was looked up.
    Found(Replies),
    /// A proposer's question was answered.
    Settled {
        /// Whose question.
        asker: NodeId,
        /// Whose requests.
        client: ClientId,
        /// Those that are settled, as [`RequestNames`] carry them.
        names: Vec<u8>,
    },
    /// There is nothing to tell.
    Nothing,
    /// A snapshot was installed, or not.
    Snapshot(SnapshotNews),
    /// How far execution has come, and what it cost. Microseconds.
    Report(ExecutionReport, u64),
}

/// The two ends of the execution loop: the loop itself, and what the order loop has of it.
pub(super) fn execution<S: StateMachine>(
    executor: Executor<S>,
    snapshots: Option<Snapshots>,
    window: u64,
    sleeper: Sleeper,
    order: WakeUp,
    stopping: Arc<AtomicBool>,
) -> (ExecutionLoop<S>, Remote) {
    let window = usize::try_from(window).expect("a window is small");
    let room = window + QUESTIONS_MAX + REPORTS_MAX + INSTALLS_MAX;
    let (tasks, to_do) = queue::bounded(room, sleeper.waker());
    let (outcomes, done) = queue::bounded(room, order);
    // Nobody waits for replies that come back.
    let (back, spent) = queue::bounded(room, WakeUp::new(|| {}));
    let execution = ExecutionLoop {
        executor,
        tasks: to_do,
        outcomes,
        spent,
        images: snapshots.as_ref().map(Snapshots::images),
        sleeper,
        stopping,
    };
    let remote = Remote {
        tasks,
        outcomes: done,
        spent: back,
        snapshots,
        questions: 0,
        questions_dropped: 0,
        reporting: false,
    };
    (execution, remote)
}

/// Executes on its own thread.
pub(super) struct ExecutionLoop<S: StateMachine> {
    executor: Executor<S>,
    tasks: queue::Receiver<Task>,
    outcomes: queue::Sender<Outcome>,
    /// Replies that were sent, for reuse.
    spent: queue::Receiver<Replies>,
    /// Takes images of the state.
    images: Option<queue::Sender<Work>>,
    sleeper: Sleeper,
    stopping: Arc<AtomicBool>,
}

impl<S: StateMachine> ExecutionLoop<S> {
    /// Works until the node ends.
    ///
    /// # Errors
    /// [`NodeError::State`] when the state machine cannot go on; nobody has heard of what it did last.
    pub fn run(mut self) -> Result<(), NodeError> {
        while !self.stopping.load(Ordering::Acquire) {
            let now = Instant::now();
            let worked = self.turn();
            // It may have been found while an image was read, too.
            if let Some(trouble) = self.executor.trouble() {
                return Err(trouble.into());
            }
            self.sleeper.wait(now, worked, None);
        }
        Ok(())
    }

    #[cfg(test)]
    pub fn executor(&self) -> &Executor<S> {
        &self.executor
    }

    /// Does what there is to do; whether there was anything.
    pub fn turn(&mut self) -> bool {
        let mut worked = false;
        while let Some(task) = self.tasks.receive() {
            worked = true;
            let outcome = self.perform(task);
            if self.executor.trouble().is_some() {
                return worked;
            }
            match self.outcomes.send(outcome) {
                Ok(()) => {}
                Err(queue::SendError::Full(_)) => {
                    unreachable!("there is room for the outcomes of all tasks that may be open")
                }
                // The node is ending.
                Err(queue::SendError::Closed(_)) => return worked,
            }
        }
        worked
    }

    fn perform(&mut self, task: Task) -> Outcome {
        match task {
            Task::Execute(decree, batch) => {
                let begun = Instant::now();
                let results = self.executor.execute(decree, &batch).results;
                let spare = self.spent.receive().unwrap_or_default();
                if let Some(images) = &self.images
                    && let Some(image) = self.executor.take_image()
                {
                    // If there is no room this learner signs no snapshot of it.
                    let _ = images.send(Work::Image(image));
                }
                Outcome::Executed {
                    decree,
                    replies: self.executor.take_replies(spare),
                    results,
                    took: begun.elapsed(),
                }
            }
            Task::Answer(question) => match self.executor.answer(&question) {
                Some(Input::Found(replies)) => Outcome::Found(replies.clone()),
                Some(Input::Settled { asker, names }) => Outcome::Settled {
                    asker,
                    client: names.client,
                    names: names.bytes().to_vec(),
                },
                _ => Outcome::Nothing,
            },
            Task::Install(install) => match install.install(&mut self.executor) {
                Some(news) => Outcome::Snapshot(news),
                None => Outcome::Nothing,
            },
            Task::Report { digests } => {
                let cpu_us = u64::try_from(thread_time().as_micros()).unwrap_or(u64::MAX);
                Outcome::Report(ExecutionReport::of(&self.executor, digests), cpu_us)
            }
        }
    }
}

/// The execution loop, as the order loop has it.
pub(super) struct Remote {
    tasks: queue::Sender<Task>,
    outcomes: queue::Receiver<Outcome>,
    spent: queue::Sender<Replies>,
    snapshots: Option<Snapshots>,
    questions: usize,
    questions_dropped: u64,
    /// A report is under way.
    reporting: bool,
}

impl Remote {
    /// What was done meanwhile, oldest first.
    pub fn outcome(&mut self) -> Option<Outcome> {
        let outcome = self.outcomes.receive()?;
        match outcome {
            Outcome::Found(_) | Outcome::Settled { .. } | Outcome::Nothing => self.questions -= 1,
            Outcome::Report(..) => self.reporting = false,
            Outcome::Executed { .. } | Outcome::Snapshot(_) => {}
        }
        Some(outcome)
    }

    /// Whether something was done that was not taken yet.
    pub fn has_outcome(&self) -> bool {
        let told = self.snapshots.as_ref().is_some_and(Snapshots::has_told);
        told || !self.outcomes.is_empty()
    }

    /// What the thread of the snapshots has to tell the replica, oldest first; what it has for the executor goes there.
    pub fn news(&mut self) -> Option<News> {
        loop {
            match self.snapshots.as_mut()?.told()? {
                Told::News(news) => return Some(news),
                Told::Install(install) => self.put(Task::Install(install)),
            }
        }
    }

    /// Gives replies back when they are sent.
    pub fn give_back(&mut self, replies: Replies) {
        // If there is no room the memory is given up.
        let _ = self.spent.send(replies);
    }

    /// Whether a report is under way: there is no room for another question then.
    pub fn reports(&self) -> bool {
        self.reporting
    }

    /// Asks for a report; one at a time.
    pub fn ask_report(&mut self, digests: bool) {
        assert!(!self.reporting, "one report at a time");
        self.reporting = true;
        self.put(Task::Report { digests });
    }

    /// Questions that found no room.
    pub fn questions_dropped(&self) -> u64 {
        self.questions_dropped
    }

    fn put(&mut self, task: Task) {
        // If the other end is gone the node is ending.
        if let Err(queue::SendError::Full(_)) = self.tasks.send(task) {
            unreachable!("there is room for all tasks that may be open");
        }
    }
}

impl Executing for Remote {
    fn execute(&mut self, decree: Decree, batch: Batch) -> Option<Executed<'_>> {
        self.put(Task::Execute(decree, batch));
        None
    }

    fn answer(&mut self, question: Question) -> Option<Input<'_>> {
        let question = match (question, &mut self.snapshots) {
            (Question::Snapshot(task), Some(snapshots)) => {
                snapshots.task(task);
                return None;
            }
            (Question::Archive(task), Some(snapshots)) => {
                snapshots.archive(task);
                return None;
            }
            (Question::Snapshot(_) | Question::Archive(_), None) => return None,
            (question, _) => question,
        };
        if self.questions == QUESTIONS_MAX {
            self.questions_dropped += 1;
            return None;
        }
        self.questions += 1;
        self.put(Task::Answer(question));
        None
    }
}

impl Outcome {
    /// The input of the replica that it becomes, if any; reports are the host's.
    pub fn input(&self) -> Option<Input<'_>> {
        match self {
            Outcome::Executed {
                decree,
                replies,
                results,
                ..
            } => Some(Input::Executed {
                decree: *decree,
                replies,
                results: *results,
            }),
            Outcome::Found(replies) => Some(Input::Found(replies)),
            Outcome::Settled {
                asker,
                client,
                names,
            } => Some(Input::Settled {
                asker: *asker,
                names: RequestNames::new(*client, names)?,
            }),
            Outcome::Snapshot(news) => Some(Input::Snapshot(news.clone())),
            Outcome::Nothing | Outcome::Report(..) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use twostep_net::Idle;

    use super::*;
    use crate::journal::snapshots::tests::configuration;
    use crate::node::host::Local;
    use crate::state_machine::{ChunkSource, Context, SnapshotReader, StateTrouble, TroubleKind};

    /// In trouble once it is told to be.
    struct Steered(Arc<AtomicBool>);

    impl StateMachine for Steered {
        fn execute(&mut self, _context: &Context, _operation: &[u8], _reply: &mut Vec<u8>) {}

        fn query(&self, _question: &[u8], _reply: &mut Vec<u8>) {}

        fn digest(&self) -> Digest {
            Digest::ZERO
        }

        fn snapshot(&self) -> Box<dyn SnapshotReader> {
            Box::new(crate::null::Null)
        }

        fn restore(&mut self, _chunks: &mut dyn ChunkSource) -> io::Result<()> {
            Ok(())
        }

        fn trouble(&self) -> Option<StateTrouble> {
            let trouble = || StateTrouble {
                kind: TroubleKind::Full,
                what: "the file".to_owned(),
                why: "no room".to_owned(),
            };
            self.0.load(Ordering::Relaxed).then(trouble)
        }
    }

    fn executor() -> (Executor<Steered>, Arc<AtomicBool>, Batch) {
        let (configuration, trouble) = (configuration(), Arc::<AtomicBool>::default());
        let machine = Steered(Arc::clone(&trouble));
        let noop = Batch::noop(&configuration.scope());
        (Executor::new(&configuration, machine), trouble, noop)
    }

    #[test]
    fn the_loop_ends_with_the_trouble_of_its_state_machine_and_tells_nothing_after_it() {
        let (executor, trouble, noop) = executor();
        let (sleeper, stopping) = (Sleeper::new(Idle::default()), Arc::default());
        let order = WakeUp::new(|| {});
        let (mut execution, mut remote) =
            execution(executor, None, 8, sleeper, order, Arc::clone(&stopping));
        assert!(remote.execute(Decree(1), noop.clone()).is_none());
        assert!(execution.turn());
        assert!(matches!(
            remote.outcome(),
            Some(Outcome::Executed {
                decree: Decree(1),
                ..
            })
        ));

        trouble.store(true, Ordering::Relaxed);
        assert!(remote.execute(Decree(2), noop.clone()).is_none());
        assert!(remote.execute(Decree(3), noop).is_none());
        remote.ask_report(true);
        let ended = execution.run().expect_err("it cannot go on");
        assert_eq!(
            ended.to_string(),
            "the file: no room; make room and start the node again: it makes its state anew from its snapshots, its journal and its peers"
        );
        assert!(remote.outcome().is_none());
    }

    #[test]
    fn with_one_lane_nothing_is_told_either() {
        let (executor, trouble, noop) = executor();
        let mut local = Local {
            executor,
            snapshots: None,
        };
        assert!(local.execute(Decree(1), noop.clone()).is_some());
        trouble.store(true, Ordering::Relaxed);
        assert!(local.execute(Decree(2), noop.clone()).is_none());
        assert!(local.execute(Decree(3), noop).is_none());
    }
}
