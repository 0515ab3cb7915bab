//! Checkpoints: signed by learners every K decrees, certified by a quorum, they move the window.
//!
//! | event | rule (PROTOCOL.md section 5.4) |
//! |---|---|
//! | a learner executed `c`, a multiple of K, and its log up to `c` is durable | sign `Checkpoint(c, chain, results)`, send it to all |
//! | T0/4 … T0 | again, until a certificate ≥ c is held |
//! | equal (c, chain) from a checkpoint quorum | verify the signatures, then `low := c` |
//! | a certificate above the own low, from anyone | verify it, then the same |
//! | f+1 equal results that differ from the own ones | this learner has diverged |
//!
//! Certificates are transferable because MACed acknowledgements alone would let f correct acceptors prune
//! above the base that a new leader can trust. Results are signed and carried but not compared for the window, so
//! a state machine that is not deterministic does not stop the order.
//!
//! Signatures are verified only when a quorum stands, so a liar makes a node verify at most one for each
//! place in a table that is bounded by learners × (W/K + 1).

use std::collections::BTreeMap;

use twostep_crypto::{Scope, Signature, Signed, SigningKey, VerifyingKey, verify_batch};

use crate::configuration::Configuration;
use crate::machine::Refusal;
use crate::message::{Certificate, Checkpoint, CheckpointClaim, Voice};
use crate::quorum::FaultModel;
use crate::types::{Decree, Digest, NodeId, NodeSet, Party};

/// What a node knows about checkpoints.
#[derive(Debug)]
pub struct Checkpoints {
    keys: Keys,
    newest: Option<Certificate>,
    /// By decree: what each learner said. Bounded: see the module.
    claims: BTreeMap<Decree, Vec<CheckpointClaim>>,
    window: u64,
    every: u64,
    quorum: usize,
    /// f+1: so many equal results have a correct learner among them.
    witnesses: usize,
    /// n_l − f: so many claims can be waited for.
    answers: usize,
}

/// How checkpoints are proved: by signatures where nodes may lie.
#[derive(Debug)]
struct Keys {
    scope: Scope,
    signed: bool,
    learners: BTreeMap<NodeId, VerifyingKey>,
}

/// What the results of the learners say about one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// Nothing speaks against it.
    Consistent,
    /// f+1 others have equal, different results; or no f+1 learners agree at all.
    Diverged,
}

impl Checkpoints {
    /// A node that has seen no checkpoint yet.
    #[must_use]
    pub fn new(configuration: &Configuration) -> Checkpoints {
        let (limits, quorums) = (configuration.limits(), configuration.quorums());
        let key = |node: NodeId| {
            let member = configuration.member(node).expect("a learner is a member");
            (node, member.public.sign)
        };
        let keys = Keys {
            scope: configuration.scope(),
            signed: configuration.model() != FaultModel::Crash,
            learners: configuration.learners().iter().map(key).collect(),
        };
        Checkpoints {
            keys,
            newest: None,
            claims: BTreeMap::new(),
            window: limits.window,
            every: limits.checkpoint_every,
            quorum: quorums.checkpoint,
            witnesses: quorums.f + 1,
            answers: quorums.ack,
        }
    }

    /// The newest certified checkpoint; 0 before the first.
    #[must_use]
    pub fn low(&self) -> Decree {
        self.newest
            .as_ref()
            .map_or(Decree::NONE, |certificate| certificate.decree)
    }

    /// Its certificate.
    #[must_use]
    pub fn newest(&self) -> Option<&Certificate> {
        self.newest.as_ref()
    }

    /// Makes the claim of a learner of this node.
    #[must_use]
    pub fn sign(
        &self,
        checkpoint: Checkpoint,
        learner: NodeId,
        key: &SigningKey,
    ) -> CheckpointClaim {
        let signature = if self.keys.signed {
            key.sign(&self.keys.scope, Party::Node(learner), checkpoint)
                .signed()
                .signature
        } else {
            Signature([0; 64])
        };
        CheckpointClaim {
            checkpoint,
            learner,
            signature,
        }
    }

    /// Takes a learner's claim, which came over its own link; gives a new certificate if it completes one.
    /// `refused` is told of every learner whose signature did not verify.
    ///
    /// # Errors
    /// [`Refusal::OutsideWindow`] or [`Refusal::BadCheckpoint`] for a decree that is no multiple of K, a
    /// second, different claim, or somebody who is no learner.
    pub fn claim(
        &mut self,
        claim: CheckpointClaim,
        mut refused: impl FnMut(NodeId),
    ) -> Result<Option<&Certificate>, Refusal> {
        let (low, decree) = (self.low(), claim.checkpoint.decree);
        if !decree.0.is_multiple_of(self.every)
            || decree == Decree::NONE
            || !self.keys.learners.contains_key(&claim.learner)
        {
            return Err(Refusal::BadCheckpoint);
        }
        // Claims at the newest certified decree still tell whether the results agree.
        if decree < low || decree > low.plus(self.window) {
            return Err(Refusal::OutsideWindow);
        }
        let claims = self.claims.entry(decree).or_default();
        if let Some(before) = claims.iter().find(|other| other.learner == claim.learner) {
            return if *before == claim {
                Ok(None)
            } else {
                Err(Refusal::BadCheckpoint)
            };
        }
        claims.push(claim);
        if decree <= low {
            return Ok(None);
        }
        let chain = claim.checkpoint.chain;
        let equal = |claim: &&CheckpointClaim| claim.checkpoint.chain == chain;
        if claims.iter().filter(equal).count() < self.quorum {
            return Ok(None);
        }
        let candidates: Vec<CheckpointClaim> = claims.iter().filter(equal).copied().collect();
        let good = self.keys.verify(&candidates);
        for bad in candidates
            .iter()
            .filter(|claim| !good.contains(claim.learner))
        {
            refused(bad.learner);
            claims.retain(|claim| claim.learner != bad.learner);
        }
        if good.len() < self.quorum {
            return Ok(None);
        }
        let mut voices: Vec<Voice> = candidates
            .iter()
            .filter(|claim| good.contains(claim.learner))
            .map(|claim| Voice {
                learner: claim.learner,
                results: claim.checkpoint.results,
                signature: claim.signature,
            })
            .collect();
        voices.sort_unstable_by_key(|voice| voice.learner);
        self.adopt(Certificate {
            decree,
            chain,
            voices,
        });
        Ok(self.newest.as_ref())
    }

    /// Takes a certificate from anyone; true if it is valid and moves the window.
    ///
    /// # Errors
    /// [`Refusal::BadCheckpoint`] if it does not prove what it says. One at or below the own low is not looked at.
    pub fn certificate(&mut self, certificate: Certificate) -> Result<bool, Refusal> {
        if certificate.decree <= self.low() {
            return Ok(false);
        }
        self.keys.prove(&certificate, self.quorum, self.every)?;
        self.adopt(certificate);
        Ok(true)
    }

    /// Whether a certificate proves what it says, wherever the own low is.
    ///
    /// # Errors
    /// [`Refusal::BadCheckpoint`] if it does not.
    pub fn prove(&self, certificate: &Certificate) -> Result<(), Refusal> {
        if self.newest.as_ref() == Some(certificate) {
            return Ok(());
        }
        self.keys.prove(certificate, self.quorum, self.every)
    }

    /// Whether the results of `me` at `decree` stand against those of the other learners.
    #[must_use]
    pub fn agreement(&self, me: NodeId, decree: Decree) -> Agreement {
        let Some(claims) = self.claims.get(&decree) else {
            return Agreement::Consistent;
        };
        let Some(mine) = claims.iter().find(|claim| claim.learner == me) else {
            return Agreement::Consistent;
        };
        let like = |results: Digest| {
            claims
                .iter()
                .filter(|claim| claim.checkpoint.results == results)
                .count()
        };
        let witnessed = claims
            .iter()
            .map(|claim| claim.checkpoint.results)
            .find(|results| like(*results) >= self.witnesses);
        match witnessed {
            Some(results) if results != mine.checkpoint.results => Agreement::Diverged,
            None if claims.len() >= self.answers => Agreement::Diverged,
            _ => Agreement::Consistent,
        }
    }

    fn adopt(&mut self, certificate: Certificate) {
        assert!(certificate.decree > self.low(), "low never falls");
        self.claims = self.claims.split_off(&certificate.decree);
        self.newest = Some(certificate);
    }
}

impl Keys {
    /// The learners whose claims verify.
    fn verify(&self, claims: &[CheckpointClaim]) -> NodeSet {
        if !self.signed {
            return claims.iter().map(|claim| claim.learner).collect();
        }
        let items = claims.iter().map(|claim| {
            let signer = Party::Node(claim.learner);
            (
                Signed {
                    signer,
                    content: claim.checkpoint,
                    signature: claim.signature,
                },
                self.learners[&claim.learner],
            )
        });
        let results = verify_batch(&self.scope, items.collect());
        claims
            .iter()
            .zip(results)
            .filter(|(_, result)| result.is_ok())
            .map(|(claim, _)| claim.learner)
            .collect()
    }

    fn prove(&self, certificate: &Certificate, quorum: usize, every: u64) -> Result<(), Refusal> {
        let known = certificate
            .voices
            .iter()
            .all(|voice| self.learners.contains_key(&voice.learner));
        let distinct: NodeSet = certificate
            .voices
            .iter()
            .map(|voice| voice.learner)
            .collect();
        let enough = distinct.len() >= quorum && distinct.len() == certificate.voices.len();
        if !known || !enough || !certificate.decree.0.is_multiple_of(every) {
            return Err(Refusal::BadCheckpoint);
        }
        let claims: Vec<CheckpointClaim> = certificate
            .voices
            .iter()
            .map(|voice| CheckpointClaim {
                checkpoint: Checkpoint {
                    decree: certificate.decree,
                    chain: certificate.chain,
                    results: voice.results,
                },
                learner: voice.learner,
                signature: voice.signature,
            })
            .collect();
        if self.verify(&claims).len() == claims.len() {
            Ok(())
        } else {
            Err(Refusal::BadCheckpoint)
        }
    }
}
