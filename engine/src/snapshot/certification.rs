//! Certified snapshots: f+1 learners signed the same one, so a correct learner has it.
//!
//! | event | rule (PROTOCOL.md section 5.4) |
//! |---|---|
//! | a learner's image of `s`, a multiple of S, is hashed, and its log up to `s` is durable | sign `Snapshot(s, chain, results, root)`, send it to the learners |
//! | T0/4 … T0 | again, until a certificate ≥ s is held |
//! | f+1 equal claims | verify the signatures: certified |
//! | a certificate above the own newest, from anyone | verify it, then the same |
//!
//! *Bounds.* A learner has at most W/S + 2 claims here, its newest ones: learners that make progress are at most W apart. A claim is
//! verified when f+1 equal ones stand, once; a certificate costs one verification if it is made up altogether.

use std::collections::BTreeMap;

use twostep_crypto::{Scope, Signature, Signed, SigningKey, VerifyingKey, verify_batch};

use crate::configuration::Configuration;
use crate::machine::Refusal;
use crate::message::{Snapshot, SnapshotCertificate, SnapshotClaim, SnapshotVoice};
use crate::quorum::FaultModel;
use crate::signatures::{Checked, Signatures};
use crate::types::{Decree, NodeId, NodeSet, Party};

/// What a learner knows about snapshots.
#[derive(Debug)]
pub struct Certification {
    proofs: Proofs,
    claims_max: usize,
    newest: Option<SnapshotCertificate>,
    /// By decree, those above the newest certified one; at most `claims_max` for each learner.
    claims: BTreeMap<Decree, Vec<SnapshotClaim>>,
}

/// How snapshots are proved: by signatures where nodes may lie.
#[derive(Debug)]
pub struct Proofs {
    scope: Scope,
    signed: bool,
    quorum: usize,
    every: u64,
    learners: BTreeMap<NodeId, VerifyingKey>,
    checked: Checked,
}

impl Proofs {
    /// The proofs of a cluster.
    ///
    /// # Panics
    /// Never: a configuration's learners are its members.
    #[must_use]
    pub fn new(configuration: &Configuration) -> Proofs {
        let key = |node: NodeId| {
            let member = configuration.member(node).expect("a learner is a member");
            (node, member.public.sign)
        };
        Proofs {
            scope: configuration.scope(),
            signed: configuration.model() != FaultModel::Crash,
            quorum: configuration.quorums().f + 1,
            every: configuration.limits().snapshot_every,
            learners: configuration.learners().iter().map(key).collect(),
            checked: Checked::default(),
        }
    }

    /// Whether a certificate proves what it says.
    ///
    /// # Errors
    /// [`Refusal::BadSnapshot`] if it does not.
    pub fn prove(&self, certificate: &SnapshotCertificate) -> Result<(), Refusal> {
        let voices = certificate.voices.iter().map(|voice| voice.learner);
        let distinct: NodeSet = voices.clone().collect();
        let enough = distinct.len() >= self.quorum && distinct.len() == certificate.voices.len();
        let known = voices
            .into_iter()
            .all(|node| self.learners.contains_key(&node));
        if !enough || !known || !self.is_apt(certificate.snapshot.decree) {
            return Err(Refusal::BadSnapshot);
        }
        let claims: Vec<SnapshotClaim> = certificate.claims().collect();
        // What is made up altogether is found out with the first signature.
        let (first, rest) = claims.split_at(1);
        if self.verify(first).is_empty() || self.verify(rest).len() < rest.len() {
            return Err(Refusal::BadSnapshot);
        }
        Ok(())
    }

    fn is_apt(&self, decree: Decree) -> bool {
        decree != Decree::NONE && decree.0.is_multiple_of(self.every)
    }

    /// The learners whose claims verify.
    fn verify(&self, claims: &[SnapshotClaim]) -> NodeSet {
        if !self.signed {
            return claims.iter().map(|claim| claim.learner).collect();
        }
        self.checked
            .count(|checked| checked.snapshots += claims.len() as u64);
        let items = claims.iter().map(|claim| {
            let signed = Signed {
                signer: Party::Node(claim.learner),
                content: claim.snapshot,
                signature: claim.signature,
            };
            (signed, self.learners[&claim.learner])
        });
        let results = verify_batch(&self.scope, items.collect());
        let good = claims.iter().zip(results);
        good.filter(|(_, result)| result.is_ok())
            .map(|(claim, _)| claim.learner)
            .collect()
    }
}

impl Certification {
    /// A learner that knows of no snapshot yet.
    #[must_use]
    pub fn new(configuration: &Configuration) -> Certification {
        Certification {
            proofs: Proofs::new(configuration),
            claims_max: super::apart_max(configuration.limits()),
            newest: None,
            claims: BTreeMap::new(),
        }
    }

    /// The signatures that it checked.
    #[must_use]
    pub fn checked(&self) -> Signatures {
        self.proofs.checked.get()
    }

    /// The newest certified snapshot, wherever its chunks are.
    #[must_use]
    pub fn newest(&self) -> Option<&SnapshotCertificate> {
        self.newest.as_ref()
    }

    /// After which decree it was taken; 0 before the first.
    #[must_use]
    pub fn decree(&self) -> Decree {
        let newest = self.newest.as_ref();
        newest.map_or(Decree::NONE, |newest| newest.snapshot.decree)
    }

    /// Makes the claim of a learner of this node.
    #[must_use]
    pub fn sign(&self, snapshot: Snapshot, learner: NodeId, key: &SigningKey) -> SnapshotClaim {
        let signature = if self.proofs.signed {
            key.sign(&self.proofs.scope, Party::Node(learner), snapshot)
                .signed()
                .signature
        } else {
            Signature([0; 64])
        };
        SnapshotClaim {
            snapshot,
            learner,
            signature,
        }
    }

    /// What a learner said of the snapshot at `decree`, if it stands here.
    #[must_use]
    pub fn said(&self, learner: NodeId, decree: Decree) -> Option<&Snapshot> {
        let claims = self.claims.get(&decree)?;
        let claim = claims.iter().find(|claim| claim.learner == learner)?;
        Some(&claim.snapshot)
    }

    /// Takes a learner's claim, which came over its own link; gives a new certificate if it completes one.
    ///
    /// # Errors
    /// [`Refusal::OutsideWindow`] if a newer snapshot is certified. [`Refusal::BadSnapshot`] for a decree that is no multiple
    /// of S, a second, different claim, somebody who is no learner, or a signature that does not verify.
    pub fn claim(&mut self, claim: SnapshotClaim) -> Result<Option<&SnapshotCertificate>, Refusal> {
        let (decree, learner) = (claim.snapshot.decree, claim.learner);
        if !self.proofs.is_apt(decree) || !self.proofs.learners.contains_key(&learner) {
            return Err(Refusal::BadSnapshot);
        }
        if decree <= self.decree() {
            return Err(Refusal::OutsideWindow);
        }
        let claims = self.claims.entry(decree).or_default();
        if let Some(before) = claims.iter().find(|before| before.learner == learner) {
            let same = *before == claim;
            return if same {
                Ok(None)
            } else {
                Err(Refusal::BadSnapshot)
            };
        }
        claims.push(claim);
        let equal = claims
            .iter()
            .filter(|other| other.snapshot == claim.snapshot);
        let equal: Vec<SnapshotClaim> = equal.copied().collect();
        if equal.len() < self.proofs.quorum {
            self.forget_oldest_of(learner);
            return Ok(None);
        }
        let good = self.proofs.verify(&equal);
        claims.retain(|other| other.snapshot != claim.snapshot || good.contains(other.learner));
        if good.len() >= self.proofs.quorum {
            let voices = equal.iter().filter(|claim| good.contains(claim.learner));
            let mut voices: Vec<SnapshotVoice> = voices.map(SnapshotVoice::of).collect();
            voices.sort_unstable_by_key(|voice| voice.learner);
            self.adopt(SnapshotCertificate {
                snapshot: claim.snapshot,
                voices,
            });
            return Ok(self.newest.as_ref());
        }
        if good.contains(learner) {
            Ok(None)
        } else {
            Err(Refusal::BadSnapshot)
        }
    }

    /// Takes a certificate from anyone; true if it is valid and newer than what was known.
    ///
    /// # Errors
    /// [`Refusal::BadSnapshot`] if it does not prove what it says. One that is not newer is not looked at.
    pub fn certificate(&mut self, certificate: &SnapshotCertificate) -> Result<bool, Refusal> {
        if certificate.snapshot.decree <= self.decree() {
            return Ok(false);
        }
        self.proofs.prove(certificate)?;
        self.adopt(certificate.clone());
        Ok(true)
    }

    /// Whether a certificate proves what it says, however old it is.
    ///
    /// # Errors
    /// [`Refusal::BadSnapshot`] if it does not.
    pub fn prove(&self, certificate: &SnapshotCertificate) -> Result<(), Refusal> {
        if self.newest.as_ref() == Some(certificate) {
            return Ok(());
        }
        self.proofs.prove(certificate)
    }

    fn adopt(&mut self, certificate: SnapshotCertificate) {
        let decree = certificate.snapshot.decree;
        assert!(decree > self.decree(), "the newest snapshot gets newer");
        self.claims = self.claims.split_off(&decree.plus(1));
        self.newest = Some(certificate);
    }

    fn forget_oldest_of(&mut self, learner: NodeId) {
        let of = |claims: &Vec<SnapshotClaim>| claims.iter().any(|claim| claim.learner == learner);
        let decrees = self.claims.iter().filter(|(_, claims)| of(claims));
        let decrees: Vec<Decree> = decrees.map(|(decree, _)| *decree).collect();
        if decrees.len() > self.claims_max
            && let Some(claims) = self.claims.get_mut(&decrees[0])
        {
            claims.retain(|claim| claim.learner != learner);
        }
        self.claims.retain(|_, claims| !claims.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use twostep_crypto::Identity;

    use super::*;
    use crate::configuration::{Admission, Limits, Member, Roles};
    use crate::types::Digest;

    struct World {
        certification: Certification,
        identities: Vec<Identity>,
    }

    /// Mode F, f = 1, nodes 0 to 3 learn; S = 8, W = 16.
    fn world() -> World {
        let identities: Vec<_> = (0..6).map(|seed| Identity::from_seed([seed; 32])).collect();
        let member = |(node, identity): (usize, &Identity)| Member {
            roles: if node < 4 {
                Roles::ALL
            } else {
                Roles::ACCEPTOR
            },
            public: identity.public(),
        };
        let limits = Limits {
            window: 16,
            checkpoint_every: 8,
            snapshot_every: 8,
            ..Limits::default()
        };
        let members = identities.iter().enumerate().map(member).collect();
        let (model, admission) = (FaultModel::Fab, Admission::Mac);
        let configuration = Configuration::new(model, 1, members, limits, admission, [0; 16]);
        World {
            certification: Certification::new(&configuration.expect("consistent")),
            identities,
        }
    }

    impl World {
        fn claim(&self, learner: u16, decree: u64, root: u8) -> SnapshotClaim {
            let snapshot = Snapshot {
                decree: Decree(decree),
                chain: Digest([1; 32]),
                results: Digest([2; 32]),
                root: Digest([root; 32]),
            };
            let key = self.identities[usize::from(learner)].signing();
            self.certification.sign(snapshot, NodeId(learner), key)
        }
    }

    #[test]
    fn equal_claims_of_f_and_one_certify() {
        let mut world = world();
        let (a, b, c) = (
            world.claim(0, 8, 5),
            world.claim(1, 8, 6),
            world.claim(2, 8, 5),
        );
        assert_eq!(world.certification.claim(a), Ok(None));
        assert_eq!(world.certification.claim(a), Ok(None), "said again");
        assert_eq!(world.certification.claim(b), Ok(None), "another root");
        let certificate = world.certification.claim(c).expect("a good claim").cloned();
        let certificate = certificate.expect("two equal ones");
        assert_eq!(certificate.snapshot, a.snapshot);
        let mut another = self::world();
        assert_eq!(another.certification.certificate(&certificate), Ok(true));
        assert_eq!(another.certification.certificate(&certificate), Ok(false));
        assert_eq!(another.certification.claim(b), Err(Refusal::OutsideWindow));
    }

    #[test]
    fn forged_claims_and_certificates_prove_nothing() {
        let mut world = world();
        let mut forged = world.claim(0, 8, 5);
        forged.learner = NodeId(3);
        let good = world.claim(1, 8, 5);
        assert_eq!(world.certification.claim(good), Ok(None));
        assert_eq!(world.certification.claim(forged), Err(Refusal::BadSnapshot));
        let second = world.claim(1, 8, 6);
        assert_eq!(world.certification.claim(second), Err(Refusal::BadSnapshot));
        let odd = world.claim(2, 9, 5);
        assert_eq!(world.certification.claim(odd), Err(Refusal::BadSnapshot));
        let certificate = |claims: &[SnapshotClaim]| SnapshotCertificate {
            snapshot: claims[0].snapshot,
            voices: claims.iter().map(SnapshotVoice::of).collect(),
        };
        for claims in [vec![good], vec![good, good], vec![good, forged]] {
            let refused = world.certification.certificate(&certificate(&claims));
            assert_eq!(refused, Err(Refusal::BadSnapshot));
        }
        assert_eq!(world.certification.decree(), Decree::NONE);
    }

    #[test]
    fn a_liar_fills_its_own_places_only() {
        let mut world = world();
        let honest = world.claim(0, 8, 5);
        assert_eq!(world.certification.claim(honest), Ok(None));
        for decree in 1..100 {
            let far = world.claim(3, decree * 8, 9);
            assert_eq!(world.certification.claim(far), Ok(None));
        }
        let held: usize = world.certification.claims.values().map(Vec::len).sum();
        assert_eq!(held, 1 + world.certification.claims_max);
        let second = world.claim(1, 8, 5);
        assert!(world.certification.claim(second).expect("good").is_some());
    }
}
