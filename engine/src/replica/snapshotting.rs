//! Snapshots of this learner: signed, certified, kept, served (PROTOCOL.md section 5.4).
//!
//! ```text
//! executed s ──► Imaged(root), from the host ──► (stored) ──► Snapshot, to learners ──► f+1 equal: certified
//!                                                                  └─ the host keeps it, the log below the one before goes
//! ```
//!
//! What a learner takes in is kept until it is through, with the log above it: the newest snapshots may come faster than a
//! transfer ends, and whoever began anew each time would chase them for ever.
//!
//! A certified root that differs from the own one tells of a state that diverged though its results were equal.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::transferring::STALLED_T0;
use super::{Replica, Say, Step};
use crate::configuration::Configuration;
use crate::machine::{Again, Event, Question, Refusal, SnapshotNews, SnapshotTask, To, earlier};
use crate::message::{Message, Snapshot, SnapshotCertificate, SnapshotClaim};
use crate::resend::Resend;
use crate::rules::Rules;
use crate::signatures::Signatures;
use crate::snapshot::{Certification, apart_max};
use crate::transfer::Transfer;
use crate::types::{Decree, Digest, NodeId, NodeSet, Time};

/// Certified snapshots that the host keeps, beside those that others take in.
const HELD_MAX: usize = 2;

/// A learner that asked for no piece in so many T0 is not waited for: it needs none, has them all, or has stopped.
const TAKING_T0: u32 = 64;

/// What a replica knows about snapshots.
#[derive(Debug)]
pub(super) struct Snapshots {
    pub(super) certification: Certification,
    /// As many as learners can be apart.
    own_max: usize,
    /// Executed, without the root, which the host has not told yet; at most `own_max`.
    open: VecDeque<Snapshot>,
    /// What this learner signed; at most `own_max`.
    own: VecDeque<Snapshot>,
    claim: Option<(SnapshotClaim, Resend)>,
    /// Certified and whole at the host, ascending; at most [`HELD_MAX`], and those that others take in.
    held: VecDeque<SnapshotCertificate>,
    /// By learner, the snapshot that it was offered or asked for a piece of last, and when: one each, whatever it says.
    taking: BTreeMap<NodeId, (Decree, Time)>,
    /// What others offered last, in answer to a pull in vain: the snapshot, who has it, and what was learned then.
    pub(super) offer: Option<(SnapshotCertificate, NodeSet, Decree)>,
    pub(super) transfer: Option<Transfer>,
    /// When to ask for one again.
    pub(super) ask_at: Option<Time>,
}

impl Snapshots {
    pub(super) fn new(configuration: &Configuration) -> Snapshots {
        Snapshots {
            certification: Certification::new(configuration),
            own_max: apart_max(configuration.limits()),
            open: VecDeque::new(),
            own: VecDeque::new(),
            claim: None,
            held: VecDeque::new(),
            taking: BTreeMap::new(),
            offer: None,
            transfer: None,
            ask_at: None,
        }
    }

    /// The newest certified snapshot that the host holds.
    pub(super) fn held(&self) -> Decree {
        let newest = self.held.back();
        newest.map_or(Decree::NONE, |newest| newest.snapshot.decree)
    }

    /// The oldest certified snapshot that the host holds, if that is not the only one: the log up to it is needed no more.
    pub(super) fn covered(&self) -> Decree {
        let oldest = self.held.front().filter(|_| self.held.len() >= HELD_MAX);
        oldest.map_or(Decree::NONE, |oldest| oldest.snapshot.decree)
    }

    /// What is received, and how far it is.
    pub(super) fn transfer(&self) -> Option<(Decree, Option<(usize, usize)>)> {
        let transfer = self.transfer.as_ref()?;
        Some((transfer.decree(), transfer.progress()))
    }

    pub(super) fn checked(&self) -> Signatures {
        self.certification.checked()
    }

    /// Whether the executor takes up a snapshot: nothing is delivered to it meanwhile.
    pub(super) fn is_installing(&self) -> bool {
        self.transfer.as_ref().is_some_and(Transfer::is_installing)
    }

    /// The state is that of an installed snapshot: what was made of the one before says nothing any more.
    pub(super) fn forget_own(&mut self) {
        self.open.clear();
        self.own.clear();
        self.claim = None;
    }

    pub(super) fn deadline(&self, t0: Duration) -> Option<Time> {
        let claim = self.claim.as_ref().and_then(|(_, resend)| resend.at());
        let transfer = self.transfer.as_ref();
        let transfer = transfer.and_then(|transfer| transfer.deadline(t0));
        earlier(earlier(claim, transfer), self.ask_at)
    }
}

impl<R: Rules> Replica<R> {
    /// A multiple of K was executed; at one of S the host makes an image.
    pub(super) fn note_image(&mut self, decree: Decree, chain: Digest, results: Digest) {
        let every = self.configuration.limits().snapshot_every;
        if !decree.0.is_multiple_of(every) {
            return;
        }
        let own_max = self.snapshots.own_max;
        let open = &mut self.snapshots.open;
        if open.len() == own_max {
            open.pop_front();
        }
        open.push_back(Snapshot {
            decree,
            chain,
            results,
            root: Digest::ZERO,
        });
    }

    /// What came of snapshots at the host.
    pub(super) fn take_news(&mut self, news: SnapshotNews, step: &mut Step<'_>) {
        match news {
            SnapshotNews::Imaged { decree, root } => self.sign_snapshot(decree, root, step),
            SnapshotNews::Failed { decree } => {
                step.fx.observe(Event::SnapshotFailed { decree });
            }
            SnapshotNews::Held(certificate) => self.hold_snapshot(*certificate, step),
            SnapshotNews::Dropped { decree } => {
                let held = &mut self.snapshots.held;
                held.retain(|held| held.snapshot.decree != decree);
            }
            SnapshotNews::Chunk {
                asker,
                decree,
                place,
                bytes,
            } => step.fx.send(
                To::Nodes(NodeSet::one(asker)),
                &Message::Chunk {
                    decree,
                    place,
                    bytes,
                },
            ),
            SnapshotNews::Receiving { decree, held } => self.receiving(decree, held, step),
            SnapshotNews::Kept {
                from,
                decree,
                place,
                good,
            } => self.kept_chunk(from, decree, place, good, step),
            SnapshotNews::Installed(certificate) => self.installed(&certificate, step),
            SnapshotNews::NotInstalled { decree } => self.not_installed(decree, step),
        }
    }

    /// The host has an image of the state after `decree`: it is signed, unless others have certified it already.
    fn sign_snapshot(&mut self, decree: Decree, root: Digest, step: &mut Step<'_>) {
        let open = &mut self.snapshots.open;
        while open.front().is_some_and(|open| open.decree < decree) {
            open.pop_front();
        }
        let Some(mut snapshot) = open.pop_front_if(|open| open.decree == decree) else {
            return;
        };
        if self.execution.diverged.is_some() {
            return;
        }
        snapshot.root = root;
        let own_max = self.snapshots.own_max;
        let own = &mut self.snapshots.own;
        if own.len() == own_max {
            own.pop_front();
        }
        own.push_back(snapshot);
        let certification = &self.snapshots.certification;
        if decree > certification.decree() {
            self.made.snapshots += u64::from(!self.crash_only());
            let claim = certification.sign(snapshot, self.me, self.identity.signing());
            if decree > self.trouble.logged {
                // The journal has no room for what it stands on.
                self.trouble.postpone_snapshot(claim);
            } else {
                self.hold(Say::Snapshot(claim), step);
            }
        }
        self.compare_snapshot(step);
    }

    pub(super) fn say_snapshot(&mut self, claim: SnapshotClaim, step: &mut Step<'_>) {
        if claim.snapshot.decree <= self.snapshots.certification.decree() {
            // Certified while its log was not durable yet: nobody needs this claim.
            return;
        }
        let others = self.other_learners();
        step.fx.send(To::Nodes(others), &Message::Snapshot(claim));
        self.snapshots.claim = Some((claim, Resend::said(step.now, self.tuning.t0)));
        // It is the first of this learner for this decree, so it is taken.
        let _ = self.take_snapshot(claim, step);
    }

    pub(super) fn say_snapshot_again(&mut self, step: &mut Step<'_>) {
        let (t0, others) = (self.tuning.t0, self.other_learners());
        let certified = self.snapshots.certification.decree();
        let claim = &mut self.snapshots.claim;
        claim.take_if(|(claim, _)| claim.snapshot.decree <= certified);
        if let Some((claim, resend)) = claim
            && resend.due(step.now, t0)
        {
            step.fx.send(To::Nodes(others), &Message::Snapshot(*claim));
            step.fx.observe(Event::SentAgain(Again::Snapshot));
        }
    }

    /// A learner's claim.
    pub(super) fn take_snapshot(
        &mut self,
        claim: SnapshotClaim,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        if self.learner.is_none() {
            return Err(Refusal::Role);
        }
        let decree = claim.snapshot.decree;
        let certification = &mut self.snapshots.certification;
        if decree <= certification.decree() {
            // It is said again until its learner knows of the certificate.
            self.tell_certificate(claim.learner, step);
            return Err(Refusal::OutsideWindow);
        }
        let before = certification.decree();
        if certification.claim(claim)?.is_some() {
            self.snapshot_certified(before, step);
        }
        Ok(())
    }

    /// One more snapshot is certified: the host keeps it if it has it, and what the one before holds may leave the log.
    pub(super) fn snapshot_certified(&mut self, before: Decree, step: &mut Step<'_>) {
        let newest = self.snapshots.certification.newest();
        let certificate = newest.expect("a snapshot was just certified").clone();
        let decree = certificate.snapshot.decree;
        step.fx.observe(Event::SnapshotCertified { decree });
        step.fx
            .ask(Question::Snapshot(SnapshotTask::Certified(Box::new(
                certificate,
            ))));
        let taken = self.taken(step.now);
        if let Some(learner) = &mut self.learner {
            learner.cover(taken.first().map_or(before, |taken| before.min(*taken)));
        }
        self.compare_snapshot(step);
    }

    /// The snapshots that other learners take in, ascending.
    fn taken(&mut self, now: Time) -> Vec<Decree> {
        let patience = self.tuning.t0 * TAKING_T0;
        let newest = self.snapshots.certification.decree();
        let (acks, taking) = (&self.acks, &mut self.snapshots.taking);
        taking.retain(|node, (_, at)| now.since(*at) < patience && acks.of(*node) < newest);
        let mut taken: Vec<Decree> = taking.values().map(|(decree, _)| *decree).collect();
        taken.sort_unstable();
        taken.dedup();
        taken
    }

    /// Whether a learner took in a snapshot from here and asks for what is above that: a newer one would begin it all anew.
    pub(super) fn goes_on_above(&self, node: NodeId, first: Decree) -> bool {
        let taken = self.snapshots.taking.get(&node);
        taken.is_some_and(|(taken, _)| *taken < first)
    }

    /// Whether the own image of the newest certified snapshot is that one.
    fn compare_snapshot(&mut self, step: &mut Step<'_>) {
        let Some(newest) = self.snapshots.certification.newest() else {
            return;
        };
        let certified = newest.snapshot;
        let mut own = self.snapshots.own.iter();
        if own.any(|own| own.decree == certified.decree && *own != certified) {
            self.diverge(certified.decree, step);
        }
    }

    fn hold_snapshot(&mut self, certificate: SnapshotCertificate, step: &mut Step<'_>) {
        let before = self.snapshots.certification.decree();
        // After a restart the host tells of what it holds; it has proved it.
        if self.snapshots.certification.certificate(&certificate) == Ok(true) {
            self.snapshot_certified(before, step);
        }
        let held = &mut self.snapshots.held;
        held.retain(|held| held.snapshot.decree != certificate.snapshot.decree);
        held.push_back(certificate);
        held.make_contiguous()
            .sort_unstable_by_key(|held| held.snapshot.decree);
        self.discard_old(step);
    }

    /// What is neither among the newest nor taken in by anybody goes.
    fn discard_old(&mut self, step: &mut Step<'_>) {
        let taken = self.taken(step.now);
        let held = &mut self.snapshots.held;
        let kept_from = held.len().saturating_sub(HELD_MAX);
        let mut place = 0;
        held.retain(|held| {
            let decree = held.snapshot.decree;
            let keeps = place >= kept_from || taken.contains(&decree);
            place += 1;
            if !keeps {
                step.fx
                    .ask(Question::Snapshot(SnapshotTask::Discard { decree }));
            }
            keeps
        });
    }

    /// Tells a learner of a snapshot that is held, if it holds decree `lacking`: the one that it takes in already, or the newest,
    /// which is kept for it from now on.
    pub(super) fn offer_snapshot(&mut self, to: NodeId, lacking: Decree, step: &mut Step<'_>) {
        let (now, t0) = (step.now, self.tuning.t0);
        let fresh = |(_, at): &&(Decree, Time)| now.since(*at) < t0 * STALLED_T0;
        let taken = self.snapshots.taking.get(&to).filter(fresh);
        let taken = taken.map(|(decree, _)| *decree);
        let mut held = self.snapshots.held.iter();
        let newest = held.clone().next_back();
        let offered = held.find(|held| taken == Some(held.snapshot.decree));
        let offered = offered.filter(|held| lacking <= held.snapshot.decree);
        let Some(certificate) = offered.or(newest.filter(|held| lacking <= held.snapshot.decree))
        else {
            return;
        };
        let decree = certificate.snapshot.decree;
        let message = Message::SnapshotCertificate(certificate.clone());
        if to != self.me && self.peers.may_offer(to, now, t0) {
            step.fx.send(To::Nodes(NodeSet::one(to)), &message);
            if taken != Some(decree) {
                self.snapshots.taking.insert(to, (decree, now));
            }
        }
    }

    /// Tells a learner of the newest certified snapshot, whoever holds it: one that does may not know that it is certified.
    pub(super) fn tell_certificate(&mut self, to: NodeId, step: &mut Step<'_>) {
        let Some(certificate) = self.snapshots.certification.newest() else {
            return;
        };
        if to != self.me && self.peers.may_offer(to, step.now, self.tuning.t0) {
            let message = Message::SnapshotCertificate(certificate.clone());
            step.fx.send(To::Nodes(NodeSet::one(to)), &message);
        }
    }

    pub(super) fn take_ask_snapshot(
        &mut self,
        from: NodeId,
        above: Decree,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        if self.learner.is_none() || !self.configuration.learners().contains(from) {
            return Err(Refusal::Role);
        }
        self.offer_snapshot(from, above.next(), step);
        Ok(())
    }

    /// A learner asks for a piece; the host has it. What one learner is given is bounded, so that ordering goes on.
    pub(super) fn serve_chunk(
        &mut self,
        from: NodeId,
        decree: Decree,
        place: u32,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        if !self.configuration.learners().contains(from) {
            return Err(Refusal::Role);
        }
        let mut held = self.snapshots.held.iter();
        if !held.any(|held| held.snapshot.decree == decree) {
            return Ok(());
        }
        let bytes = crate::snapshot::chunk_bytes(self.configuration.limits());
        if !self
            .peers
            .may_serve_chunk(from, bytes, step.now, self.tuning.t0)
        {
            return Err(Refusal::Share);
        }
        self.snapshots.taking.insert(from, (decree, step.now));
        self.peers.needs_above(from, decree, step.now);
        step.fx.ask(Question::Snapshot(SnapshotTask::Serve {
            asker: from,
            decree,
            place,
        }));
        Ok(())
    }

    pub(super) fn other_learners(&self) -> NodeSet {
        self.configuration.learners().minus(NodeSet::one(self.me))
    }
}
