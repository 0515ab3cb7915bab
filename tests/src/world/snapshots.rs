//! Snapshots in a world: what the keeper of a node does, in virtual time, and states that are damaged.

use twostep_engine::executor::Executor;
use twostep_engine::key_value::KeyValue;
use twostep_engine::machine::{Input, SnapshotNews, SnapshotTask};
use twostep_engine::message::{Checkpoint, Snapshot};
use twostep_engine::snapshot::{Keeper, KeeperOutcome};
use twostep_engine::state_machine::{Context, StateMachine};
use twostep_engine::types::{ClientId, Decree, NodeId, Seq, SessionId, Time};

use super::World;
use super::queue::{Happening, Install};
use crate::checkers::{Finding, Property};
use crate::trace::Kind;
use crate::workload;

impl World<'_> {
    /// A node executed a decree: at a multiple of S its keeper gets an image, and all correct learners must have one state.
    pub(super) fn image(
        &mut self,
        node: NodeId,
        decree: Decree,
        executor: &mut Executor<KeyValue>,
    ) -> Result<(), Finding> {
        let Some(image) = executor.take_image() else {
            return Ok(());
        };
        let host = &mut self.hosts[usize::from(node.0)];
        host.keeper.image(image);
        if !host.corrupt && !self.byzantine.contains(node) {
            let digest = executor.state_digest();
            if *self.states.entry(decree).or_insert(digest) != digest {
                let what = format!(
                    "n{} has another state at {decree} than an earlier learner",
                    node.0
                );
                return Err((Property::Divergence, what));
            }
        }
        self.schedule_keeping(node);
        Ok(())
    }

    /// The keeper does one piece of work.
    pub(super) fn keep(&mut self, node: NodeId, run: u32) -> Result<(), Finding> {
        let host = &mut self.hosts[usize::from(node.0)];
        if host.run != run {
            return Ok(());
        }
        host.keeper.work();
        let more = host.keeper.has_work();
        self.trace
            .event(self.now, Kind::Asked, u64::from(node.0), b"image");
        self.hear_keeper(node)?;
        if more {
            self.schedule_keeping(node);
        }
        Ok(())
    }

    /// The replica asks its keeper something.
    pub(super) fn ask_keeper(&mut self, node: NodeId, task: SnapshotTask) -> Result<(), Finding> {
        let host = &mut self.hosts[usize::from(node.0)];
        if let SnapshotTask::Discard { decree } = task {
            host.held.retain(|held| *held != decree);
        }
        host.keeper.perform(task);
        self.hear_keeper(node)
    }

    /// A snapshot goes to the executor, once that has executed what it was given before.
    pub(super) fn install(
        &mut self,
        node: NodeId,
        run: u32,
        mut install: Install,
    ) -> Result<(), Finding> {
        let host = &mut self.hosts[usize::from(node.0)];
        if host.run != run {
            return Ok(());
        }
        if !host.backlog.is_empty() {
            let at = Time(self.now.0 + self.plan.execution_max_ns + 1);
            let again = Happening::Install { node, run, install };
            self.queue.push(at, again);
            return Ok(());
        }
        let snapshot = install.certificate.snapshot;
        let decree = snapshot.decree;
        self.trace
            .event(self.now, Kind::Asked, u64::from(node.0), b"install");
        self.trace.line(self.now, || {
            format!("n{} takes up the snapshot of d{decree}", node.0)
        });
        let mut executor = self.take_executor(node);
        let installed = executor.install(&snapshot, &mut *install.source);
        let digest = executor.state_digest();
        self.hosts[usize::from(node.0)].executor = Some(executor);
        let news = match installed {
            Err(_) => SnapshotNews::NotInstalled { decree },
            Ok(()) => {
                if !self.byzantine.contains(node) && self.states.get(&decree) != Some(&digest) {
                    let what = format!(
                        "n{} installed a state of {decree} that no correct learner had",
                        node.0
                    );
                    return Err((Property::Divergence, what));
                }
                self.hosts[usize::from(node.0)].corrupt = false;
                self.said.installed(node, decree);
                self.order.installed(node, decree);
                self.installed += 1;
                SnapshotNews::Installed(install.certificate)
            }
        };
        self.drive(node, Input::Snapshot(news))?;
        self.hear_keeper(node)
    }

    /// A node's state is damaged, and it does not know.
    pub(super) fn corrupt(&mut self, node: NodeId) {
        let counters: Vec<_> = self
            .history
            .counters()
            .map(|(counter, _)| counter)
            .collect();
        let host = &mut self.hosts[usize::from(node.0)];
        let Some(executor) = host.executor.as_mut().filter(|_| host.machine.is_some()) else {
            return;
        };
        let context = Context {
            decree: executor.executed(),
            client: ClientId([0; 16]),
            session: SessionId::NONE,
            seq: Seq(0),
        };
        for counter in counters {
            let operation = workload::increment(counter);
            executor
                .machine_mut()
                .execute(&context, &operation, &mut Vec::new());
        }
        (host.corrupt, host.faulty) = (true, true);
        self.damaged.insert(node);
        self.said.corrupted(node);
    }

    /// The keeper of a node that starts again, and the newest snapshot on its disk, which its executor takes up.
    pub(super) fn restart_keeper(
        &mut self,
        node: NodeId,
        executor: &mut Executor<KeyValue>,
    ) -> (Keeper, Option<Checkpoint>) {
        let host = &mut self.hosts[usize::from(node.0)];
        host.held.clear();
        let shelf = host.shelf.clone();
        let mut keeper = Keeper::new(&self.configuration, Box::new(shelf));
        let Some((certificate, mut source)) = keeper.newest() else {
            return (keeper, None);
        };
        let Snapshot {
            decree,
            chain,
            results,
            ..
        } = certificate.snapshot;
        let installed = executor.install(&certificate.snapshot, &mut *source);
        installed.expect("what the world keeps is not damaged");
        self.said.begins_at(node, decree);
        self.order.installed(node, decree);
        let base = Checkpoint {
            decree,
            chain,
            results,
        };
        (keeper, Some(base))
    }

    pub(super) fn hear_keeper(&mut self, node: NodeId) -> Result<(), Finding> {
        while let Some(outcome) = self.hosts[usize::from(node.0)].keeper.outcome() {
            match outcome {
                KeeperOutcome::News(news) => {
                    self.hosts[usize::from(node.0)].note_held(&news);
                    self.drive(node, Input::Snapshot(news))?;
                }
                KeeperOutcome::Install(certificate, source) => {
                    let run = self.hosts[usize::from(node.0)].run;
                    let install = Install {
                        certificate,
                        source,
                    };
                    self.queue
                        .push(self.now, Happening::Install { node, run, install });
                }
            }
        }
        Ok(())
    }

    fn schedule_keeping(&mut self, node: NodeId) {
        let run = self.hosts[usize::from(node.0)].run;
        let delay = self.keeping.below(self.plan.execution_max_ns + 1);
        self.queue
            .push(Time(self.now.0 + delay), Happening::Keep { node, run });
    }
}
