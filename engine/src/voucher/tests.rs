use twostep_crypto::{Identity, Signature};

use super::*;
use crate::configuration::{Admission, Limits, Member, Roles};
use crate::message::{Checkpoint, ReportedVote, Voice};
use crate::rules::Standard;
use crate::types::{Digest, Epoch};

const W: u64 = 8;
const K: u64 = 4;
/// The regency that everything here is about.
const R: Regency = Regency(3);
const A: Value = Value(Digest([1; 32]));
const B: Value = Value(Digest([2; 32]));

/// Mode F with f = 1: six acceptors, of which the first four also propose and learn.
struct Cluster {
    configuration: Configuration,
    examiner: Examiner,
    checkpoints: Checkpoints,
}

fn identity(node: u16) -> Identity {
    Identity::from_seed([u8::try_from(node).unwrap(); 32])
}

fn cluster(name: [u8; 16]) -> Cluster {
    let member = |node| Member {
        roles: if node < 4 {
            Roles::ALL
        } else {
            Roles::ACCEPTOR
        },
        public: identity(node).public(),
    };
    let limits = Limits {
        window: W,
        checkpoint_every: K,
        snapshot_every: K,
        ..Limits::default()
    };
    let members = (0..6).map(member).collect();
    let configuration =
        Configuration::new(FaultModel::Fab, 1, members, limits, Admission::Mac, name).unwrap();
    Cluster {
        examiner: Examiner::new(&configuration),
        checkpoints: Checkpoints::new(&configuration),
        configuration,
    }
}

fn sign(scope: &Scope, node: u16, report: Report) -> Signed<Report> {
    let signing = identity(node);
    let signed = signing
        .signing()
        .sign(scope, Party::Node(NodeId(node)), report);
    signed.into_signed()
}

fn votes(votes: &[(u64, u64, Value)]) -> Vec<ReportedVote> {
    let vote = |(decree, psn, value): &(u64, u64, Value)| ReportedVote {
        decree: Decree(*decree),
        psn: Regency(*psn),
        value: *value,
    };
    votes.iter().map(vote).collect()
}

/// A report for [`R`] without a checkpoint.
fn saying(said: &[(u64, u64, Value)]) -> Report {
    Report {
        regency: R,
        low: None,
        votes: votes(said),
    }
}

impl Cluster {
    fn certificate(&self, decree: u64) -> Certificate {
        let voice = |learner: u16| {
            let checkpoint = Checkpoint {
                decree: Decree(decree),
                chain: Digest([7; 32]),
                results: Digest([8; 32]),
            };
            let identity = identity(learner);
            let claim = self
                .checkpoints
                .sign(checkpoint, NodeId(learner), identity.signing());
            Voice {
                learner: NodeId(learner),
                results: checkpoint.results,
                signature: claim.signature,
            }
        };
        Certificate {
            decree: Decree(decree),
            chain: Digest([7; 32]),
            voices: (0..3).map(voice).collect(),
        }
    }

    fn report(&self, report: Report) -> Result<CheckedReport, Refusal> {
        let signed = sign(&self.configuration.scope(), 5, report);
        self.examiner.report(signed, R, &self.checkpoints)
    }

    fn proof(&self, regencies: &[(u16, u64)]) -> ProofOfLeadership {
        let vote = |(node, regency): &(u16, u64)| {
            let vote = RegencyVote {
                regency: Regency(*regency),
            };
            let (identity, signer) = (identity(*node), Party::Node(NodeId(*node)));
            let scope = self.configuration.scope();
            identity.signing().sign(&scope, signer, vote).into_signed()
        };
        ProofOfLeadership {
            votes: regencies.iter().map(vote).collect(),
        }
    }

    /// What a correct leader would show if these acceptors had said these things.
    fn shown(&self, said: &[(u16, Report)]) -> NewRegency {
        let scope = self.configuration.scope();
        NewRegency {
            regency: R,
            proof: self.proof(&[(0, 3), (1, 4), (2, 3)]),
            voucher: said
                .iter()
                .map(|(node, report)| sign(&scope, *node, report.clone()))
                .collect(),
        }
    }

    fn examine(&self, shown: &NewRegency) -> Result<Plan, Refusal> {
        self.examiner
            .new_regency(&Standard, shown, &self.checkpoints)
    }
}

/// Five reports, of the acceptors 1 to 5.
fn five(reports: [Report; 5]) -> Vec<(u16, Report)> {
    (1..).zip(reports).collect()
}

fn silent() -> Report {
    saying(&[])
}

#[test]
fn a_report_at_the_edges_is_valid() {
    let cluster = cluster([0; 16]);
    assert!(cluster.report(silent()).is_ok());
    let all: Vec<_> = (1..=W).map(|decree| (decree, 2, A)).collect();
    let checked = cluster.report(saying(&all)).unwrap();
    let first = Reported {
        psn: Regency(2),
        value: A,
    };
    assert_eq!(checked.vote(Decree(1)), Some(first));
    assert_eq!(checked.vote(Decree(W + 1)), None);
    let above = Report {
        low: Some(cluster.certificate(K)),
        ..saying(&[(K + 1, 0, A), (K + W, 2, B)])
    };
    assert!(cluster.report(above).is_ok());
}

#[test]
fn a_report_that_its_acceptor_cannot_have_made_is_refused() {
    let cluster = cluster([0; 16]);
    let with_low = |said: &[(u64, u64, Value)]| Report {
        low: Some(cluster.certificate(K)),
        ..saying(said)
    };
    let wrong = [
        ("a vote in its own regency", saying(&[(1, 3, A)])),
        ("the largest regency", saying(&[(1, u64::MAX, A)])),
        ("descending", saying(&[(2, 0, A), (1, 0, A)])),
        ("two votes for one decree", saying(&[(1, 0, A), (1, 1, B)])),
        ("decree 0", saying(&[(0, 0, A)])),
        ("above the window", saying(&[(W + 1, 0, A)])),
        ("the largest decree", saying(&[(u64::MAX, 0, A)])),
        ("at its low", with_low(&[(K, 0, A)])),
        (
            "above the window of its low",
            with_low(&[(K + W + 1, 0, A)]),
        ),
        (
            "another regency",
            Report {
                regency: Regency(2),
                ..silent()
            },
        ),
    ];
    for (what, report) in wrong {
        assert_eq!(cluster.report(report), Err(Refusal::BadReport), "{what}");
    }
}

#[test]
fn a_report_with_somebody_elses_signature_or_certificate_is_refused() {
    let (cluster, foreign) = (cluster([0; 16]), cluster([1; 16]));
    let scope = cluster.configuration.scope();
    let check = |report| cluster.examiner.report(report, R, &cluster.checkpoints);
    let mut spoilt = sign(&scope, 5, silent());
    spoilt.signature = Signature([0; 64]);
    let mut stolen = sign(&scope, 5, silent());
    stolen.signer = Party::Node(NodeId(4));
    let mut changed = sign(&scope, 5, saying(&[(1, 0, A)]));
    changed.content.votes[0].value = B;
    let elsewhere = sign(&foreign.configuration.scope(), 5, silent());
    let later = sign(&Scope::new(scope.cluster(), Epoch(1)), 5, silent());
    for report in [spoilt, stolen, changed, elsewhere, later] {
        assert_eq!(check(report), Err(Refusal::BadSignature));
    }
    let nobody = Signed {
        signer: Party::Node(NodeId(6)),
        ..sign(&scope, 5, silent())
    };
    assert_eq!(check(nobody), Err(Refusal::Role));

    let mut few = cluster.certificate(K);
    few.voices.pop();
    let mut twice = cluster.certificate(K);
    twice.voices[2] = twice.voices[1];
    for low in [foreign.certificate(K), few, twice] {
        let report = Report {
            low: Some(low),
            ..silent()
        };
        assert_eq!(cluster.report(report), Err(Refusal::BadCheckpoint));
    }
}

#[test]
fn a_voucher_has_exactly_a_quorum_of_distinct_signers() {
    let cluster = cluster([0; 16]);
    let good = five([(); 5].map(|()| silent()));
    assert_eq!(cluster.examine(&cluster.shown(&good)), Ok(Plan::open()));

    // PROTOCOL.md section 6, S3: one Byzantine key must not sign all of a voucher.
    let one_key: Vec<_> = (0..5).map(|_| (5, silent())).collect();
    let mut repeated = good.clone();
    repeated[0].0 = 2;
    let mut all = good.clone();
    all.push((0, silent()));
    for voucher in [&one_key, &repeated, &all, &good[1..].to_vec(), &Vec::new()] {
        let shown = cluster.shown(voucher);
        assert_eq!(cluster.examine(&shown), Err(Refusal::BadVoucher));
    }
}

#[test]
fn a_voucher_serves_one_regency_of_one_cluster() {
    // PROTOCOL.md section 6, S2: what was said for one regency is not replayed in another.
    let (cluster, foreign) = (cluster([0; 16]), cluster([1; 16]));
    let good = five([(); 5].map(|()| silent()));
    let mut replayed = good.clone();
    replayed[3].1.regency = Regency(R.0 - 1);
    let shown = cluster.shown(&replayed);
    assert_eq!(cluster.examine(&shown), Err(Refusal::BadReport));

    let mut mixed = cluster.shown(&good);
    mixed.voucher[2] = foreign.shown(&good).voucher[2].clone();
    assert_eq!(cluster.examine(&mixed), Err(Refusal::BadSignature));

    let mut later = cluster.shown(&good);
    let epoch = Scope::new(cluster.configuration.scope().cluster(), Epoch(1));
    later.voucher[2] = sign(&epoch, 3, silent());
    assert_eq!(cluster.examine(&later), Err(Refusal::BadSignature));
}

#[test]
fn a_leader_shows_a_proof_of_its_own_regency() {
    let cluster = cluster([0; 16]);
    let good = five([(); 5].map(|()| silent()));
    let with = |votes: &[(u16, u64)]| {
        let mut shown = cluster.shown(&good);
        shown.proof = cluster.proof(votes);
        cluster.examine(&shown)
    };
    assert!(with(&[(0, 3), (1, 3), (3, 9)]).is_ok());
    let wrong: [&[(u16, u64)]; 5] = [
        &[],
        &[(0, 3), (1, 3)],
        &[(0, 3), (1, 3), (1, 3)],
        &[(0, 3), (1, 3), (2, 2)],
        &[(0, 3), (1, 3), (2, 3), (3, 3)],
    ];
    for votes in wrong {
        assert_eq!(with(votes), Err(Refusal::BadProof), "{votes:?}");
    }
    assert_eq!(
        with(&[(0, 3), (1, 3), (4, 3)]),
        Err(Refusal::Role),
        "4 does not propose"
    );
    let mut forged = cluster.shown(&good);
    forged.proof.votes[0].content.regency = Regency(5);
    assert_eq!(cluster.examine(&forged), Err(Refusal::BadSignature));
}

#[test]
fn a_plan_binds_what_2f_and_1_reported_whatever_their_regencies() {
    let cluster = cluster([0; 16]);
    // Decree 1: A by three in different regencies. Decree 2: two each. Decree 4: one alone; nobody named 3.
    let shown = cluster.shown(&five([
        saying(&[(1, 0, A), (2, 0, A)]),
        saying(&[(1, 1, A), (2, 2, A)]),
        saying(&[(1, 2, A), (2, 0, B)]),
        saying(&[(1, 2, B), (2, 0, B)]),
        saying(&[(4, 0, B)]),
    ]));
    let plan = cluster.examine(&shown).unwrap();
    assert_eq!((plan.base(), plan.top), (Decree::NONE, Decree(4)));
    assert_eq!(plan.choice(Decree(1)), Choice::Must(A));
    for free in 2..=W {
        assert_eq!(plan.choice(Decree(free)), Choice::Free, "decree {free}");
    }
    let mut backwards = shown;
    backwards.voucher.reverse();
    assert_eq!(
        cluster.examine(&backwards),
        Ok(plan.clone()),
        "no order counts"
    );

    let checked: Vec<CheckedReport> = backwards
        .voucher
        .into_iter()
        .map(|report| {
            let checked = cluster.examiner.report(report, R, &cluster.checkpoints);
            checked.unwrap()
        })
        .collect();
    let holders: NodeSet = (1..4).map(NodeId).collect();
    assert_eq!(
        bound(&plan, &checked).collect::<Vec<_>>(),
        [(Decree(1), A, holders)],
        "who voted otherwise does not hold the body"
    );
}

#[test]
fn a_plan_starts_at_the_highest_certificate_and_ends_a_window_above_it() {
    let cluster = cluster([0; 16]);
    let above = |low: u64, said: &[(u64, u64, Value)]| Report {
        low: Some(cluster.certificate(low)),
        ..saying(said)
    };
    // One is a window ahead: votes at and below its low are settled, whoever still reports them.
    let old = saying(&[(1, 0, B), (W, 0, A)]);
    let shown = cluster.shown(&five([
        old.clone(),
        old.clone(),
        old,
        above(K, &[(W + 1, 0, A)]),
        above(W, &[(W + 2, 1, B)]),
    ]));
    let plan = cluster.examine(&shown).unwrap();
    assert_eq!((plan.base(), plan.top), (Decree(W), Decree(W + 2)));
    assert_eq!(plan.low, Some(cluster.certificate(W)));
    let choices: Vec<Decree> = plan.choices.keys().copied().collect();
    assert_eq!(choices, [Decree(W + 1), Decree(W + 2)]);
    assert_eq!(plan.choice(Decree(W)), Choice::Free);
}

#[test]
fn votes_above_the_window_of_the_plan_are_ignored() {
    // No single report can hold one, so the plan is made with a smaller window than the reports were checked with.
    let cluster = cluster([0; 16]);
    let reports: Vec<CheckedReport> = (1..=5)
        .map(|node| {
            let report = saying(&[(1, 0, A), (W, 0, B)]);
            let signed = sign(&cluster.configuration.scope(), node, report);
            let checked = cluster.examiner.report(signed, R, &cluster.checkpoints);
            checked.unwrap()
        })
        .collect();
    let plan = Plan::of(&Standard, cluster.configuration.quorums(), W - 1, &reports);
    assert_eq!(plan.top, Decree(1));
    assert_eq!(plan.choice(Decree(W)), Choice::Free);
    let whole = Plan::of(&Standard, cluster.configuration.quorums(), W, &reports);
    assert_eq!(
        (whole.top, whole.choice(Decree(W))),
        (Decree(W), Choice::Must(B))
    );
}
