//! What arrives, and which role hears it.

use super::doubting::Nack;
use super::ordering::Proposal;
use super::{Replica, Step};
use crate::machine::{Effects, Event, Refusal};
use crate::message::Message;
use crate::prechecked::{Content, Prechecked};
use crate::rules::Rules;
use crate::types::{NodeId, Party, Time};

impl<R: Rules> Replica<R> {
    /// Takes a message that another loop has checked for it; otherwise as [`Machine::step`](crate::machine::Machine::step) takes the plain one.
    pub fn take_prechecked(&mut self, now: Time, message: Prechecked, fx: &mut dyn Effects) {
        let step = &mut Step { now, fx };
        let (from, taken) = match message.open() {
            Content::Submit {
                client,
                retry,
                bundle,
                authentic,
            } => (
                Party::Client(client),
                self.submit_bundle(client, retry, bundle, authentic, step),
            ),
            Content::Propose {
                from,
                regency,
                decree,
                batch,
            } => {
                let proposal = Proposal {
                    regency,
                    decree,
                    value: batch.batch.value(),
                    body: batch.batch.body().clone(),
                    checked: Some(batch),
                };
                (
                    Party::Node(from),
                    self.judged_proposal(from, proposal, step),
                )
            }
        };
        if let Err(why) = taken {
            step.fx.observe(Event::Refused { from, why });
        }
    }

    /// Takes what a peer or a client says, whatever it is.
    pub(super) fn message(
        &mut self,
        from: Party,
        message: Message<'_>,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        match (from, message) {
            (Party::Client(client), Message::Submit { retry, bundle }) => {
                self.submit(client, retry, bundle, step)
            }
            (
                Party::Client(_),
                Message::BundleSignature {
                    client,
                    bundle,
                    signature,
                },
            ) => self.take_signature(from, (client, bundle), signature, step),
            (Party::Client(_), _) => Err(Refusal::Role),
            (Party::Node(node), message) => self.node_message(node, message, step),
        }
    }

    fn node_message(
        &mut self,
        from: NodeId,
        message: Message<'_>,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        // Signatures are what is dear to refuse, so each peer gets only so many checked.
        let (signatures, t0) = (message.signatures(), self.tuning.t0);
        if signatures > 0 && !self.peers.may_check(from, signatures, step.now, t0) {
            return Err(Refusal::Share);
        }
        let taken = self.checked_message(from, message, step);
        if signatures > 0 && taken == Err(Refusal::BadSignature) {
            self.peers.showed_bad_signature(from, step.now);
        }
        taken
    }

    fn checked_message(
        &mut self,
        from: NodeId,
        message: Message<'_>,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        match message {
            Message::Propose {
                regency,
                decree,
                value,
                body,
            } => {
                let proposal = Proposal {
                    regency,
                    decree,
                    value,
                    body,
                    checked: None,
                };
                self.judged_proposal(from, proposal, step)
            }
            Message::Accepted {
                regency,
                decree,
                value,
            } => self.accepted(from, regency, decree, value, step),
            Message::Ack { learned } => self.ack(from, learned),
            Message::Checkpoint(claim) if claim.learner == from => self.take_claim(claim, step),
            Message::Checkpoint(_) => Err(Refusal::BadCheckpoint),
            Message::Certificate(certificate) => self.take_certificate(certificate, step),
            Message::Status(status) => self.take_status(from, status, step),
            Message::Pull { first, count } => self.serve_pull(from, first, count, step),
            Message::Pulled { first, values } => self.pulled(from, first, values, step),
            Message::Fetch { decree, value } => self.serve_fetch(from, decree, value, step),
            Message::Fetched {
                decree,
                value,
                body,
            } => self.fetched(decree, value, body, step),
            Message::Vote(vote) => self.take_vote(vote, step),
            Message::Proof(proof) | Message::Denied(proof) => self.take_proof(proof, step),
            Message::Gather { regency, proof } => self.take_gather(from, regency, proof, step),
            Message::Report(report) => self.take_report(from, *report, step),
            Message::NewRegency(shown) => self.take_new_regency(*shown, step),
            Message::Submit { bundle, .. } => self.take_relay(from, bundle, step),
            Message::AskSettled { executed, names } => self.take_ask(from, executed, names, step),
            Message::Settled { names } => self.take_settled(from, names),
            Message::NackAuth {
                regency,
                decree,
                client,
                bundle,
            } => self.take_nack_auth(
                from,
                Nack {
                    regency,
                    decree,
                    client,
                    bundle,
                },
                step,
            ),
            Message::AckAuth {
                regency,
                decree,
                bundle,
            } => self.take_ack_auth(from, regency, decree, bundle, step),
            Message::BundleSignature {
                client,
                bundle,
                signature,
            } => self.take_signature(Party::Node(from), (client, bundle), signature, step),
            Message::Snapshot(claim) if claim.learner == from => self.take_snapshot(claim, step),
            Message::Snapshot(_) => Err(Refusal::BadSnapshot),
            Message::SnapshotCertificate(certificate) => self.take_offer(from, certificate, step),
            Message::AskSnapshot { above } => self.take_ask_snapshot(from, above, step),
            Message::FetchChunk { decree, place } => self.serve_chunk(from, decree, place, step),
            Message::Chunk {
                decree,
                place,
                bytes,
            } => self.take_chunk(from, decree, place, bytes, step),
            Message::Recall => self.serve_recall(from, step),
            Message::Recalled(recalled) => self.take_recalled(from, *recalled, step),
            Message::Replies { .. }
            | Message::RepliesDigest { .. }
            | Message::Found { .. }
            | Message::Busy { .. }
            | Message::WantSignature { .. } => Err(Refusal::Role),
        }
    }
}
