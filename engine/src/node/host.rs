//! The host of a node with one lane: one loop on one thread has the links, the replica and the state machine.
//!
//! Everything runs to completion on the loop's thread (DESIGN section 3): a message has had all its effects before
//! the next one is looked at. Output leaves at the end of the turn, one packet or more per link. See [`super::core`] for
//! what it shares with a node of several lanes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tracing::{debug, info, warn};
use twostep_net::{ClockOffset, LinkDown, LinkId, Net, Service, queue};

use crate::batch::Batch;
use crate::executor::{Executed, Executor};
use crate::journal::faults::DiskFaultHandle;
use crate::letter::Letter;
use crate::machine::{Input, Question};
use crate::node::control::{Answer, Asked, Request};
use crate::node::core::{Core, Executing, LineLimit};
use crate::node::effects::{ClientLinks, Direct};
use crate::node::faults::{FAULTS_FORBIDDEN, set_clock_offset, set_disk_faults, set_fault};
use crate::node::report::{ExecutionReport, LinksReport};
use crate::node::snapshots::{News, Snapshots, Told};
use crate::state_machine::StateMachine;
use crate::types::{Decree, Party};

/// What serves the links of a node with one lane.
pub(super) struct Host<S: StateMachine> {
    pub core: Core,
    pub local: Local<S>,
    pub clients: ClientLinks,
    pub letter: Letter,
    pub requests: queue::Receiver<Asked>,
    pub stopping: Arc<AtomicBool>,
    pub faults_allowed: bool,
    pub disk_faults: Option<DiskFaultHandle>,
    pub clock: ClockOffset,
    pub refusal_lines: LineLimit,
}

/// What executes on this loop, with the thread that keeps its snapshots.
pub(super) struct Local<S: StateMachine> {
    pub executor: Executor<S>,
    /// None in tests that make no snapshots.
    pub snapshots: Option<Snapshots>,
}

impl<S: StateMachine> Executing for Local<S> {
    fn execute(&mut self, decree: Decree, batch: Batch) -> Option<Executed<'_>> {
        // That of the decree before: what was executed is borrowed until it is told.
        self.hand_over_image();
        // In trouble there is nothing to tell: the loop ends with this turn.
        self.executor.try_execute(decree, &batch).ok()
    }

    fn answer(&mut self, question: Question) -> Option<Input<'_>> {
        match (question, &mut self.snapshots) {
            (Question::Snapshot(task), Some(snapshots)) => {
                snapshots.task(task);
                None
            }
            (Question::Archive(task), Some(snapshots)) => {
                snapshots.archive(task);
                None
            }
            (question, _) => self.executor.answer(&question),
        }
    }
}

impl<S: StateMachine> Local<S> {
    fn hand_over_image(&mut self) {
        if let Some(snapshots) = &self.snapshots
            && let Some(image) = self.executor.take_image()
        {
            snapshots.image(image);
        }
    }

    /// What the thread of the snapshots has to tell the replica, oldest first; what it has for the executor is done.
    fn news(&mut self) -> Option<News> {
        self.hand_over_image();
        match self.snapshots.as_mut()?.told()? {
            Told::News(news) => Some(news),
            Told::Install(install) => install.install(&mut self.executor).map(News::Snapshot),
        }
    }
}

impl<S: StateMachine> Host<S> {
    fn answer(&mut self, net: &mut Net, request: &Request) -> Answer {
        match request {
            Request::Status { digests } => {
                let links = LinksReport::of(net, self.clients.len());
                let execution = ExecutionReport::of(&self.local.executor, *digests);
                let status = self.core.status(net.now(), links, &execution);
                Answer::Status(Box::new(status))
            }
            Request::Misbehave { strategy } => self.core.misbehave(strategy.as_deref()),
            _ if !self.faults_allowed => Answer::Error(FAULTS_FORBIDDEN.to_owned()),
            Request::Fault(fault) => {
                set_fault(net, fault);
                warn!("injecting {fault:?}");
                Answer::Done
            }
            Request::DiskFault(faults) => set_disk_faults(self.disk_faults.as_ref(), *faults),
            Request::ClockOffset { ms } => set_clock_offset(&self.clock, *ms),
            Request::Heal {} => {
                net.faults().clear();
                info!("injecting no more faults");
                Answer::Done
            }
        }
    }
}

impl<S: StateMachine> Service for Host<S> {
    fn message(&mut self, net: &mut Net, _link: LinkId, from: Party, bytes: &[u8]) {
        let now = self.core.time(net.now());
        let links = &mut Direct {
            net,
            clients: &self.clients,
            letter: &mut self.letter,
        };
        self.core.message(links, &mut self.local, now, from, bytes);
    }

    fn link_up(&mut self, _net: &mut Net, link: LinkId, party: Party) {
        match party {
            Party::Node(node) => info!("link to node {node} is up"),
            Party::Client(client) => {
                debug!("link to client {client} is up");
                self.clients.add(client, link);
            }
        }
    }

    fn link_down(&mut self, net: &mut Net, link: LinkId, party: Option<Party>, why: &LinkDown) {
        if let Some(Party::Client(client)) = party {
            self.clients.remove(client, link);
        }
        self.refusal_lines.log_down(net.now(), party, why);
    }

    fn turn(&mut self, net: &mut Net, now: Instant) {
        self.core.end_of_messages(now);
        let links = &mut Direct {
            net,
            clients: &self.clients,
            letter: &mut self.letter,
        };
        let time = self.core.time(now);
        self.core.hear_journal(links, &mut self.local, now);
        while let Some(news) = self.local.news() {
            self.core.step(links, &mut self.local, time, news.input());
        }
        self.core.step(links, &mut self.local, time, Input::Tick);
        self.core.hand_over();
        while let Some(asked) = self.requests.receive() {
            let answer = self.answer(net, &asked.request);
            // Who asked may have given up.
            let _ = asked.answer.try_send(answer);
        }
        if self.core.readiness_changed(now) {
            self.core.log_readiness(now, net.peers());
        }
    }

    fn takes_messages(&self) -> bool {
        self.core.takes_messages()
    }

    fn deadline(&self) -> Option<Instant> {
        self.core.deadline()
    }

    fn stopping(&self) -> bool {
        // The state machine may have found trouble while an image was read, too.
        self.stopping.load(Ordering::Acquire) || self.local.executor.trouble().is_some()
    }
}
