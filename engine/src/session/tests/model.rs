//! The whole table, and its image, against a naive model with arithmetic of its own.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// The rules of the module's front page, written down a second time as plainly as possible.
#[derive(Default)]
struct Model {
    /// From the longest idle to the latest used.
    sessions: Vec<ModelSession>,
}

struct ModelSession {
    id: SessionId,
    client: ClientId,
    nonce: u64,
    active: u64,
    /// Every seq that ever executed.
    executed: BTreeMap<u64, ModelEntry>,
}

struct ModelEntry {
    operation: u8,
    decree: u64,
    reply: Option<Vec<u8>>,
}

#[derive(Debug, PartialEq)]
enum Answer {
    Executed(u64, Option<Vec<u8>>),
    Refused(&'static str),
}

const SESSIONS_MAX: usize = 5;
const SHARE_MAX: usize = 3;
const IDLE_MAX: u64 = 4;
const SESSION_BYTES_MAX: usize = 160;
const TOTAL_BYTES_MAX: usize = 260;

impl Model {
    fn begin(&mut self, decree: u64) {
        self.sessions
            .retain(|session| decree - session.active <= IDLE_MAX);
    }

    fn open(&mut self, client: ClientId, nonce: u64, id: SessionId) -> SessionId {
        if let Some(session) = self
            .sessions
            .iter()
            .find(|s| s.client == client && s.nonce == nonce)
        {
            return session.id;
        }
        let own = |session: &ModelSession| session.client == client;
        if self.sessions.iter().filter(|session| own(session)).count() == SHARE_MAX {
            let longest_idle = self.sessions.iter().position(own).unwrap();
            self.sessions.remove(longest_idle);
        } else if self.sessions.len() == SESSIONS_MAX {
            self.sessions.remove(0);
        }
        let (active, executed) = (id.decree.0, BTreeMap::new());
        self.sessions.push(ModelSession {
            id,
            client,
            nonce,
            active,
            executed,
        });
        id
    }

    fn apply(
        &mut self,
        client: ClientId,
        id: SessionId,
        seq: u64,
        name: u8,
        decree: u64,
        reply: &[u8],
    ) -> Answer {
        let Some(place) = self
            .sessions
            .iter()
            .position(|s| s.id == id && s.client == client)
        else {
            return Answer::Refused("lapsed");
        };
        let max = self.sessions[place]
            .executed
            .last_key_value()
            .map_or(0, |(seq, _)| i128::from(*seq));
        let wide = i128::from(seq);
        if seq == 0 || wide <= max - 64 {
            return Answer::Refused("stale");
        }
        if wide > max + 64 {
            return Answer::Refused("too far");
        }
        if let Some(entry) = self.sessions[place].executed.get(&seq) {
            if entry.operation != name {
                return Answer::Refused("reused");
            }
            return Answer::Executed(entry.decree, entry.reply.clone());
        }
        let mut session = self.sessions.remove(place);
        session.active = decree;
        session.executed.insert(
            seq,
            ModelEntry {
                operation: name,
                decree,
                reply: None,
            },
        );
        session.drop_old();
        self.sessions.push(session);
        if reply.len() <= SESSION_BYTES_MAX && reply.len() <= TOTAL_BYTES_MAX {
            let session = self.sessions.last_mut().unwrap();
            while session.bytes() + reply.len() > SESSION_BYTES_MAX {
                let entry = session
                    .executed
                    .values_mut()
                    .find(|entry| entry.bytes() > 0)
                    .unwrap();
                entry.reply = None;
            }
            while self.bytes() + reply.len() > TOTAL_BYTES_MAX {
                let poorest = self
                    .sessions
                    .iter_mut()
                    .find(|session| session.bytes() > 0)
                    .unwrap();
                poorest
                    .executed
                    .values_mut()
                    .filter(|entry| entry.bytes() > 0)
                    .for_each(|entry| entry.reply = None);
            }
            self.sessions
                .last_mut()
                .unwrap()
                .executed
                .get_mut(&seq)
                .unwrap()
                .reply = Some(reply.to_vec());
        }
        Answer::Executed(decree, Some(reply.to_vec()))
    }

    fn bytes(&self) -> usize {
        self.sessions.iter().map(ModelSession::bytes).sum()
    }
}

impl ModelSession {
    fn bytes(&self) -> usize {
        self.executed.values().map(ModelEntry::bytes).sum()
    }

    fn drop_old(&mut self) {
        let max = *self.executed.last_key_value().unwrap().0;
        self.executed
            .retain(|seq, _| i128::from(*seq) > i128::from(max) - 64);
    }
}

impl ModelEntry {
    fn bytes(&self) -> usize {
        self.reply.as_ref().map_or(0, Vec::len)
    }
}

/// What the table answers, driven as the executor drives it.
fn apply(
    table: &mut SessionTable,
    client: ClientId,
    id: SessionId,
    seq: u64,
    name: u8,
    decree: u64,
    reply: &[u8],
) -> Answer {
    match table.judge(client, id, Seq(seq), operation(name)) {
        Verdict::Execute(ticket) => {
            table.record(ticket, Decree(decree), operation(name), Some(reply));
            Answer::Executed(decree, Some(reply.to_vec()))
        }
        Verdict::Repeat {
            decree,
            outcome: Outcome::Executed(reply),
        } => Answer::Executed(decree.0, Some(reply.to_vec())),
        Verdict::Repeat { decree, .. } => Answer::Executed(decree.0, None),
        Verdict::Refuse(Outcome::SessionLapsed) => Answer::Refused("lapsed"),
        Verdict::Refuse(Outcome::Stale) => Answer::Refused("stale"),
        Verdict::Refuse(Outcome::TooFar) => Answer::Refused("too far"),
        Verdict::Refuse(Outcome::SeqReused) => Answer::Refused("reused"),
        Verdict::Refuse(other) => panic!("no refusal of the table: {other:?}"),
    }
}

#[derive(Clone, Debug)]
enum Step {
    Decree(u64),
    /// One of the two tables is replaced by one that was read from its image.
    Restore,
    Open {
        client: u8,
        nonce: u64,
    },
    Request {
        client: u8,
        back: usize,
        seq: SeqChoice,
        name: u8,
        reply: usize,
    },
}

#[derive(Clone, Debug)]
enum SeqChoice {
    Near(u64),
    Relative(i64),
    Any(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let seq = prop_oneof![
        4 => (0u64..6).prop_map(SeqChoice::Near),
        6 => (-66i64..67).prop_map(SeqChoice::Relative),
        4 => (0i64..4).prop_map(SeqChoice::Relative),
        1 => any::<u64>().prop_map(SeqChoice::Any),
    ];
    prop_oneof![
        3 => (1u64..3).prop_map(Step::Decree),
        1 => Just(Step::Restore),
        2 => (1u8..4, 0u64..5).prop_map(|(client, nonce)| Step::Open { client, nonce }),
        16 => (1u8..3, 0usize..4, seq, 0u8..6, 0usize..70).prop_map(|(client, back, seq, name, reply)| {
            Step::Request { client, back, seq, name: name / 5, reply: reply * reply / 70 }
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn agrees_with_the_naive_model(steps in prop::collection::vec(step(), 1..300)) {
        let make = || table(|limits| {
            limits.sessions_max = u32::try_from(SESSIONS_MAX).unwrap();
            limits.sessions_per_client_max = u32::try_from(SHARE_MAX).unwrap();
            limits.session_decrees = IDLE_MAX;
            limits.session_reply_bytes_max = u32::try_from(SESSION_BYTES_MAX).unwrap();
            limits.reply_bytes_total_max = TOTAL_BYTES_MAX as u64;
        });
        let (mut one, mut other, mut model) = (make(), make(), Model::default());
        let (mut decree, mut index, mut standing) = (1, 0, None);
        // Whom a session belongs to, so that most requests come from its owner; and its largest executed seq.
        let mut known: Vec<(SessionId, ClientId, u64)> = vec![(id(1, 999), ALICE, 0)];
        for step in steps {
            match step {
                Step::Decree(by) => {
                    (decree, index) = (decree + by, 0);
                    one.begin(Decree(decree));
                    other.begin(Decree(decree));
                    model.begin(decree);
                }
                Step::Restore => {
                    standing = Some((other.image(), bytes_of(&other)));
                    other = restored(&make(), &image_of(other.image()), 7).expect("its own image");
                }
                Step::Open { client, nonce } => {
                    let (client, at) = (ClientId([client; 16]), id(decree, index));
                    let opened = one.open(client, Seq(nonce), at);
                    prop_assert_eq!(opened, other.open(client, Seq(nonce), at));
                    prop_assert_eq!(opened, model.open(client, nonce, at));
                    if opened == at {
                        known.push((opened, client, 0));
                    }
                }
                Step::Request { client, back, seq, name, reply } => {
                    let place = known.len() - 1 - back.min(known.len() - 1);
                    let (session, owner, max) = known[place];
                    let client = if client == 1 || back > 0 { owner } else { ClientId([client; 16]) };
                    let seq = match seq {
                        SeqChoice::Near(seq) | SeqChoice::Any(seq) => seq,
                        SeqChoice::Relative(by) => max.saturating_add_signed(by),
                    };
                    let reply = vec![u8::try_from(seq % 251).unwrap(); reply];
                    let answer = apply(&mut one, client, session, seq, name, decree, &reply);
                    prop_assert_eq!(&answer, &apply(&mut other, client, session, seq, name, decree, &reply));
                    prop_assert_eq!(&answer, &model.apply(client, session, seq, name, decree, &reply));
                    if matches!(answer, Answer::Executed(..)) {
                        known[place].2 = max.max(seq);
                    }
                }
            }
            index += 1;
            prop_assert_eq!(one.len(), model.sessions.len());
            prop_assert_eq!(one.reply_bytes(), model.bytes() as u64);
        }
        for session in &model.sessions {
            for (seq, entry) in &session.executed {
                let found = one.recall(session.client, session.id, Seq(*seq), operation(entry.operation));
                let outcome = entry.reply.as_deref().map_or(Outcome::ExecutedReplyGone, Outcome::Executed);
                prop_assert_eq!(found, Some((Decree(entry.decree), outcome)));
            }
        }
        prop_assert_eq!(bytes_of(&one), bytes_of(&other));
        if let Some((image, bytes)) = standing {
            prop_assert_eq!(image_of(image), bytes, "an image stands still");
        }
    }

    /// A damaged image is refused or makes some table; nothing panics.
    #[test]
    fn images_that_are_damaged_do_no_harm(at in 0usize..2000, to in any::<u8>(), cut in 0usize..2000) {
        let mut table = table(|_| {});
        for client in 1..4 {
            let session = table.open(ClientId([client; 16]), Seq(7), id(1, u32::from(client)));
            for seq in 1..u64::from(client) * 9 {
                let ticket = table.judge(ClientId([client; 16]), session, Seq(seq), operation(0));
                if let Verdict::Execute(ticket) = ticket {
                    table.record(ticket, Decree(seq), operation(0), Some(&[client; 9]));
                }
            }
        }
        let mut bytes = image_of(table.image());
        let at = at % bytes.len();
        bytes[at] = to;
        let _ = restored(&table, &bytes, 64);
        bytes.truncate(cut % bytes.len());
        prop_assert!(restored(&table, &bytes, 64).is_err(), "it ends too early");
    }
}
