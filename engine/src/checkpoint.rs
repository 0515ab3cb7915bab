//! Checkpoints: signed by learners every K decrees, certified by a quorum, they move the window.
//!
//! | event | rule (PROTOCOL.md section 5.4) |
//! |---|---|
//! | a learner executed `c`, a multiple of K, and its log up to `c` is durable | sign `Checkpoint(c, chain, results)`, send it to all |
//! | T0/4 … T0 | again, until a certificate ≥ c is held |
//! | equal (c, chain) from a checkpoint quorum | verify the signatures, then `low := c` |
//! | a certificate above the own low, from anyone | verify it, then the same |
//! | f+1 equal results that differ from the own ones, or no f+1 equal ones among n_l − f | this learner has diverged |
//!
//! Certificates are transferable because MACed acknowledgements alone would let f correct acceptors prune
//! above the base that a new leader can trust. Results are signed and carried but not compared for the window, so
//! a state machine that is not deterministic does not stop the order. All-zero results are no statement: a learner
//! that has diverged goes on to sign the order with them, and they are left out of the comparison.
//!
//! *Bounds.* What each learner said stands in a table of learners × (W/K + 1) places. A claim is verified when a
//! quorum of equal ones stands, once: who failed is refused at that decree without a look, who passed is
//! not verified again. So a learner's claims cost at most one verification for each place. A certificate is verified
//! when it is above the own low and everything else about it is right; one that fails with its first signature costs
//! one verification, any other at most two for each learner.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

use twostep_crypto::{Scope, Signature, Signed, SigningKey, VerifyingKey, verify_batch};

use crate::configuration::Configuration;
use crate::machine::Refusal;
use crate::message::{Certificate, Checkpoint, CheckpointClaim, Voice};
use crate::quorum::FaultModel;
use crate::signatures::{Checked, Signatures};
use crate::types::{Decree, Digest, NodeId, NodeSet, Party};

/// What a node knows about checkpoints.
#[derive(Debug)]
pub struct Checkpoints {
    keys: Keys,
    newest: Option<Certificate>,
    /// By decree, from the newest certified one up. Bounded: see the module.
    rounds: BTreeMap<Decree, Round>,
    window: u64,
    every: u64,
    quorum: usize,
    /// f+1: so many equal results have a correct learner among them.
    witnesses: usize,
    /// n_l − f: so many claims can be waited for.
    answers: usize,
}

/// What the learners said about one decree.
#[derive(Debug, Default)]
struct Round {
    /// At most one of each learner.
    claims: Vec<CheckpointClaim>,
    /// Whose claim in `claims` was verified.
    verified: NodeSet,
    /// Whose claim did not verify; it is not in `claims`.
    failed: NodeSet,
}

/// How checkpoints are proved: by signatures where nodes may lie.
#[derive(Debug)]
struct Keys {
    scope: Scope,
    signed: bool,
    learners: BTreeMap<NodeId, VerifyingKey>,
    checked: Checked,
    /// The newest claims of each learner that verified, at most [`REMEMBERED_MAX`]: the reports of a voucher carry the
    /// same few certificates again and again. Who signs much crowds out nobody else.
    remembered: RefCell<BTreeMap<NodeId, VecDeque<CheckpointClaim>>>,
}

/// How many verified claims are remembered of each learner.
const REMEMBERED_MAX: usize = 4;

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
            checked: Checked::default(),
            remembered: RefCell::default(),
        };
        Checkpoints {
            keys,
            newest: None,
            rounds: BTreeMap::new(),
            window: limits.window,
            every: limits.checkpoint_every,
            quorum: quorums.checkpoint,
            witnesses: quorums.f + 1,
            answers: quorums.ack,
        }
    }

    /// The signatures that it checked.
    #[must_use]
    pub fn checked(&self) -> Signatures {
        self.keys.checked.get()
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
    /// [`Refusal::OutsideWindow`], or [`Refusal::BadCheckpoint`] for a decree that is no multiple of K, a second,
    /// different claim, any claim after one that did not verify, or somebody who is no learner.
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
        let round = self.rounds.entry(decree).or_default();
        if round.failed.contains(claim.learner) {
            return Err(Refusal::BadCheckpoint);
        }
        if let Some(before) = round.of(claim.learner) {
            return if *before == claim {
                Ok(None)
            } else {
                Err(Refusal::BadCheckpoint)
            };
        }
        round.claims.push(claim);
        let chain = claim.checkpoint.chain;
        if decree <= low || round.equal(chain).count() < self.quorum {
            return Ok(None);
        }
        round.verify(&self.keys, chain, &mut refused);
        if round.equal(chain).count() < self.quorum {
            return Ok(None);
        }
        let voice = |claim: &CheckpointClaim| Voice {
            learner: claim.learner,
            results: claim.checkpoint.results,
            signature: claim.signature,
        };
        let mut voices: Vec<Voice> = round.equal(chain).map(voice).collect();
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
        self.prove(&certificate)?;
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

    /// Whether the results of `me` at `decree` stand against those of the other learners, as far as they made a
    /// statement (see the module).
    #[must_use]
    pub fn agreement(&self, me: NodeId, decree: Decree) -> Agreement {
        let Some(round) = self.rounds.get(&decree) else {
            return Agreement::Consistent;
        };
        let results = |claim: &CheckpointClaim| claim.checkpoint.results;
        let mine = match round.of(me).map(results) {
            Some(mine) if mine != Digest::ZERO => mine,
            _ => return Agreement::Consistent,
        };
        let stated = || {
            let all = round.claims.iter().map(results);
            all.filter(|results| *results != Digest::ZERO)
        };
        let witnessed =
            |results: Digest| stated().filter(|other| *other == results).count() >= self.witnesses;
        let against = stated().any(|results| results != mine && witnessed(results));
        let nobody = stated().count() >= self.answers && !stated().any(witnessed);
        if against || nobody {
            Agreement::Diverged
        } else {
            Agreement::Consistent
        }
    }

    fn adopt(&mut self, certificate: Certificate) {
        assert!(certificate.decree > self.low(), "low never falls");
        self.rounds = self.rounds.split_off(&certificate.decree);
        // A learner that gets nothing but the certificate still compares its results with those inside.
        let round = self.rounds.entry(certificate.decree).or_default();
        for claim in certificate.claims() {
            round.claims.retain(|other| other.learner != claim.learner);
            round.claims.push(claim);
            round.verified.insert(claim.learner);
        }
        self.newest = Some(certificate);
    }
}

impl Round {
    fn of(&self, learner: NodeId) -> Option<&CheckpointClaim> {
        self.claims.iter().find(|claim| claim.learner == learner)
    }

    /// The claims of one order.
    fn equal(&self, chain: Digest) -> impl Iterator<Item = &CheckpointClaim> {
        let equal = move |claim: &&CheckpointClaim| claim.checkpoint.chain == chain;
        self.claims.iter().filter(equal)
    }

    /// Verifies what was not verified yet of the claims of one order; drops what fails, and tells `refused`.
    fn verify(&mut self, keys: &Keys, chain: Digest, refused: &mut impl FnMut(NodeId)) {
        let verified = self.verified;
        let fresh = self.equal(chain).copied();
        let fresh: Vec<CheckpointClaim> = fresh
            .filter(|claim| !verified.contains(claim.learner))
            .collect();
        let good = keys.verify(&fresh);
        self.verified = verified.union(good);
        for claim in fresh {
            if !good.contains(claim.learner) {
                self.failed.insert(claim.learner);
                self.claims.retain(|other| other.learner != claim.learner);
                refused(claim.learner);
            }
        }
    }
}

impl Keys {
    /// The learners whose claims verify.
    fn verify(&self, claims: &[CheckpointClaim]) -> NodeSet {
        if !self.signed {
            return claims.iter().map(|claim| claim.learner).collect();
        }
        let mut remembered = self.remembered.borrow_mut();
        let is_known = |claim: &CheckpointClaim| {
            let claims = remembered.get(&claim.learner);
            claims.is_some_and(|claims| claims.contains(claim))
        };
        let (known, fresh): (Vec<CheckpointClaim>, Vec<CheckpointClaim>) =
            claims.iter().partition(|claim| is_known(claim));
        self.checked
            .count(|checked| checked.checkpoints += fresh.len() as u64);
        let items = fresh.iter().map(|claim| {
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
        let mut good: NodeSet = known.iter().map(|claim| claim.learner).collect();
        for (claim, _) in fresh
            .iter()
            .zip(results)
            .filter(|(_, result)| result.is_ok())
        {
            good.insert(claim.learner);
            let claims = remembered.entry(claim.learner).or_default();
            claims.truncate(REMEMBERED_MAX - 1);
            claims.push_front(*claim);
        }
        good
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
        let decree = certificate.decree;
        let apt = decree != Decree::NONE && decree.0.is_multiple_of(every);
        if !known || !enough || !apt {
            return Err(Refusal::BadCheckpoint);
        }
        let claims: Vec<CheckpointClaim> = certificate.claims().collect();
        // What is made up altogether is found out with the first signature.
        let (first, rest) = claims.split_at(1);
        if self.verify(first).is_empty() || self.verify(rest).len() < rest.len() {
            return Err(Refusal::BadCheckpoint);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use twostep_crypto::Identity;

    use super::*;
    use crate::configuration::{Admission, Limits, Member, Roles};

    const K: u64 = 4;

    struct World {
        checkpoints: Checkpoints,
        identities: Vec<Identity>,
    }

    /// Mode F, f = 1: nodes 0 to 3 learn.
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
            window: 4 * K,
            checkpoint_every: K,
            snapshot_every: K,
            ..Limits::default()
        };
        let members = identities.iter().enumerate().map(member).collect();
        let (model, admission) = (FaultModel::Fab, Admission::Mac);
        let configuration = Configuration::new(model, 1, members, limits, admission, [0; 16]);
        World {
            checkpoints: Checkpoints::new(&configuration.unwrap()),
            identities,
        }
    }

    impl World {
        fn says(&self, learner: u16, decree: u64, results: u8) -> CheckpointClaim {
            let checkpoint = Checkpoint {
                decree: Decree(decree),
                chain: Digest([1; 32]),
                results: Digest([results; 32]),
            };
            let key = self.identities[usize::from(learner)].signing();
            self.checkpoints.sign(checkpoint, NodeId(learner), key)
        }

        fn forged(&self, learner: u16, decree: u64, nth: u8) -> CheckpointClaim {
            CheckpointClaim {
                signature: Signature([nth; 64]),
                ..self.says(learner, decree, 9)
            }
        }

        /// Whether it moved the window, and who was refused.
        fn take(&mut self, claim: CheckpointClaim) -> (Result<bool, Refusal>, Vec<NodeId>) {
            let mut refused = Vec::new();
            let moved = self.checkpoints.claim(claim, |node| refused.push(node));
            (moved.map(|moved| moved.is_some()), refused)
        }

        fn verified(&self) -> u64 {
            self.checkpoints.checked().checkpoints
        }

        fn certificate(&self, claims: &[CheckpointClaim]) -> Certificate {
            let voice = |claim: &CheckpointClaim| Voice {
                learner: claim.learner,
                results: claim.checkpoint.results,
                signature: claim.signature,
            };
            Certificate {
                decree: claims[0].checkpoint.decree,
                chain: claims[0].checkpoint.chain,
                voices: claims.iter().map(voice).collect(),
            }
        }
    }

    #[test]
    fn a_claim_costs_one_verification_whatever_its_learner_sends_after_it() {
        let mut world = world();
        assert_eq!(world.take(world.forged(3, K, 0)), (Ok(false), vec![]));
        assert_eq!(world.take(world.says(0, K, 9)), (Ok(false), vec![]));
        assert_eq!(world.verified(), 0, "no quorum yet");
        let third = world.take(world.says(1, K, 9));
        assert_eq!(
            third,
            (Ok(false), vec![NodeId(3)]),
            "a liar made the quorum"
        );
        assert_eq!(world.verified(), 3);
        for nth in 1..100 {
            let again = world.take(world.forged(3, K, nth));
            assert_eq!(again, (Err(Refusal::BadCheckpoint), vec![]));
        }
        assert_eq!(world.take(world.says(2, K, 9)), (Ok(true), vec![]));
        assert_eq!(world.verified(), 4, "each of the four learners once");
        assert_eq!(world.checkpoints.newest().unwrap().voices.len(), 3);
    }

    #[test]
    fn a_bad_certificate_costs_little() {
        let mut world = world();
        let good = [0, 1, 2].map(|learner| world.says(learner, K, 9));
        let [a, b, c] = good;
        let bad = |world: &mut World, claims: &[CheckpointClaim]| {
            let before = world.verified();
            let certificate = world.certificate(claims);
            let refused = world.checkpoints.certificate(certificate);
            assert_eq!(refused, Err(Refusal::BadCheckpoint));
            world.verified() - before
        };
        assert_eq!(bad(&mut world, &[a, b]), 0, "too few");
        assert_eq!(bad(&mut world, &[a, b, b]), 0, "one twice");
        let stranger = CheckpointClaim {
            learner: NodeId(5),
            ..c
        };
        assert_eq!(bad(&mut world, &[a, b, stranger]), 0, "no learner");
        let odd = [0, 1, 2].map(|learner| world.says(learner, K + 1, 9));
        assert_eq!(bad(&mut world, &odd), 0, "no multiple of K");
        let forged = [0, 1, 2].map(|learner| world.forged(learner, K, 7));
        assert_eq!(bad(&mut world, &forged), 1);
        let one = world.forged(2, K, 7);
        assert_eq!(bad(&mut world, &[a, b, one]), 3);
        let certificate = world.certificate(&good);
        assert_eq!(world.checkpoints.prove(&certificate), Ok(()));
        assert_eq!(world.checkpoints.certificate(certificate.clone()), Ok(true));
        let before = world.verified();
        assert_eq!(world.checkpoints.prove(&certificate), Ok(()));
        assert_eq!(world.verified(), before, "it is the newest one");
    }

    #[test]
    fn claims_that_were_verified_cost_nothing_in_other_certificates() {
        let world = world();
        let [a, b, c, d] = [0, 1, 2, 3].map(|learner| world.says(learner, K, 9));
        let prove = |world: &World, claims: &[CheckpointClaim]| {
            let before = world.verified();
            let proved = world.checkpoints.prove(&world.certificate(claims));
            (proved.is_ok(), world.verified() - before)
        };
        assert_eq!(prove(&world, &[a, b, c]), (true, 3));
        assert_eq!(prove(&world, &[b, c, d]), (true, 1), "only d is new");
        let forged = world.forged(3, K, 9);
        assert_eq!(prove(&world, &[b, c, forged]), (false, 1));
        assert_eq!(
            prove(&world, &[b, c, forged]),
            (false, 1),
            "never remembered"
        );
        for round in 2..10 {
            let claims = [0, 1, 2].map(|learner| world.says(learner, round * K, 9));
            assert_eq!(prove(&world, &claims), (true, 3));
        }
        assert_eq!(prove(&world, &[a, b, d]), (true, 2), "forgotten, but for d");
    }

    #[test]
    fn results_are_compared_with_those_in_a_certificate() {
        for (mine, expected) in [(9, Agreement::Consistent), (8, Agreement::Diverged)] {
            let mut world = world();
            let others = [1, 2, 3].map(|learner| world.says(learner, K, 9));
            let certificate = world.certificate(&others);
            assert_eq!(world.checkpoints.certificate(certificate), Ok(true));
            let agreement = |world: &World| world.checkpoints.agreement(NodeId(0), Decree(K));
            assert_eq!(agreement(&world), Agreement::Consistent, "not executed yet");
            assert_eq!(world.take(world.says(0, K, mine)).0, Ok(false));
            assert_eq!(agreement(&world), expected);
        }
    }

    #[test]
    fn f_plus_one_equal_results_convict_and_silence_says_nothing() {
        let agreement = |results: &[u8]| {
            let mut world = world();
            for (learner, results) in (0..).zip(results) {
                world.take(world.says(learner, K, *results)).0.unwrap();
            }
            world.checkpoints.agreement(NodeId(0), Decree(K))
        };
        assert_eq!(agreement(&[9, 8]), Agreement::Consistent, "one may lie");
        assert_eq!(agreement(&[9, 8, 8]), Agreement::Diverged);
        assert_eq!(agreement(&[9, 9, 8, 8]), Agreement::Diverged);
        assert_eq!(agreement(&[9, 8, 7]), Agreement::Diverged, "nobody agrees");
        assert_eq!(agreement(&[9, 0, 0]), Agreement::Consistent);
        assert_eq!(agreement(&[9, 8, 0, 0]), Agreement::Consistent);
        assert_eq!(
            agreement(&[0, 8, 8]),
            Agreement::Consistent,
            "no claim of its own"
        );
        assert_eq!(agreement(&[9, 9, 0, 8]), Agreement::Consistent);
    }
}
