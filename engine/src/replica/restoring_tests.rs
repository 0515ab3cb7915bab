use std::collections::BTreeMap;

use twostep_crypto::{Signed, Verified};

use super::*;
use crate::configuration::Admission;
use crate::learner::Learner;
use crate::machine::{Effects, Input, Machine, Question, Record, To};
use crate::message::{Message, ProofOfLeadership, RegencyVote, Report};
use crate::replica::testing::{identity, setup_of_six};
use crate::types::{NodeId, Party, RecordSeq, Time, Value};

/// What a replica said, by whether it was a vote for a value, a vote for a regency, a report or a proposal.
#[derive(Debug, Default)]
struct Heard {
    accepted: Vec<(u64, u64, Value)>,
    votes: Vec<u64>,
    reports: Vec<Signed<Report>>,
    proposed: Vec<(u64, u64, Value)>,
    checkpoints: Vec<u64>,
    journal: Vec<OwnedRecord>,
    /// How many records of this run there are.
    written: u64,
}

impl Effects for Heard {
    fn send(&mut self, _: To, message: &Message<'_>) {
        match message {
            Message::Accepted {
                regency,
                decree,
                value,
            } => self.accepted.push((regency.0, decree.0, *value)),
            Message::Propose {
                regency,
                decree,
                value,
                ..
            } => self.proposed.push((regency.0, decree.0, *value)),
            Message::Vote(vote) => self.votes.push(vote.content.regency.0),
            Message::Report(report) => self.reports.push((**report).clone()),
            Message::Checkpoint(claim) => self.checkpoints.push(claim.checkpoint.decree.0),
            _ => {}
        }
    }
    fn store(&mut self, seq: RecordSeq, record: &Record<'_>) {
        self.written += 1;
        assert_eq!(seq, RecordSeq(self.written), "numbered from 1");
        self.journal.push(record.owned());
    }
    fn deliver(&mut self, _: Decree, _: &Batch) {}
    fn ask(&mut self, _: Question) {}
}

/// One node of six whose disk is this test.
struct Node {
    me: u8,
    replica: Replica,
    heard: Heard,
    results: BTreeMap<Decree, Digest>,
}

fn setup(me: u8) -> Setup {
    let (mut setup, _) = setup_of_six(me, Admission::Mac);
    setup.tuning.t0 = std::time::Duration::from_millis(100);
    setup
}

impl Node {
    fn born(me: u8) -> Node {
        Node {
            me,
            replica: Replica::new(setup(me)).expect("no key is weak"),
            heard: Heard::default(),
            results: BTreeMap::new(),
        }
    }

    fn noop(&self) -> Batch {
        Batch::noop(&self.replica.scope)
    }

    fn input(&mut self, input: Input<'_>) {
        self.replica.step(Time(1), input, &mut self.heard);
        let written = RecordSeq(self.heard.written);
        if written > self.replica.stored {
            self.input(Input::Stored(written));
        }
    }

    fn hear(&mut self, from: u16, message: Message<'_>) {
        let from = Party::Node(NodeId(from));
        self.input(Input::Message { from, message });
    }

    fn propose(&mut self, from: u16, regency: u64, decree: u64) {
        let noop = self.noop();
        let message = Message::Propose {
            regency: Regency(regency),
            decree: Decree(decree),
            value: noop.value(),
            body: noop.body().clone(),
        };
        self.hear(from, message);
    }

    /// The others vote as this node does.
    fn learn(&mut self, decree: u64) {
        let (regency, value) = (self.replica.regency, self.noop().value());
        let me = u16::from(self.me);
        for from in (0..6).filter(|from| *from != me) {
            let decree = Decree(decree);
            let message = Message::Accepted {
                regency,
                decree,
                value,
            };
            self.hear(from, message);
        }
    }

    fn vote(&self, from: u8, regency: u64) -> Signed<RegencyVote> {
        let party = Party::Node(NodeId(u16::from(from)));
        let regency = Regency(regency);
        let content = RegencyVote { regency };
        let vote: Verified<RegencyVote> =
            identity(from)
                .signing()
                .sign(&self.replica.scope, party, content);
        vote.into_signed()
    }

    /// Proposers 0, 2 and 3 want this regency.
    fn proof(&self, regency: u64) -> ProofOfLeadership {
        let votes = [0, 2, 3].map(|from| self.vote(from, regency));
        ProofOfLeadership {
            votes: votes.to_vec(),
        }
    }

    /// Stops it and starts it again with so many of its records.
    fn restart(self, records: usize) -> Node {
        let journal = self.heard.journal[..records].to_vec();
        let mut results = BTreeMap::new();
        let replica = Replica::restore(setup(self.me), None, journal, &mut |decree, _| {
            let digest = Digest([u8::try_from(decree.0).expect("few decrees"); 32]);
            results.insert(decree, digest);
            digest
        });
        let mut node = Node {
            me: self.me,
            replica: replica.expect("its own records"),
            heard: Heard::default(),
            results,
        };
        node.input(Input::Tick);
        node
    }

    fn restart_with_all(self) -> Node {
        let records = self.heard.journal.len();
        self.restart(records)
    }
}

#[test]
fn what_was_voted_and_promised_holds_and_is_said_again() {
    let mut node = Node::born(1);
    node.propose(0, 0, 1);
    node.propose(0, 0, 2);
    let proof = node.proof(2);
    node.hear(0, Message::Proof(proof));
    let (report, noop) = (node.heard.reports[0].clone(), node.noop().value());

    let mut again = node.restart_with_all();
    assert_eq!(again.replica.regency, Regency(2));
    assert_eq!(again.heard.accepted, [(0, 1, noop), (0, 2, noop)]);
    assert_eq!(
        again.heard.reports[..],
        std::slice::from_ref(&report)[..],
        "the very same"
    );
    let gather = |node: &Node| Message::Gather {
        regency: Regency(2),
        proof: node.proof(2),
    };
    let asked = gather(&again);
    again.hear(2, asked);
    assert_eq!(again.heard.reports, [report.clone(), report]);
    again.heard.accepted.clear();
    again.propose(0, 0, 3);
    again.propose(2, 2, 3);
    assert_eq!(again.heard.accepted, [], "below the promise; plan unknown");
    let made = again.heard.journal.len();
    assert_eq!(made, 0, "nothing is promised anew");
}

#[test]
fn a_lost_tail_loses_what_was_not_said() {
    let mut node = Node::born(1);
    node.propose(0, 0, 1);
    let records = node.heard.journal.len();
    let proof = node.proof(2);
    node.hear(0, Message::Proof(proof));
    let mut again = node.restart(records);
    assert_eq!(again.replica.regency, Regency(0));
    again.propose(0, 0, 2);
    assert_eq!(again.heard.accepted.len(), 2);
}

#[test]
fn the_own_learner_counts_the_own_votes_again() {
    let mut node = Node::born(1);
    node.propose(0, 0, 1);
    let mut again = node.restart_with_all();
    let value = again.noop().value();
    for from in [0, 2, 3, 4] {
        let (regency, decree) = (Regency(0), Decree(1));
        assert_eq!(again.replica.learned(), Decree::NONE);
        let message = Message::Accepted {
            regency,
            decree,
            value,
        };
        again.hear(from, message);
    }
    assert_eq!(
        again.replica.learned(),
        Decree(1),
        "four others and itself, and the body of its vote"
    );
}

#[test]
fn what_was_learned_is_executed_again_and_no_checkpoint_is_signed_twice() {
    let every = setup(1).configuration.limits().checkpoint_every;
    let mut node = Node::born(1);
    for decree in 1..=every {
        node.propose(0, 0, decree);
        node.learn(decree);
        let results = Digest([u8::try_from(decree).expect("few decrees"); 32]);
        node.input(Input::Executed {
            decree: Decree(decree),
            replies: &crate::machine::Replies::default(),
            results,
        });
    }
    assert_eq!(node.heard.checkpoints, [every]);
    let claim = |node: &Node| {
        let mut claims = node.heard.journal.iter();
        claims
            .find(|record| matches!(record, OwnedRecord::Checkpoint(_)))
            .cloned()
    };
    assert!(claim(&node).is_some());
    let (records, chain) = (
        node.heard.journal.len(),
        node.replica.learner.as_ref().map(Learner::chain),
    );

    let again = node.restart(records - 1);
    assert_eq!(again.results.len() as u64, every);
    assert_eq!(again.replica.learner.as_ref().map(Learner::chain), chain);
    assert_eq!(again.heard.checkpoints, [every], "it was not signed yet");
    let Some(OwnedRecord::Checkpoint(_)) = claim(&again) else {
        panic!("it is signed now, on record");
    };
}

#[test]
fn a_leader_with_its_log_goes_on_and_one_without_votes_for_the_next_regency() {
    let lead = || {
        let mut node = Node::born(0);
        let noop = node.noop();
        let mut heard = std::mem::take(&mut node.heard);
        let step = &mut Step {
            now: Time(1),
            fx: &mut heard,
        };
        for decree in 1..=3 {
            let batch = noop.clone();
            node.replica
                .log_proposal(Decree(decree), batch, std::time::Duration::ZERO, step);
        }
        node.heard = heard;
        node.input(Input::Stored(RecordSeq(node.heard.written)));
        node
    };
    let node = lead();
    assert!(matches!(
        node.heard.journal[0],
        OwnedRecord::Lead(Regency(0))
    ));
    let noop = node.noop().value();
    let again = node.restart_with_all();
    assert_eq!(
        again.heard.proposed[..3],
        [(0, 1, noop), (0, 2, noop), (0, 3, noop)]
    );
    assert_eq!(again.heard.accepted[..3], again.heard.proposed[..3]);
    assert!(again.replica.proposes());
    assert_eq!(
        again.replica.proposer.as_ref().map(Proposer::proposed),
        Some(Decree(3))
    );

    let mut node = lead();
    node.heard.journal.remove(0);
    let again = node.restart_with_all();
    assert!(!again.replica.proposes());
    assert_eq!(again.heard.votes, [1]);
    assert_eq!(again.heard.proposed, []);

    let newborn = lead().restart(0);
    assert!(newborn.replica.proposes(), "it has said nothing ever");
}

#[test]
fn a_vote_for_a_regency_is_said_again() {
    let mut node = Node::born(1);
    for from in [0, 2] {
        let vote = node.vote(from, 7);
        node.hear(u16::from(from), Message::Vote(vote));
    }
    assert_eq!(node.heard.votes, [7]);
    let again = node.restart(1);
    assert_eq!(again.heard.votes, [7]);
    assert_eq!(again.heard.written, 0, "and not made again");
}

#[test]
fn what_proves_nothing_stops_the_start() {
    let mut node = Node::born(1);
    let proof = node.proof(2);
    node.hear(0, Message::Proof(proof));
    let mut journal = node.heard.journal;
    let Some(OwnedRecord::Promise { proof, .. }) = journal.first_mut() else {
        panic!("a promise comes first");
    };
    proof.votes[0].signature.0[3] ^= 1;
    let restored = Replica::restore(setup(1), None, journal, &mut |_, _| Digest::ZERO);
    assert!(matches!(
        restored.err(),
        Some(RestoreError::Unproven {
            what: "proof of leadership",
            why: Refusal::BadSignature,
        })
    ));
}

#[test]
fn records_that_contradict_each_other_stop_the_start() {
    let node = Node::born(1);
    let (regency, noop) = (Regency(0), node.noop());
    let vote = |decree| OwnedRecord::Vote {
        regency,
        decree: Decree(decree),
        batch: noop.clone(),
    };
    let learned = |decree| OwnedRecord::Learned {
        decree: Decree(decree),
        batch: noop.clone(),
    };
    let window = setup(1).configuration.limits().window;
    let voted = |regency| OwnedRecord::RegencyVote(node.vote(1, regency));
    let foreign = OwnedRecord::RegencyVote(node.vote(2, 1));
    let cases: [(Vec<OwnedRecord>, u64, Contradiction); 5] = [
        (
            vec![learned(1), learned(3)],
            2,
            Contradiction::Gap {
                found: Decree(3),
                expected: Decree(2),
            },
        ),
        (
            vec![vote(1), vote(window + 1)],
            2,
            Contradiction::OutsideWindow {
                what: "vote",
                decree: Decree(window + 1),
                low: Decree::NONE,
                top: Decree(window),
            },
        ),
        (
            vec![voted(5), voted(5), voted(4)],
            3,
            Contradiction::Falls {
                what: "vote for a regency",
                found: 4,
                before: 5,
            },
        ),
        (
            vec![foreign],
            1,
            Contradiction::Foreign("vote for a regency"),
        ),
        (
            vec![OwnedRecord::Lead(Regency(2))],
            1,
            Contradiction::Role("regency led"),
        ),
    ];
    for (journal, expected, contradiction) in cases {
        let restored = Replica::restore(setup(1), None, journal, &mut |_, _| Digest::ZERO);
        let Some(RestoreError::Contradiction { place, why }) = restored.err() else {
            panic!("{contradiction:?} was not found");
        };
        assert_eq!((place, why), (expected, contradiction));
    }
}
