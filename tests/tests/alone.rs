//! One replica, driven by hand: a disk that is late, and messages that come early (PROTOCOL.md sections 3 and 5.5).

use std::sync::Arc;

use twostep_crypto::{Signable, Signed};
use twostep_engine::admission::ClientDirectory;
use twostep_engine::batch::{Batch, Bundle, BundleWriter, Request, RequestKind};
use twostep_engine::checkpoint::Checkpoints;
use twostep_engine::configuration::{Configuration, Limits, Tuning};
use twostep_engine::machine::{Effects, Input, Machine, Question, Record, To};
use twostep_engine::message::{
    Certificate, Checkpoint, Message, NewRegency, ProofOfLeadership, RegencyVote, Report, Voice,
};
use twostep_engine::quorum::FaultModel;
use twostep_engine::replica::{Replica, Setup, Standing};
use twostep_engine::types::{
    Decree, Digest, NodeId, Party, RecordSeq, Regency, Seq, SessionId, Time, Value,
};
use twostep_engine::voucher::Examiner;
use twostep_net::pool::{Body, Pool};
use twostep_tests::topology::{Topology, client_identity, configuration, node_identity};
use twostep_tests::workload;

const W: u64 = 8;
const K: u64 = 4;

/// What was said that a late disk must hold back.
#[derive(Clone, Debug, PartialEq)]
enum Said {
    Accepted(u64, u64, Value),
    Report(Box<Signed<Report>>),
    Vote(u64),
}

/// What a step did.
#[derive(Debug, Default)]
struct Done {
    said: Vec<Said>,
    /// The votes that were handed to the disk: regency, decree, value.
    voted: Vec<(u64, u64, Value)>,
    /// The last record that was handed to the disk.
    last: Option<RecordSeq>,
}

impl Effects for Done {
    fn send(&mut self, _: To, message: &Message<'_>) {
        self.said.extend(match message {
            Message::Accepted {
                regency,
                decree,
                value,
            } => Some(Said::Accepted(regency.0, decree.0, *value)),
            Message::Report(report) => Some(Said::Report(report.clone())),
            Message::Vote(vote) => Some(Said::Vote(vote.content.regency.0)),
            _ => None,
        });
    }

    fn store(&mut self, seq: RecordSeq, record: &Record<'_>) {
        self.last = Some(seq);
        if let Record::Vote {
            regency,
            decree,
            batch,
        } = record
        {
            self.voted.push((regency.0, decree.0, batch.value()));
        }
    }

    fn deliver(&mut self, _: Decree, _: &Batch) {}
    fn ask(&mut self, _: Question) {}
}

/// A replica whose disk and peers are this test. Mode F, f = 1: n0 to n3 propose and learn, all six accept.
struct Alone {
    configuration: Arc<Configuration>,
    replica: Replica,
    now: Time,
    tuning: Tuning,
}

impl Alone {
    fn new(me: u16) -> Alone {
        let limits = Limits {
            window: W,
            checkpoint_every: K,
            snapshot_every: K,
            ..Limits::default()
        };
        let configuration = configuration(FaultModel::Fab, 1, Topology::Shared, limits);
        let configuration = Arc::new(configuration.expect("the sizes of the model"));
        let tuning = Tuning::default();
        let setup = Setup {
            configuration: Arc::clone(&configuration),
            me: NodeId(me),
            identity: node_identity(usize::from(me)),
            clients: Arc::new(ClientDirectory::new([client_identity(0).public()])),
            tuning,
            pool: Pool::default(),
            standing: Standing::Born,
        };
        Alone {
            configuration,
            replica: Replica::new(setup).expect("the keys are sound"),
            now: Time(1),
            tuning,
        }
    }

    fn step(&mut self, input: Input<'_>) -> Done {
        let mut done = Done::default();
        self.replica.step(self.now, input, &mut done);
        done
    }

    fn hear(&mut self, from: u16, message: Message<'_>) -> Done {
        let from = Party::Node(NodeId(from));
        self.step(Input::Message { from, message })
    }

    fn stored(&mut self, seq: RecordSeq) -> Vec<Said> {
        self.step(Input::Stored(seq)).said
    }

    /// A turn ends, a good while later.
    fn later(&mut self) -> Vec<Said> {
        self.now = self.now + self.tuning.t0;
        self.step(Input::Tick).said
    }

    fn proposal(regency: u64, decree: u64, batch: &Batch) -> Message<'static> {
        Message::Propose {
            regency: Regency(regency),
            decree: Decree(decree),
            value: batch.value(),
            body: batch.body().clone(),
        }
    }

    fn sign<T: Signable>(&self, node: u16, content: T) -> Signed<T> {
        let (scope, signer) = (self.configuration.scope(), Party::Node(NodeId(node)));
        let identity = node_identity(usize::from(node));
        let signed = identity.signing().sign(&scope, signer, content);
        signed.into_signed()
    }

    fn proof(&self, regency: u64) -> ProofOfLeadership {
        let regency = Regency(regency);
        let votes = (0..3).map(|node| self.sign(node, RegencyVote { regency }));
        ProofOfLeadership {
            votes: votes.collect(),
        }
    }

    fn gather(&self, regency: u64) -> Message<'static> {
        Message::Gather {
            regency: Regency(regency),
            proof: self.proof(regency),
        }
    }

    /// What a leader shows to whom nobody reported a vote.
    fn shown(&self, regency: u64) -> Message<'static> {
        let report = |node| {
            let report = Report {
                regency: Regency(regency),
                low: None,
                votes: Vec::new(),
            };
            self.sign(node, report)
        };
        Message::NewRegency(Box::new(NewRegency {
            regency: Regency(regency),
            proof: self.proof(regency),
            voucher: [0, 1, 2, 3, 5].map(report).to_vec(),
        }))
    }

    fn certificate(&self, decree: u64) -> Message<'static> {
        let checkpoints = Checkpoints::new(&self.configuration);
        let (chain, results) = (Digest([7; 32]), Digest([8; 32]));
        let voice = |learner: u16| {
            let checkpoint = Checkpoint {
                decree: Decree(decree),
                chain,
                results,
            };
            let identity = node_identity(usize::from(learner));
            let claim = checkpoints.sign(checkpoint, NodeId(learner), identity.signing());
            Voice {
                learner: NodeId(learner),
                results,
                signature: claim.signature,
            }
        };
        Message::Certificate(Certificate {
            decree: Decree(decree),
            chain,
            voices: (0..3).map(voice).collect(),
        })
    }

    fn noop(&self) -> Batch {
        Batch::noop(&self.configuration.scope())
    }

    /// A batch with one request that its client signed.
    fn batch(&self) -> Batch {
        let scope = self.configuration.scope();
        let client = client_identity(0);
        let mut writer = BundleWriter::new(client.public().client_id());
        let operation = workload::increment(7);
        assert!(writer.push(&Request {
            kind: RequestKind::Operation,
            session: SessionId {
                decree: Decree(1),
                index: 0,
            },
            seq: Seq(1),
            operation: &operation,
        }));
        let bytes = Body::from_vec(writer.finish_signed(&scope, client.signing()).to_vec());
        let bundle = Bundle::parse(bytes, &scope, self.configuration.limits());
        let bundle = bundle.expect("well formed");
        Batch::assemble(&Pool::default(), &scope, &mut [bundle].into(), usize::MAX)
    }
}

#[test]
fn a_vote_is_said_once_it_is_stored_also_when_the_regency_changes_meanwhile() {
    let mut node = Alone::new(4);
    let (first, second) = (node.batch(), node.noop());
    let voted = node.hear(0, Alone::proposal(0, 1, &first));
    assert_eq!(voted.voted, [(0, 1, first.value())]);
    let vote = voted.last.expect("a vote is a record");
    let promise = node.hear(1, node.gather(1)).last.expect("so is a promise");
    node.hear(1, node.shown(1));
    let voted = node.hear(1, Alone::proposal(1, 1, &second));
    assert_eq!(voted.voted, [(1, 1, second.value())]);
    let newer = voted.last.expect("a record");
    assert!(vote < promise && promise < newer);
    assert_eq!(node.later(), [], "nothing is on the disk yet");

    // The old vote is durable, and may be said: the report will name it. The new one is not.
    assert_eq!(node.stored(vote), [Said::Accepted(0, 1, first.value())]);
    assert_eq!(node.later(), []);
    let again = node.hear(1, Alone::proposal(1, 1, &second));
    assert_eq!(again.said, [], "a vote that is not durable is not repeated");
    let said = node.stored(promise);
    let [Said::Report(report)] = &said[..] else {
        panic!("a report: {said:?}");
    };
    let vote = report.content.votes[0];
    assert_eq!((vote.psn, vote.value), (Regency(0), first.value()));
    assert_eq!(node.later(), []);

    let accepted = [Said::Accepted(1, 1, second.value())];
    assert_eq!(node.stored(newer), accepted);
    let again = node.hear(1, Alone::proposal(1, 1, &second));
    assert_eq!(again.said, accepted, "now it is repeated to whoever asks");
}

#[test]
fn a_proposers_vote_counts_once_it_is_stored() {
    let mut node = Alone::new(3);
    let vote = |node: &Alone, from| {
        let regency = Regency(1);
        Message::Vote(node.sign(from, RegencyVote { regency }))
    };
    assert_eq!(node.hear(0, vote(&node, 0)).said, []);
    // f+1 votes: it votes as well, and with its own vote there is a proof.
    let done = node.hear(1, vote(&node, 1));
    assert_eq!(done.said, [], "its vote is not durable");
    assert_eq!(node.replica.report().regency, Regency(0));
    assert_eq!(node.later(), []);
    let said = node.stored(done.last.expect("a vote is a record"));
    assert_eq!(said, [Said::Vote(1)]);
    assert_eq!(node.replica.report().regency, Regency(1));
}

/// An acceptor that voted all over its window and then heard of two certificates, and the records of the two lows.
fn with_two_lows() -> (Alone, [RecordSeq; 2]) {
    let mut node = Alone::new(4);
    let noop = node.noop();
    for decree in 1..=W {
        let vote = node.hear(0, Alone::proposal(0, decree, &noop)).last;
        node.stored(vote.expect("a vote is a record"));
    }
    let lows = [K, 2 * K].map(|low| node.hear(1, node.certificate(low)).last);
    (node, lows.map(|low| low.expect("a low is a record")))
}

/// The low and the voted decrees of the report for a regency, which comes to the disk together with all before it.
fn report(node: &mut Alone, regency: u64) -> (u64, Vec<u64>) {
    let leader = u16::try_from(regency).expect("small");
    let done = node.hear(leader, node.gather(regency));
    assert_eq!(done.said, []);
    let said = node.stored(done.last.expect("a promise is a record"));
    let [Said::Report(report)] = &said[..] else {
        panic!("one report: {said:?}");
    };
    let (examiner, checkpoints) = (
        Examiner::new(&node.configuration),
        Checkpoints::new(&node.configuration),
    );
    let taken = examiner.report((**report).clone(), Regency(regency), &checkpoints);
    assert!(taken.is_ok(), "nobody takes such a report: {taken:?}");
    let content = &report.content;
    let low = content.low.as_ref().map_or(0, |low| low.decree.0);
    (
        low,
        content.votes.iter().map(|vote| vote.decree.0).collect(),
    )
}

#[test]
fn a_report_names_the_low_that_is_stored() {
    // One node reports before either low is stored, the other between them, and both after them.
    let (mut before, _) = with_two_lows();
    assert_eq!(report(&mut before, 1), (0, (1..=W).collect()));
    let (mut between, [first, _]) = with_two_lows();
    between.stored(first);
    assert_eq!(report(&mut between, 1), (K, (K + 1..=W).collect()));
    for mut node in [before, between] {
        assert_eq!(report(&mut node, 2), (2 * K, vec![]));
    }
}

#[test]
fn a_proposal_of_a_higher_regency_waits_for_its_own_plan() {
    let mut node = Alone::new(4);
    let (noop, batch) = (node.noop(), node.batch());
    assert_eq!(node.hear(2, Alone::proposal(2, 1, &batch)).voted, []);
    assert_eq!(node.hear(1, Alone::proposal(1, 2, &noop)).voted, []);
    let done = node.hear(1, node.shown(1));
    assert_eq!(done.voted, [(1, 2, noop.value())]);
    let done = node.hear(2, node.shown(2));
    assert_eq!(done.voted, [(2, 1, batch.value())]);
    let done = node.hear(3, node.shown(3));
    assert_eq!(done.voted, [], "each is looked at again once");
}
