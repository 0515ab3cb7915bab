//! Who says what to whom for one operation, recorded from real replicas and a real client.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use twostep_crypto::Party;
use twostep_engine::quorum::FaultModel;
use twostep_engine::state_machine::StateMachine;

use crate::lab::{Lab, Recording};

/// The kinds of messages that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A bundle, from the client to the leader.
    Submit,
    /// A batch, from the leader to acceptors and learners.
    Propose,
    /// A vote, from an acceptor to learners.
    Accepted,
    /// What a learner has learned: to the leader at once, to all others of several decrees at a time.
    Ack,
    /// The answers of a learner to the client.
    Replies,
    /// Anything else.
    Other,
}

impl Kind {
    /// All of them; the place is the number on the wire.
    pub const ALL: [Kind; 6] = [
        Kind::Submit,
        Kind::Propose,
        Kind::Accepted,
        Kind::Ack,
        Kind::Replies,
        Kind::Other,
    ];

    /// By the tag at the front of the wire form (see [`twostep_engine::wire`]).
    fn of(message: &[u8]) -> Kind {
        match message.first() {
            Some(1) => Kind::Submit,
            Some(2) => Kind::Propose,
            Some(3) => Kind::Accepted,
            Some(4) => Kind::Ack,
            Some(12 | 28) => Kind::Replies,
            _ => Kind::Other,
        }
    }
}

/// One message of a recorded operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// To whom.
    pub to: usize,
    /// Of which kind.
    pub kind: Kind,
    /// How many bytes, without the headers of frame and packet.
    pub bytes: usize,
}

/// What one party says in one turn, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// Who.
    pub from: usize,
    /// Once it has heard so many messages of each kind of [`Kind::ALL`].
    pub after: [u32; 6],
    /// What.
    pub says: Vec<Said>,
}

/// One operation, from the client's first message to the last one of anybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// How many nodes there are; the client has the number after the last one.
    pub nodes: usize,
    /// Every turn in which somebody said something, in the order of the recording.
    pub turns: Vec<Turn>,
    /// The operation ends when the client has heard so many messages of each kind.
    pub ends_after: [u32; 6],
}

impl Trace {
    /// Records an operation of `operation_bytes` in a settled cluster: `count` requests in one bundle.
    pub fn record<S: StateMachine>(
        model: FaultModel,
        f: usize,
        state_machine: impl Fn() -> S,
        operation: &[u8],
        count: usize,
    ) -> Trace {
        let nodes = model.acceptors(f);
        let mut lab = Lab::new(model, f, state_machine);
        let session = lab.open();
        // What is said only at first is not what an operation costs.
        (0..3).for_each(|_| lab.commit(session, operation, count));
        Trace::of(nodes, &lab.record(session, operation, count))
    }

    fn of(nodes: usize, recording: &Recording) -> Trace {
        let record = &recording.messages;
        let place = |party: Party| match party {
            Party::Node(node) => usize::from(node.0),
            Party::Client(_) => nodes,
        };
        let heard = |party: usize, count: usize| {
            let mut kinds = [0; 6];
            let to = record.iter().filter(|message| place(message.to) == party);
            to.take(count)
                .for_each(|message| kinds[Kind::of(&message.bytes) as usize] += 1);
            kinds
        };
        let mut turns: Vec<Turn> = Vec::new();
        let mut by_turn = BTreeMap::new();
        for message in record {
            let from = place(message.from);
            let turn = *by_turn.entry((from, message.heard)).or_insert_with(|| {
                turns.push(Turn {
                    from,
                    after: heard(from, message.heard),
                    says: Vec::new(),
                });
                turns.len() - 1
            });
            turns[turn].says.push(Said {
                to: place(message.to),
                kind: Kind::of(&message.bytes),
                bytes: message.bytes.len(),
            });
        }
        Trace {
            nodes,
            turns,
            ends_after: heard(nodes, recording.ended_after),
        }
    }

    /// What one party says.
    pub fn of_party(&self, party: usize) -> impl Iterator<Item = &Turn> {
        self.turns.iter().filter(move |turn| turn.from == party)
    }

    /// Every message of a kind, with its sender.
    pub fn messages(&self, kind: Kind) -> impl Iterator<Item = (usize, &Said)> {
        let said = self
            .turns
            .iter()
            .flat_map(|turn| turn.says.iter().map(|said| (turn.from, said)));
        said.filter(move |(_, said)| said.kind == kind)
    }

    /// The largest message. Bytes.
    #[must_use]
    pub fn message_bytes_max(&self) -> usize {
        let said = self.turns.iter().flat_map(|turn| &turn.says);
        said.map(|said| said.bytes).max().unwrap_or(0)
    }

    /// How many messages it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.turns.iter().map(|turn| turn.says.len()).sum()
    }

    /// Whether nobody says anything: true of no recording.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use twostep_engine::null::Null;

    fn counts(trace: &Trace) -> [usize; 6] {
        Kind::ALL.map(|kind| trace.messages(kind).count())
    }

    #[test]
    fn a_lone_operation_has_the_messages_of_the_formula() {
        for f in [1, 2, 3] {
            let trace = Trace::record(FaultModel::Fab, f, || Null, &[7; 64], 1);
            let (acceptors, learners) = (5 * f + 1, 3 * f + 1);
            let proposals = acceptors - 1;
            // Every acceptor tells every learner, and a learner that accepts does not tell itself.
            let votes = acceptors * learners - learners;
            // The leader learns as well, and does not tell itself; all others are told some time later, of many at once.
            let acks = learners - 1;
            assert_eq!(
                counts(&trace),
                [1, proposals, votes, acks, learners, 0],
                "f = {f}"
            );
            assert_eq!(
                trace.ends_after,
                [0, 0, 0, 0, u32::try_from(f + 1).unwrap(), 0]
            );
        }
    }

    #[test]
    fn what_is_said_depends_on_quorums_and_on_no_acknowledgement() {
        let trace = Trace::record(FaultModel::Fab, 1, || Null, &[7; 64], 1);
        assert!(
            trace
                .turns
                .iter()
                .all(|turn| turn.after[Kind::Ack as usize] == 0)
        );
        // The learner of node 1 needs five votes, of which one is its own.
        let answer = trace
            .of_party(1)
            .find(|turn| turn.says.iter().any(|said| said.kind == Kind::Replies));
        assert_eq!(answer.unwrap().after, [0, 1, 4, 0, 0, 0]);
    }

    #[test]
    fn an_operation_more_in_a_bundle_makes_bodies_and_replies_larger_and_votes_not() {
        let record = |count| Trace::record(FaultModel::Fab, 1, || Null, &[7; 64], count);
        let (one, two) = (record(1), record(2));
        let bytes = |trace: &Trace, kind| trace.messages(kind).next().unwrap().1.bytes;
        assert!(bytes(&two, Kind::Submit) >= bytes(&one, Kind::Submit) + 64);
        assert!(bytes(&two, Kind::Propose) >= bytes(&one, Kind::Propose) + 64);
        assert!(bytes(&two, Kind::Replies) > bytes(&one, Kind::Replies));
        assert_eq!(bytes(&two, Kind::Accepted), bytes(&one, Kind::Accepted));
    }
}
