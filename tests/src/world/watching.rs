//! What can be seen of a world: how far it is, what was observed, and whether its states are equal.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use twostep_engine::configuration::Configuration;
use twostep_engine::pull::REST_MAX;
use twostep_engine::replica::Standing;
use twostep_engine::types::{Decree, NodeId, NodeSet, Time};

use super::{Observed, World};
use crate::actors::plot::Lies;
use crate::checkers::{Property, Violation};
use crate::client::{SimClient, Tallies};
use crate::host::Host;
use crate::plan::Plan;
use crate::trace::Line;
use crate::workload;

impl<'c> World<'c> {
    /// The time.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The configuration.
    #[must_use]
    pub fn configuration(&self) -> &Arc<Configuration> {
        &self.configuration
    }

    /// Calls that clients know to be committed.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// The highest decree that any learner delivered.
    #[must_use]
    pub fn decrees(&self) -> Decree {
        self.order.top()
    }

    /// The newest certified checkpoint that any node knows of.
    #[must_use]
    pub fn certified(&self) -> Decree {
        self.certified
    }

    /// How far a node delivered.
    #[must_use]
    pub fn delivered_by(&self, node: NodeId) -> Decree {
        self.order.delivered_by(node)
    }

    /// How far a node executed.
    #[must_use]
    pub fn executed_by(&self, node: NodeId) -> Decree {
        self.executor(node).executed()
    }

    /// How far each node is: id, newest certified checkpoint, delivered, executed; none if it is down.
    pub fn progress(
        &self,
    ) -> impl Iterator<Item = (NodeId, Option<(Decree, Decree, Decree)>)> + use<'_, 'c> {
        self.configuration.nodes().iter().map(|node| {
            let host = &self.hosts[usize::from(node.0)];
            let far = (host.low, self.delivered_by(node), self.executed_by(node));
            (node, host.machine.as_ref().map(|_| far))
        })
    }

    /// How many snapshots were installed.
    #[must_use]
    pub fn installed(&self) -> u64 {
        self.installed
    }

    /// How many questions of learners journals answered.
    #[must_use]
    pub fn archived(&self) -> u64 {
        self.archived
    }

    /// The newest certified snapshot that any node knows of.
    #[must_use]
    pub fn snapshot(&self) -> Decree {
        self.snapshot
    }

    /// Whether some fault has not struck yet, lasts still, or a node is about to start again.
    #[must_use]
    pub fn trouble_ahead(&self) -> bool {
        !self.faults.is_empty()
            || self.rejoining > 0
            || self.stuck > 0
            || self.network.is_troubled(self.now)
    }

    /// The learners that never stopped and do not lie.
    #[must_use]
    pub fn correct_learners(&self) -> NodeSet {
        let correct = |node: &NodeId| {
            !self.hosts[usize::from(node.0)].faulty && !self.byzantine.contains(*node)
        };
        self.configuration
            .learners()
            .iter()
            .filter(correct)
            .collect()
    }

    /// The learners that are up and do not lie, also those that had stopped.
    #[must_use]
    pub fn live_learners(&self) -> NodeSet {
        let live = |node: &NodeId| {
            let host = &self.hosts[usize::from(node.0)];
            // One whose state was damaged before there was any snapshot waits for the first.
            let lost = host.corrupt && self.snapshot == Decree::NONE;
            host.machine.is_some() && !lost && !self.byzantine.contains(*node)
        };
        self.configuration.learners().iter().filter(live).collect()
    }

    /// Calls and Opens of all clients that do not lie that have not ended.
    #[must_use]
    pub fn unresolved(&self) -> usize {
        self.honest_clients().map(SimClient::unresolved).sum()
    }

    /// Whether all sessions of all clients that do not lie are open.
    #[must_use]
    pub fn sessions_open(&self) -> bool {
        self.honest_clients().all(SimClient::is_open)
    }

    fn honest_clients(&self) -> impl Iterator<Item = &SimClient> {
        self.clients.iter().filter(|client| !client.is_liar())
    }

    /// How the calls of all clients ended.
    #[must_use]
    pub fn tallies(&self) -> Tallies {
        let add = |sum: Tallies, one: Tallies| Tallies {
            committed: sum.committed + one.committed,
            unknown: sum.unknown + one.unknown,
            busy: sum.busy + one.busy,
            rejected: sum.rejected + one.rejected,
        };
        self.clients
            .iter()
            .map(SimClient::tallies)
            .fold(Tallies::default(), add)
    }

    /// The proposers that never stopped and do not lie.
    #[must_use]
    pub fn correct_proposers(&self) -> NodeSet {
        let proposers = self.configuration.proposers().iter().copied();
        let correct = |node: &NodeId| {
            !self.hosts[usize::from(node.0)].faulty && !self.byzantine.contains(*node)
        };
        proposers.filter(correct).collect()
    }

    /// Whether a correct proposer knows of a request that waits: only then may anybody suspect a leader.
    #[must_use]
    pub fn work_is_known(&self) -> bool {
        self.work.is_known_to(self.correct_proposers())
    }

    /// How long every correct learner may take to learn a new decree, from when the links have healed and a correct
    /// proposer knows of work: (f+1)·(2T + 12δ), where T is the longest time-out of a correct node now and δ the
    /// longest time of one hop. Every client that lies may cost one leader more (section 5.1).
    #[must_use]
    pub fn progress_bound(&self) -> Duration {
        let correct = self.correct_proposers();
        let timeouts = correct
            .iter()
            .map(|node| self.hosts[usize::from(node.0)].timeout);
        let timeout = timeouts.max().expect("some proposer is correct");
        let hop = Duration::from_nanos(self.network.healed_delay_max_ns());
        let leaders =
            u32::try_from(self.plan.f + 1 + self.plan.client_actors.len()).expect("few faults");
        (timeout * 2 + hop * 12) * leaders + self.lag_bound(hop)
    }

    /// How long the last learner may take, beyond that, to learn from journals what no snapshot lets it leave out: a pull and a fetch, there
    /// and back, for each window, and it executes every decree.
    fn lag_bound(&self, hop: Duration) -> Duration {
        let learners = self.correct_learners();
        let last = learners.iter().map(|node| self.delivered_by(node)).min();
        let lag = last.map_or(0, |last| self.decrees().since(last));
        if !self.plan.archives || lag <= self.plan.limits.window {
            return Duration::ZERO;
        }
        let pulls = lag.div_ceil(self.plan.limits.window);
        Duration::from_nanos(lag * self.plan.execution_max_ns)
            + range_bound(hop) * u32::try_from(pulls).unwrap_or(u32::MAX)
    }

    /// How long a learner may need beside that to reach what was delivered before: it pulls and fetches a window of decrees at a
    /// time, in T0/4 more if something was lost, and learns at most a window ahead of what it has executed. One that lost its disk may be
    /// correct again before it is there.
    #[must_use]
    pub fn catch_up_bound(&self) -> Duration {
        let learners = self.live_learners();
        let slowest = learners.iter().map(|node| self.delivered_by(node)).min();
        let lag = slowest.map_or(0, |slowest| self.decrees().since(slowest));
        let windows = lag / self.plan.limits.window;
        let hop = Duration::from_nanos(self.network.healed_delay_max_ns());
        let short = |number: u64| u32::try_from(number).expect("a run is short");
        let execution = Duration::from_nanos(self.plan.execution_max_ns);
        (range_bound(hop) + self.plan.tuning.t0 / 4) * short(windows) + execution * short(lag)
    }

    /// How long it may take until every call has ended and every live learner executed everything, once clients
    /// call no more: what [`Plan::rest_bound`] says, and where nodes lie 4·(f+1) times `retry_max + 4·T + 4·T0`: a leader
    /// that lies holds its regency until a retried request is overdue, after 4·T (PROTOCOL.md section 4). T is the
    /// time-out of a node that entered every regency there was and was never relaxed.
    #[must_use]
    pub fn rest_bound(&self) -> Duration {
        let plan = &self.plan;
        let lost = |host: &Host| host.standing == Standing::LostDisk;
        let fills = if self.hosts.iter().any(lost) {
            plan.fill_bound()
        } else {
            Duration::ZERO
        };
        if plan.actors.is_empty() {
            return plan.rest_bound() + fills;
        }
        let doublings = u32::try_from(self.regencies.len().min(6)).expect("at most 6");
        let longest = plan.tuning.t0 * (1 << doublings);
        let leaders = u32::try_from(plan.f + 1 + plan.client_actors.len()).expect("few faults");
        plan.rest_bound()
            + fills
            + (plan.clients.retry_max + longest * 4 + plan.tuning.t0 * 4) * leaders * 4
    }

    /// How many regencies above 0 correct nodes entered.
    #[must_use]
    pub fn regency_changes(&self) -> u64 {
        self.regencies.len() as u64
    }

    /// How often which strategy lied.
    #[must_use]
    pub fn lies(&self) -> BTreeMap<&'static str, Lies> {
        let mut lies = self.cast.lies();
        for (name, told) in self.clients.iter().filter_map(SimClient::lies) {
            let sum = lies.entry(name).or_default();
            sum.sent += told.sent;
            sum.received += told.received;
        }
        lies
    }

    /// How many events happened.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.trace.events()
    }

    /// The hash of everything that happened.
    #[must_use]
    pub fn trace_hash(&self) -> String {
        self.trace.hash()
    }

    /// Takes the lines of the transcript so far.
    pub fn take_lines(&mut self) -> Vec<Line> {
        self.trace.take_lines()
    }

    /// Keeps what nodes and clients observe from now on, for [`World::take_observed`].
    pub fn keep_observed(&mut self) {
        self.keeps_observed = true;
    }

    /// Takes what was observed so far.
    pub fn take_observed(&mut self) -> Vec<Observed> {
        std::mem::take(&mut self.observed)
    }

    /// Compares the states of all live learners that executed everything, with each other and with what the log
    /// says; the final check of a run.
    ///
    /// # Errors
    /// If they differ.
    pub fn compare_states(&self) -> Result<(), Violation> {
        let top = self.decrees();
        let mut first = None;
        for node in self.live_learners().iter() {
            let executor = self.executor(node);
            if executor.executed() != top || self.hosts[usize::from(node.0)].corrupt {
                continue;
            }
            let digest = executor.state_digest();
            let (other, expected) = *first.get_or_insert((node, digest));
            if digest != expected {
                let what = format!(
                    "n{} and n{} differ in their states at decree {top}",
                    node.0, other.0
                );
                return Err(self.violation(Property::Divergence, what));
            }
            for (counter, expected) in self.history.counters() {
                let found = workload::counter_in(executor.machine(), counter);
                if found != Some(expected) {
                    let what = format!(
                        "counter {counter} stands at {found:?} at n{}, {expected} operations count",
                        node.0
                    );
                    return Err(self.violation(Property::ExactlyOnce, what));
                }
            }
        }
        Ok(())
    }
}

/// How long a learner far behind may take for a range: pull, values, fetch, bodies, and a rest after them.
fn range_bound(hop: Duration) -> Duration {
    hop * 4 * (1 + REST_MAX)
}
