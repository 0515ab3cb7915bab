//! Nodes in a world: inputs for their machines, and what becomes of their wishes.

use std::sync::Arc;

use twostep_engine::batch::Bundle;
use twostep_engine::executor::Executor;
use twostep_engine::key_value::KeyValue;
use twostep_engine::machine::{Event, Input, JournalState, Question, To};
use twostep_engine::message::Message;
use twostep_engine::record::OwnedRecord;
use twostep_engine::replica::{Setup, Standing};
use twostep_engine::types::{NodeId, Party, RecordSeq, Time};
use twostep_engine::wire;
use twostep_net::pool::Body;

use super::queue::Happening;
use super::{Observed, Sight, TICKS_AT_ONCE_MAX, World};
use crate::checkers::{Finding, Property};
use crate::describe;
use crate::host::{Collector, Wish};
use crate::network::End;
use crate::topology::node_identity;
use crate::trace::Kind;

impl World<'_> {
    pub(super) fn setup(&self, node: NodeId, standing: Standing) -> Setup {
        Setup {
            configuration: Arc::clone(&self.configuration),
            me: node,
            identity: node_identity(usize::from(node.0)),
            clients: Arc::clone(&self.directory),
            tuning: self.plan.tuning,
            pool: self.pool.clone(),
            standing,
        }
    }

    pub(super) fn is_byzantine(&self, end: End) -> bool {
        matches!(end, End::Node(node) if self.byzantine.contains(node))
    }

    pub(super) fn schedule_tick(&mut self, node: NodeId, at: Time) {
        let host = &mut self.hosts[usize::from(node.0)];
        if host.tick_at.is_none_or(|tick_at| at < tick_at) {
            host.tick_at = Some(at);
            let run = host.run;
            self.queue.push(at, Happening::Tick { node, run });
        }
    }

    pub(super) fn arrive_at_node(
        &mut self,
        from: End,
        node: NodeId,
        bytes: &Body,
    ) -> Result<(), Finding> {
        if self.hosts[usize::from(node.0)].machine.is_none() {
            return Ok(());
        }
        let party = match from {
            End::Node(node) => Party::Node(node),
            End::Client(client) => Party::Client(self.clients[client].id()),
        };
        self.trace
            .event(self.now, Kind::Arrived, u64::from(node.0), bytes);
        let pool = self.pool.clone();
        let message = match wire::decode(bytes, &pool, &self.bounds) {
            Ok(message) => message,
            // A link drops what is no message.
            Err(_) if self.is_byzantine(from) => return Ok(()),
            Err(error) => {
                return Err((
                    Property::Conduct,
                    format!("{from} sent n{} what is no message: {error}", node.0),
                ));
            }
        };
        if let End::Node(from) = from
            && self.byzantine.contains(from)
            && !self.byzantine.contains(node)
        {
            self.cast.arrived(from, bytes);
        }
        if let End::Client(client) = from
            && !self.byzantine.contains(node)
        {
            self.clients[client].arrived(bytes);
        }
        if let Message::Submit {
            retry: true,
            bundle,
        } = &message
            && self.correct_proposers().contains(node)
            && let Ok(bundle) = Bundle::parse(
                pool.copy(bundle),
                &self.configuration.scope(),
                self.configuration.limits(),
            )
        {
            self.work.told(node, &bundle.view());
        }
        self.trace.line(self.now, || {
            format!("{from} → n{}: {}", node.0, describe::message(&message))
        });
        self.drive(
            node,
            Input::Message {
                from: party,
                message,
            },
        )
    }

    pub(super) fn stored(&mut self, node: NodeId, run: u32, seq: RecordSeq) -> Result<(), Finding> {
        let host = &mut self.hosts[usize::from(node.0)];
        if host.run != run {
            return Ok(());
        }
        let durable = host.disk.durable(self.now);
        self.trace.event(
            self.now,
            Kind::Stored,
            u64::from(node.0),
            &seq.0.to_le_bytes(),
        );
        self.trace.line(self.now, || {
            format!("n{} has #{} on its disk", node.0, seq.0)
        });
        self.said.durable(node, durable)?;
        self.drive(node, Input::Stored(seq))
    }

    pub(super) fn tick(&mut self, node: NodeId, run: u32) -> Result<(), Finding> {
        let host = &mut self.hosts[usize::from(node.0)];
        if host.run != run || host.tick_at != Some(self.now) {
            return Ok(());
        }
        host.tick_at = None;
        self.ticks_at_once += 1;
        if self.ticks_at_once
            > TICKS_AT_ONCE_MAX * u32::try_from(self.hosts.len()).expect("few nodes")
        {
            return Err((Property::Conduct, format!("n{} never rests", node.0)));
        }
        self.trace
            .event(self.now, Kind::Tick, u64::from(node.0), &[]);
        self.drive(node, Input::Tick)
    }

    /// Gives a machine one input, carries out what it wants, and sees to its next turn.
    pub(super) fn drive(&mut self, node: NodeId, input: Input<'_>) -> Result<(), Finding> {
        let host = &mut self.hosts[usize::from(node.0)];
        let Some(machine) = host.machine.as_mut() else {
            return Ok(());
        };
        let turn = !matches!(input, Input::Tick);
        let mut finding = None;
        let mut lines = self.trace.wants_lines().then(Vec::new);
        let mut wishes = std::mem::take(&mut self.wishes);
        machine.step(
            self.now,
            input,
            &mut Collector {
                node,
                wishes: &mut wishes,
                said: &mut self.said,
                finding: &mut finding,
                pool: &self.pool,
                scratch: &mut self.scratch,
                lines: lines.as_mut(),
            },
        );
        let deadline = machine.deadline();
        for line in lines.into_iter().flatten() {
            self.trace.line(self.now, || line);
        }
        if let Some(finding) = finding {
            return Err(finding);
        }
        for wish in wishes.drain(..) {
            self.grant(node, wish)?;
        }
        self.wishes = wishes;
        if turn {
            self.schedule_tick(node, Time(self.now.0 + self.plan.turn_ns));
        }
        if let Some(deadline) = deadline {
            self.schedule_tick(node, deadline.max(self.now));
        }
        Ok(())
    }

    pub(super) fn grant(&mut self, node: NodeId, wish: Wish) -> Result<(), Finding> {
        match wish {
            Wish::Send {
                to: To::Nodes(nodes),
                bytes,
            } => {
                if nodes.contains(node) {
                    return Err((
                        Property::Conduct,
                        format!("n{} sends to itself over a link", node.0),
                    ));
                }
                for to in nodes.iter() {
                    self.send(End::Node(node), End::Node(to), &bytes);
                }
            }
            Wish::Send {
                to: To::Client(client),
                bytes,
            } => {
                if let Some(place) = self.client_places.get(&client) {
                    self.send(End::Node(node), End::Client(*place), &bytes);
                }
            }
            Wish::Store(seq, group) => {
                let host = &mut self.hosts[usize::from(node.0)];
                // A journal with no room takes at most the vote of a leader that steps back.
                let kept = matches!(host.journal, JournalState::Ok | JournalState::Slow);
                let vote = |record: &OwnedRecord| matches!(record, OwnedRecord::RegencyVote(_));
                if !kept && !group.iter().all(vote) && !self.byzantine.contains(node) {
                    let what = format!("n{} stores {group:?} in a journal with no room", node.0);
                    return Err((Property::Conduct, what));
                }
                let run = host.run;
                if let Some(at) = host.disk.write(self.now, seq, group) {
                    self.queue.push(at, Happening::Stored { node, run, seq });
                }
            }
            Wish::Deliver(decree, batch) => {
                if !self.byzantine.contains(node) {
                    self.said.delivered(node, decree, batch.value())?;
                    if self.order.deliver(node, decree, &batch)? {
                        self.work.ordered(&batch);
                        self.history.apply(decree, &batch);
                    }
                }
                let idle = self.hosts[usize::from(node.0)].backlog.is_empty();
                self.hosts[usize::from(node.0)]
                    .backlog
                    .push_back((decree, batch));
                if idle {
                    self.schedule_execution(node);
                }
            }
            Wish::Ask(question) => {
                let run = self.hosts[usize::from(node.0)].run;
                self.queue.push(
                    self.now,
                    Happening::Asked {
                        node,
                        run,
                        question,
                    },
                );
            }
            Wish::Observe(_) if self.byzantine.contains(node) => {}
            Wish::Observe(event) => {
                if let Event::Regency { regency } = event {
                    self.regencies.insert(regency);
                }
                if let Event::Timeout { timeout } = event {
                    self.hosts[usize::from(node.0)].timeout = timeout;
                }
                if let Event::Rejoined { .. } = event {
                    self.hosts[usize::from(node.0)].faulty = false;
                }
                if let Event::Low { decree } = event {
                    self.certified = self.certified.max(decree);
                    let low = &mut self.hosts[usize::from(node.0)].low;
                    *low = (*low).max(decree);
                }
                if let Event::SnapshotCertified { decree } = event {
                    self.snapshot = self.snapshot.max(decree);
                }
                let damaged = self.damaged.contains(node);
                if let Event::Diverged { .. } = event
                    && damaged
                {
                    // Perhaps once more: after a restart it finds in its records what it said of the damaged state.
                    let host = &mut self.hosts[usize::from(node.0)];
                    (host.corrupt, host.faulty) = (true, true);
                    self.said.corrupted(node);
                }
                if let Event::Diverged { decree } = event
                    && !damaged
                {
                    return Err((
                        Property::Divergence,
                        format!("n{} says that it diverged at {decree}", node.0),
                    ));
                }
                if self.keeps_observed {
                    self.observed.push(Observed {
                        at: self.now,
                        what: Sight::Event(node, event),
                    });
                }
            }
        }
        Ok(())
    }

    pub(super) fn executor(&self, node: NodeId) -> &Executor<KeyValue> {
        self.hosts[usize::from(node.0)]
            .executor
            .as_ref()
            .expect("an executor is back after each execution")
    }

    /// Takes the executor out for one execution, because its replies borrow it while the machine is stepped.
    pub(super) fn take_executor(&mut self, node: NodeId) -> Executor<KeyValue> {
        self.hosts[usize::from(node.0)]
            .executor
            .take()
            .expect("an executor is back after each execution")
    }

    pub(super) fn schedule_execution(&mut self, node: NodeId) {
        let delay = self.execution.below(self.plan.execution_max_ns + 1);
        let run = self.hosts[usize::from(node.0)].run;
        self.queue
            .push(Time(self.now.0 + delay), Happening::Execute { node, run });
    }

    pub(super) fn execute(&mut self, node: NodeId, run: u32) -> Result<(), Finding> {
        let host = &mut self.hosts[usize::from(node.0)];
        if host.run != run {
            return Ok(());
        }
        let (decree, batch) = host
            .backlog
            .pop_front()
            .expect("execution is scheduled for what waits");
        let more = !host.backlog.is_empty();
        self.trace.event(
            self.now,
            Kind::Executed,
            u64::from(node.0),
            &decree.0.to_le_bytes(),
        );
        self.trace
            .line(self.now, || format!("n{} executes d{decree}", node.0));
        let mut executor = self.take_executor(node);
        let executed = executor.execute(decree, &batch);
        let corrupt = self.hosts[usize::from(node.0)].corrupt;
        let checked = if self.byzantine.contains(node) || corrupt {
            Ok(())
        } else {
            self.history.executed(node, decree, executed.results)
        };
        let input = Input::Executed {
            decree,
            replies: executed.replies,
            results: executed.results,
        };
        let driven = checked.and_then(|()| self.drive(node, input));
        let driven = driven.and_then(|()| self.image(node, decree, &mut executor));
        self.hosts[usize::from(node.0)].executor = Some(executor);
        if more {
            self.schedule_execution(node);
        }
        driven
    }

    pub(super) fn asked(
        &mut self,
        node: NodeId,
        run: u32,
        question: Question,
    ) -> Result<(), Finding> {
        if self.hosts[usize::from(node.0)].run != run {
            return Ok(());
        }
        self.trace
            .event(self.now, Kind::Asked, u64::from(node.0), &[]);
        match question {
            Question::Snapshot(task) => return self.ask_keeper(node, task),
            Question::Archive(task) => return self.ask_archive(node, task),
            Question::Retried(_) | Question::Settled { .. } => {}
        }
        let mut executor = self.take_executor(node);
        let driven = match executor.answer(&question) {
            Some(answer) => self.drive(node, answer),
            None => Ok(()),
        };
        self.hosts[usize::from(node.0)].executor = Some(executor);
        driven
    }
}
