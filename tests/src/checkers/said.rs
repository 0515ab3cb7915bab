//! What nodes may say: persist, then say (PROTOCOL.md section 5.5), one value per regency and decree, and no
//! delivery without a quorum of durable votes.

use std::collections::{BTreeMap, VecDeque};

use twostep_engine::configuration::Roles;
use twostep_engine::machine::Record;
use twostep_engine::message::{CheckpointClaim, Message, Snapshot};
use twostep_engine::types::{Decree, Digest, NodeId, NodeSet, RecordSeq, Regency, Value};

use super::anchor::{Electorate, Votes};
use super::{Finding, Property, found};
use crate::topology::Classes;

/// What a record says, without its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Proposal(Regency, Decree, Value),
    Vote(Regency, Decree, Value),
    Learned(Decree),
    Low(Decree),
    Promise(Regency),
    Rejoined,
    /// Judged by what is said only.
    Other,
}

/// One node, seen from outside.
#[derive(Debug, Default)]
struct Node {
    roles: Roles,
    lost_disk: bool,
    /// Records that are not durable yet.
    pending: VecDeque<(RecordSeq, Kept)>,
    proposals: BTreeMap<(Regency, Decree), Value>,
    /// What it ever proposed, also on disks that are lost.
    ever_proposed: BTreeMap<(Regency, Decree), Value>,
    votes: BTreeMap<(Regency, Decree), Value>,
    /// Everything up to this is durably learned.
    learned: Decree,
    /// Learned above that.
    learned_above: VecDeque<Decree>,
    low: Decree,
}

/// What all nodes said and stored.
#[derive(Debug)]
pub struct SaidChecker {
    nodes: Vec<Node>,
    window: u64,
    byzantine: NodeSet,
    electorate: Electorate,
    votes: BTreeMap<Decree, Votes>,
    /// Nodes whose state was damaged: what they say of results proves nothing.
    corrupt: NodeSet,
    /// The results that such nodes said. After a restart they find them in their records and say them again.
    of_damage: BTreeMap<(NodeId, Decree), Digest>,
    /// What the first learner said of each snapshot.
    snapshots: BTreeMap<Decree, (NodeId, Snapshot)>,
    /// What the first learner said of each checkpoint.
    checkpoints: BTreeMap<Decree, (NodeId, Digest, Digest)>,
}

impl SaidChecker {
    /// For nodes of these roles, of which `byzantine` may say anything.
    #[must_use]
    pub fn new(roles: &[Roles], classes: Classes, window: u64, byzantine: NodeSet) -> SaidChecker {
        let id = |node: usize| NodeId(u16::try_from(node).expect("a configuration has few nodes"));
        let acceptors = (0..roles.len())
            .filter(|node| roles[*node].acceptor)
            .map(id);
        let (liars, correct): (Vec<NodeId>, Vec<NodeId>) =
            acceptors.partition(|node| byzantine.contains(*node));
        let electorate = Electorate {
            promised: correct.into_iter().map(|node| (node, Regency(0))).collect(),
            byzantine: liars.len(),
            learn: classes.learn,
        };
        let nodes = roles
            .iter()
            .map(|roles| Node {
                roles: *roles,
                ..Node::default()
            })
            .collect();
        SaidChecker {
            nodes,
            window,
            byzantine,
            electorate,
            votes: BTreeMap::new(),
            corrupt: NodeSet::EMPTY,
            of_damage: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
        }
    }

    /// A node handed a record to its disk.
    pub fn stored(&mut self, node: NodeId, seq: RecordSeq, record: &Record<'_>) {
        let kept = match record {
            Record::Proposal {
                regency,
                decree,
                batch,
            } => Kept::Proposal(*regency, *decree, batch.value()),
            Record::Vote {
                regency,
                decree,
                batch,
            } => Kept::Vote(*regency, *decree, batch.value()),
            Record::Learned { decree, .. } => Kept::Learned(*decree),
            Record::Low(certificate) => Kept::Low(certificate.decree),
            Record::Promise { report, .. } => Kept::Promise(report.content.regency),
            Record::Rejoined { .. } => Kept::Rejoined,
            Record::Entered { .. }
            | Record::Lead(_)
            | Record::NewRegency(_)
            | Record::RegencyVote(_)
            | Record::Checkpoint(_) => Kept::Other,
        };
        self.node(node).pending.push_back((seq, kept));
    }

    /// A node's records up to `seq` became durable.
    ///
    /// # Errors
    /// If a vote among them is a second one, or breaks I3′.
    pub fn durable(&mut self, node: NodeId, seq: RecordSeq) -> Result<(), Finding> {
        while let Some((_, kept)) = self
            .node(node)
            .pending
            .pop_front_if(|(pending, _)| *pending <= seq)
        {
            match kept {
                Kept::Proposal(regency, decree, value) => {
                    self.propose(node, regency, decree, value)?;
                }
                Kept::Vote(regency, decree, value) => self.vote(node, regency, decree, value)?,
                Kept::Learned(decree) => self.node(node).learn(decree),
                Kept::Promise(regency) => self.promise(node, regency),
                Kept::Rejoined => self.node(node).lost_disk = false,
                Kept::Other => {}
                Kept::Low(decree) => {
                    let low = &mut self.node(node).low;
                    *low = (*low).max(decree);
                }
            }
        }
        Ok(())
    }

    /// A node stopped; records up to `left` are still on its disk.
    ///
    /// # Errors
    /// As [`SaidChecker::durable`].
    pub fn crashed(&mut self, node: NodeId, left: RecordSeq) -> Result<(), Finding> {
        self.durable(node, left)?;
        self.node(node).pending.clear();
        Ok(())
    }

    /// A node starts again without its disk. What it voted and proposed stays so.
    pub fn lost_disk(&mut self, node: NodeId) {
        let before = std::mem::take(self.node(node));
        *self.node(node) = Node {
            roles: before.roles,
            ever_proposed: before.ever_proposed,
            lost_disk: true,
            ..Node::default()
        };
    }

    /// A node's state was damaged.
    pub fn corrupted(&mut self, node: NodeId) {
        self.corrupt.insert(node);
    }

    /// A node installed a snapshot: it stands for everything that was learned up to it.
    pub fn installed(&mut self, node: NodeId, decree: Decree) {
        self.corrupt = self.corrupt.minus(NodeSet::one(node));
        self.begins_at(node, decree);
    }

    /// A node starts again from a snapshot: what it said of a damaged state it may say again.
    pub fn begins_at(&mut self, node: NodeId, decree: Decree) {
        let node = self.node(node);
        node.learned = node.learned.max(decree);
        node.learned_above.retain(|above| *above > decree);
    }

    /// A node says something.
    ///
    /// # Errors
    /// The property that this violates.
    pub fn said(&mut self, node: NodeId, message: &Message<'_>) -> Result<(), Finding> {
        if self.byzantine.contains(node) {
            return Ok(());
        }
        let window = self.window;
        let speaker = &self.nodes[usize::from(node.0)];
        let id = node.0;
        match message {
            Message::Propose {
                regency,
                decree,
                value,
                ..
            } => {
                let stored = speaker.proposals.get(&(*regency, *decree)) == Some(value);
                if !stored || !speaker.roles.proposer {
                    let what = format!(
                        "n{id} proposed {value} for decree {decree} in regency {regency} without a durable record of it"
                    );
                    return found(Property::Durability, what);
                }
            }
            Message::Accepted {
                regency,
                decree,
                value,
            } => {
                let stored = speaker.votes.get(&(*regency, *decree)) == Some(value);
                if !stored || speaker.lost_disk || !speaker.roles.acceptor {
                    let what = format!(
                        "n{id} said Accepted {value} for decree {decree} in regency {regency} without a durable vote"
                    );
                    return found(Property::Durability, what);
                }
                if decree.0 > speaker.low.0 + window {
                    let what = format!(
                        "n{id} voted for decree {decree} above its durable low {} and W = {window}",
                        speaker.low
                    );
                    return found(Property::Durability, what);
                }
            }
            Message::Checkpoint(claim) if claim.learner == node => {
                return self.checkpoint(node, claim);
            }
            Message::Snapshot(claim) if claim.learner == node => {
                return self.snapshot(node, &claim.snapshot);
            }
            Message::Report(report) => {
                let regency = report.content.regency;
                if speaker.lost_disk {
                    return found(
                        Property::Durability,
                        format!("n{id} reported after it lost its disk"),
                    );
                }
                self.promise(node, regency);
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether a value that a learner delivers has a learn quorum of durable votes behind it.
    ///
    /// # Errors
    /// If it has not.
    pub fn delivered(&self, node: NodeId, decree: Decree, value: Value) -> Result<(), Finding> {
        let votes = self.votes.get(&decree);
        if votes.is_some_and(|votes| votes.can_be_learned(value, &self.electorate)) {
            return Ok(());
        }
        let what = format!(
            "n{} delivered {value} as decree {decree} without a learn quorum of durable votes",
            node.0
        );
        found(Property::Chosen, what)
    }

    fn node(&mut self, node: NodeId) -> &mut Node {
        &mut self.nodes[usize::from(node.0)]
    }

    fn propose(
        &mut self,
        node: NodeId,
        regency: Regency,
        decree: Decree,
        value: Value,
    ) -> Result<(), Finding> {
        let (speaker, place) = (self.node(node), (regency, decree));
        speaker.proposals.insert(place, value);
        let before = speaker.ever_proposed.insert(place, value);
        if before.is_some_and(|before| before != value) && !self.byzantine.contains(node) {
            let what = format!(
                "n{} logged two proposals for decree {decree} in regency {regency}",
                node.0
            );
            return found(Property::OneValue, what);
        }
        Ok(())
    }

    fn vote(
        &mut self,
        node: NodeId,
        regency: Regency,
        decree: Decree,
        value: Value,
    ) -> Result<(), Finding> {
        self.node(node).votes.insert((regency, decree), value);
        if self.byzantine.contains(node) {
            return Ok(());
        }
        self.promise(node, regency);
        let votes = self.votes.entry(decree).or_default();
        if !votes.insert(node, regency, value) {
            let what = format!(
                "n{} voted for two values of decree {decree} in regency {regency}",
                node.0
            );
            return found(Property::OneValue, what);
        }
        if let Some(rival) = votes.rival(regency, value, &self.electorate) {
            let what = format!(
                "n{} voted {value} for decree {decree} in regency {regency} while another value is choosable in regency {rival}",
                node.0
            );
            return found(Property::Anchoring, what);
        }
        if let Some(higher) = votes.broken(regency, value, &self.electorate) {
            let what = format!(
                "n{} voted {value} for decree {decree} in regency {regency}, where it can now be chosen, after another value was voted for in regency {higher}",
                node.0
            );
            return found(Property::Anchoring, what);
        }
        Ok(())
    }

    fn promise(&mut self, node: NodeId, regency: Regency) {
        if let Some(promised) = self.electorate.promised.get_mut(&node) {
            *promised = (*promised).max(regency);
        }
    }

    fn checkpoint(&mut self, node: NodeId, claim: &CheckpointClaim) -> Result<(), Finding> {
        let checkpoint = &claim.checkpoint;
        let learned = self.node(node).learned;
        if checkpoint.decree > learned {
            let what = format!(
                "n{} said Checkpoint({}) with decrees durably learned up to {learned} only",
                node.0, checkpoint.decree
            );
            return found(Property::Durability, what);
        }
        // One that diverged says nothing of results, also after a restart: its records tell of it.
        if checkpoint.results == Digest::ZERO {
            return Ok(());
        }
        let place = (node, checkpoint.decree);
        if self.corrupt.contains(node) {
            self.of_damage.insert(place, checkpoint.results);
            return Ok(());
        }
        if self.of_damage.get(&place) == Some(&checkpoint.results) {
            return Ok(());
        }
        let said = (node, checkpoint.chain, checkpoint.results);
        let (first, chain, results) = *self.checkpoints.entry(checkpoint.decree).or_insert(said);
        if chain != checkpoint.chain {
            let what = format!(
                "n{} and n{} said different chains at checkpoint {}",
                node.0, first.0, checkpoint.decree
            );
            return found(Property::Agreement, what);
        }
        if results != checkpoint.results {
            let what = format!(
                "n{} and n{} said different results at checkpoint {}",
                node.0, first.0, checkpoint.decree
            );
            return found(Property::Divergence, what);
        }
        Ok(())
    }
}

impl SaidChecker {
    fn snapshot(&mut self, node: NodeId, snapshot: &Snapshot) -> Result<(), Finding> {
        let learned = self.node(node).learned;
        if snapshot.decree > learned {
            let what = format!(
                "n{} said Snapshot({}) with decrees durably learned up to {learned} only",
                node.0, snapshot.decree
            );
            return found(Property::Durability, what);
        }
        if self.corrupt.contains(node) {
            return Ok(());
        }
        let said = self.snapshots.entry(snapshot.decree);
        let (first, other) = *said.or_insert((node, *snapshot));
        if other != *snapshot {
            let what = format!(
                "n{} and n{} said different snapshots of {}",
                node.0, first.0, snapshot.decree
            );
            return found(Property::Divergence, what);
        }
        Ok(())
    }
}

impl Node {
    fn learn(&mut self, decree: Decree) {
        if decree > self.learned {
            self.learned_above.push_back(decree);
        }
        while let Some(place) = self
            .learned_above
            .iter()
            .position(|above| above.0 == self.learned.0 + 1)
        {
            self.learned_above.remove(place);
            self.learned = self.learned.next();
        }
    }
}
