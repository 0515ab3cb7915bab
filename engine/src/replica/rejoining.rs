//! A node that lost its disk comes back (PROTOCOL.md section 5.5; the rule is in [`crate::recall`]).
//!
//! ```text
//!  without its disk         others                          leader
//!        │      Recall        │                               │
//!        ├───────────────────►│                               │
//!        │◄──── Recalled ─────┤                               │
//!        │                    Status(abstaining)              │
//!        ├────────────────────┬──────────────────────────────►│ while nothing else waits:
//!        │◄───────────────────┴────────── Propose(NOOP) ──────┤ decrees, up to the next certificates
//!        │ certificate ≥ C + 2W, regency ≥ x: Rejoined, then it votes
//! ```
//!
//! Until then it learns and executes, and counts among the f. Bounded: one question to each node every T0/4 to T0; a
//! leader fills with at most 3W + K decrees for each node that abstains, and not again for 64·T0: one that only says that it
//! abstains costs no more.

use std::collections::BTreeMap;
use std::time::Duration;

use super::suspecting::Election;
use super::{Replica, Standing, Step};
use crate::acceptor::Acceptor;
use crate::batch::Batch;
use crate::machine::{Again, Event, Record, Refusal, To};
use crate::message::{Message, ProofOfLeadership, Recalled};
use crate::recall::{Floor, Memory, Recall};
use crate::recovery::Lead;
use crate::rules::Rules;
use crate::types::{Decree, NodeId, NodeSet, Regency, Time};
use crate::voucher::Plan;

/// About what an answer is taken from the share of the one who asks. Bytes.
const ANSWER_BYTES: usize = 1024;

/// How long a leader does not fill again for the same node. In T0.
const FILL_AGAIN_T0: u32 = 64;

/// For whom the leader fills the order with decrees that do nothing.
#[derive(Debug, Default)]
pub(super) struct Filling {
    /// Since when, and up to which decree. At most one entry per node.
    nodes: BTreeMap<NodeId, (Time, Decree)>,
}

impl<R: Rules> Replica<R> {
    /// Asks for what this node does not remember, and takes part again once it knows enough.
    pub(super) fn recall_on(&mut self, step: &mut Step<'_>) {
        if self.standing != Standing::LostDisk || !self.keeps_records() {
            return;
        }
        let floor = self.floor();
        self.ask_again(step);
        let Some(floor) = floor else { return };
        if self.low >= floor.decree && self.regency >= floor.regency {
            self.rejoin(step);
        }
    }

    /// Until when this node abstains, if it is known.
    fn floor(&mut self) -> Option<Floor> {
        let member = self.configuration.member(self.me);
        let roles = member.map(|member| member.roles).unwrap_or_default();
        if !roles.acceptor && !roles.proposer {
            // A learner promises nothing: it signs the same again.
            return Some(Floor::default());
        }
        let lost = self.without_disks().minus(NodeSet::one(self.me));
        let me = self.me;
        let recall = self
            .recall
            .get_or_insert_with(|| Recall::new(&self.configuration, me));
        let found = recall.floor(&self.configuration, lost);
        let window = self.configuration.limits().window;
        let mut floor = self.rules.floor(found, self.low, window)?;
        if !roles.acceptor {
            floor.decree = Decree::NONE;
        }
        Some(floor)
    }

    fn ask_again(&mut self, step: &mut Step<'_>) {
        let t0 = self.tuning.t0;
        if let Some(recall) = &mut self.recall
            && recall.found().is_none()
            && recall.resend.due(step.now, t0)
        {
            let to = To::Nodes(recall.unanswered());
            step.fx.send(to, &Message::Recall);
            step.fx.observe(Event::SentAgain(Again::Recall));
        }
    }

    /// Those that say that they have lost their disks, this node included.
    pub(super) fn without_disks(&self) -> NodeSet {
        let says_so = |node: &NodeId| {
            let last = self.peers.last(*node);
            last.is_some_and(|(status, _)| status.abstaining)
        };
        let mut nodes: NodeSet = self.others().iter().filter(says_so).collect();
        if self.standing == Standing::LostDisk {
            nodes.insert(self.me);
        }
        nodes
    }

    /// Somebody lost its disk and asks what this node remembers.
    pub(super) fn serve_recall(
        &mut self,
        from: NodeId,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        if self.standing == Standing::LostDisk {
            // It remembers nothing either.
            return Err(Refusal::Abstaining);
        }
        if !self
            .peers
            .may_serve(from, ANSWER_BYTES, step.now, self.tuning.t0)
        {
            return Err(Refusal::Share);
        }
        let election = self.election.as_ref();
        let voted = election.map_or(Regency(0), Election::voted);
        let voted = voted.max(self.regency);
        // What `Pol(x − 1)` does not prove, f+1 votes do, as far as they are still known.
        let unproved = voted.0 > self.regency.0.saturating_add(1);
        let support = election.filter(|_| unproved && !self.crash_only());
        let recalled = Recalled {
            regency: self.regency,
            proof: self.proof.clone(),
            voted,
            support: support.map_or_else(Vec::new, |election| election.support(voted)),
            low: self.checkpoints.newest().cloned(),
        };
        let message = Message::Recalled(Box::new(recalled));
        step.fx.send(To::Nodes(NodeSet::one(from)), &message);
        Ok(())
    }

    /// An answer counts only if it is proved.
    pub(super) fn take_recalled(
        &mut self,
        from: NodeId,
        recalled: Recalled,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        if !self
            .recall
            .as_ref()
            .is_some_and(|recall| recall.wants(from))
        {
            return Ok(());
        }
        let Recalled {
            regency,
            proof,
            voted,
            support,
            low,
        } = recalled;
        if !self.crash_only() {
            let proved = match regency {
                Regency(0) => Regency(0),
                _ => self.examiner.proof(&proof)?,
            };
            if proved < regency {
                return Err(Refusal::BadProof);
            }
            if voted.0 > regency.0.saturating_add(1) {
                let support = ProofOfLeadership { votes: support };
                self.examiner.support(&support, voted)?;
            }
        }
        if let Some(certificate) = &low {
            self.checkpoints.prove(certificate)?;
        }
        let memory = Memory {
            regency: voted.max(regency),
            low: low.as_ref().map_or(Decree::NONE, |low| low.decree),
        };
        if let Some(recall) = &mut self.recall {
            recall.take(from, memory);
        }
        if regency > self.regency {
            self.enter(regency, proof, step);
        }
        low.map_or(Ok(()), |low| self.take_certificate(low, step))
    }

    /// Nothing that this node may have promised is broken by what it does from now on.
    fn rejoin(&mut self, step: &mut Step<'_>) {
        assert!(
            self.acceptor.is_none(),
            "who votes has not to rejoin: it would forget its votes"
        );
        let (regency, low) = (self.regency, self.low);
        self.standing = Standing::Rejoined;
        self.recall = None;
        self.recorded.0 += 1;
        let record = Record::Rejoined {
            regency,
            proof: &self.proof,
        };
        step.fx.store(self.recorded, &record);
        step.fx.observe(Event::Rejoined { regency });
        self.take_part();
        let open = regency == Regency(0) || self.crash_only();
        if self.acceptor.is_some() {
            let window = self.configuration.limits().window;
            let plan = open.then(Plan::open);
            let acceptor = Acceptor::restore(window, low, regency, plan, std::iter::empty());
            self.acceptor = Some(acceptor);
        }
        if let Some(election) = &mut self.election {
            election.begin(regency);
        }
        self.lead = Lead::Following;
        if self.proposer.is_some() && self.leads() {
            self.step_back(step);
        }
        // Whoever holds the plan answers.
        self.say_status(step);
    }

    /// A leader with nothing to order fills for those that wait for certificates: an idle cluster heals too.
    pub(super) fn fill(&mut self, progress: Decree, step: &mut Step<'_>) {
        let Some(up_to) = self.fill_up_to(step.now) else {
            return;
        };
        let Some(proposer) = self.proposer.as_mut().filter(|one| one.waiting() == 0) else {
            return;
        };
        let mut decrees = Vec::new();
        while proposer.proposed() < up_to
            && let Some(decree) = proposer.fill(progress, self.tuning.in_flight_max)
        {
            decrees.push(decree);
        }
        for decree in decrees {
            let noop = Batch::noop(&self.scope);
            if let Some(proposer) = &mut self.proposer {
                proposer.recover(decree, noop.clone());
            }
            self.log_proposal(decree, noop, Duration::ZERO, step);
        }
    }

    fn fill_up_to(&mut self, now: Time) -> Option<Decree> {
        let limits = self.configuration.limits();
        let (low, enough) = (self.low, 3 * limits.window + limits.checkpoint_every);
        let again = self.tuning.t0 * FILL_AGAIN_T0;
        let lately = |node: NodeId| {
            let last = self.peers.last(node);
            last.is_some_and(|(_, at)| now.since(at) <= self.tuning.t0 * 3)
        };
        let waiting = self.without_disks();
        let mut highest = None;
        for node in waiting.iter().filter(|node| lately(*node)) {
            let entry = self.filling.nodes.entry(node);
            let (since, up_to) = entry.or_insert((now, low.plus(enough)));
            if low >= *up_to && now.since(*since) >= again {
                (*since, *up_to) = (now, low.plus(enough));
            }
            highest = highest.max(Some(*up_to));
        }
        highest
    }
}
