//! The requests that a proposer knows to be waiting: what it suspects a leader for.
//!
//! A client's retry is signed and goes to every proposer; each tracks it until it learns that it was executed
//! (PROTOCOL.md section 4, "No censorship"). Only signed requests count, so that nobody can depose a leader with
//! junk. Bounded: at most [`TRACKED_MAX`] requests of one client.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::batch::{BundleView, RequestKind};
use crate::message::{Outcome, ReplyEntries};
use crate::types::{ClientId, Seq, SessionId, Time};

/// The most requests of one client that are tracked (section 5.8); more are served, but not watched over.
pub const TRACKED_MAX: usize = 64;

/// Requests that wait, by client.
#[derive(Debug, Default)]
pub struct Tracking {
    clients: BTreeMap<ClientId, BTreeMap<(SessionId, Seq), Time>>,
}

impl Tracking {
    /// Tracks the requests of a bundle whose signature was checked; true if some were not tracked before.
    pub fn track(&mut self, bundle: &BundleView<'_>, now: Time) -> bool {
        let requests = self.clients.entry(bundle.client).or_default();
        let before = requests.len();
        for request in bundle.requests() {
            let session = if request.kind == RequestKind::Open {
                SessionId::NONE
            } else {
                request.session
            };
            if requests.len() < TRACKED_MAX {
                requests.entry((session, request.seq)).or_insert(now);
            }
        }
        requests.len() > before
    }

    /// Forgets what was executed, or ordered and refused.
    pub fn done(&mut self, client: ClientId, entries: ReplyEntries<'_>) {
        let Some(requests) = self.clients.get_mut(&client) else {
            return;
        };
        for reply in entries.iter().flatten() {
            let opened = matches!(reply.outcome, Outcome::Opened(_));
            let session = if opened {
                SessionId::NONE
            } else {
                reply.session
            };
            requests.remove(&(session, reply.seq));
        }
        if requests.is_empty() {
            self.clients.remove(&client);
        }
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Whether some request has waited for `limit`; if so, each starts to wait anew.
    pub fn overdue(&mut self, now: Time, limit: Duration) -> bool {
        let mut times = self.clients.values_mut().flat_map(BTreeMap::values_mut);
        let overdue = times.any(|since| now.since(*since) >= limit);
        if overdue {
            self.restart(now);
        }
        overdue
    }

    /// A new leader gets as much time as the old one had.
    pub fn restart(&mut self, now: Time) {
        self.clients
            .values_mut()
            .flat_map(BTreeMap::values_mut)
            .for_each(|since| *since = now);
    }

    /// When the oldest request becomes overdue.
    #[must_use]
    pub fn deadline(&self, limit: Duration) -> Option<Time> {
        self.clients
            .values()
            .flat_map(BTreeMap::values)
            .min()
            .map(|since| *since + limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Bundle, BundleWriter, Request};
    use crate::configuration::Limits;
    use crate::message::Reply;
    use crate::types::{ClusterId, Decree, Epoch};
    use crate::wire::write_reply;
    use twostep_crypto::Scope;
    use twostep_net::pool::Body;

    const ALICE: ClientId = ClientId([1; 16]);
    const BOB: ClientId = ClientId([2; 16]);
    const LIMIT: Duration = Duration::from_nanos(100);
    const SESSION: SessionId = SessionId {
        decree: Decree(1),
        index: 0,
    };

    fn bundle(client: ClientId, kind: RequestKind, seqs: impl Iterator<Item = u64>) -> Bundle {
        let scope = Scope::new(ClusterId([0; 32]), Epoch(0));
        let mut writer = BundleWriter::new(client);
        for seq in seqs {
            let request = Request {
                kind,
                session: if kind == RequestKind::Open {
                    SessionId::NONE
                } else {
                    SESSION
                },
                seq: Seq(seq),
                operation: b"",
            };
            assert!(writer.push(&request));
        }
        let bytes = writer.finish_bare(&scope).to_vec();
        Bundle::parse(Body::from_vec(bytes), &scope, &Limits::default()).unwrap()
    }

    fn calls(client: ClientId, seqs: impl Iterator<Item = u64>) -> Bundle {
        bundle(client, RequestKind::Operation, seqs)
    }

    fn done(tracking: &mut Tracking, client: ClientId, replies: &[(SessionId, u64, Outcome<'_>)]) {
        let mut bytes = Vec::new();
        for (session, seq, outcome) in replies {
            let reply = Reply {
                session: *session,
                seq: Seq(*seq),
                decree: Decree(2),
                outcome: *outcome,
            };
            write_reply(&reply, &mut bytes);
        }
        tracking.done(client, ReplyEntries::new(&bytes));
    }

    #[test]
    fn one_client_cannot_fill_the_memory_nor_crowd_out_another() {
        let mut tracking = Tracking::default();
        assert!(tracking.track(&calls(ALICE, 0..1000).view(), Time(0)));
        assert!(!tracking.track(&calls(ALICE, 1000..1001).view(), Time(0)));
        assert!(tracking.track(&calls(BOB, 0..1).view(), Time(0)));
        let counts: Vec<usize> = tracking.clients.values().map(BTreeMap::len).collect();
        assert_eq!(counts, [TRACKED_MAX, 1]);
    }

    #[test]
    fn a_request_is_tracked_until_it_is_answered() {
        let mut tracking = Tracking::default();
        assert!(tracking.track(&calls(ALICE, 1..4).view(), Time(0)));
        assert!(
            !tracking.track(&calls(ALICE, 1..3).view(), Time(0)),
            "known"
        );
        done(&mut tracking, BOB, &[(SESSION, 1, Outcome::Executed(b""))]);
        assert_eq!(tracking.deadline(LIMIT), Some(Time(0) + LIMIT));
        let answers = [
            (SESSION, 1, Outcome::Executed(b"reply")),
            (SESSION, 2, Outcome::Stale),
        ];
        done(&mut tracking, ALICE, &answers);
        assert!(!tracking.is_empty(), "3 waits");
        done(
            &mut tracking,
            ALICE,
            &[(SESSION, 3, Outcome::SessionLapsed)],
        );
        assert!(tracking.is_empty());
        assert_eq!(tracking.deadline(LIMIT), None);
    }

    #[test]
    fn an_open_is_done_when_its_session_is_there() {
        let mut tracking = Tracking::default();
        let nonce = 77;
        let open = bundle(ALICE, RequestKind::Open, [nonce].into_iter());
        assert!(tracking.track(&open.view(), Time(0)));
        // The reply may name the new session or none: the nonce says which Open it was.
        done(
            &mut tracking,
            ALICE,
            &[(SESSION, nonce, Outcome::Opened(SESSION))],
        );
        assert!(tracking.is_empty());
    }

    #[test]
    fn the_oldest_request_is_overdue_first_and_then_all_wait_anew() {
        let mut tracking = Tracking::default();
        tracking.track(&calls(ALICE, 1..2).view(), Time(10));
        tracking.track(&calls(BOB, 1..2).view(), Time(50));
        tracking.track(&calls(ALICE, 1..2).view(), Time(60));
        assert_eq!(
            tracking.deadline(LIMIT),
            Some(Time(110)),
            "a retry is not younger"
        );
        assert!(!tracking.overdue(Time(109), LIMIT));
        assert!(tracking.overdue(Time(110), LIMIT));
        assert!(!tracking.overdue(Time(209), LIMIT), "each waits anew");
        assert!(tracking.overdue(Time(210), LIMIT));
    }

    #[test]
    fn a_new_leader_gets_as_much_time_as_the_old_one() {
        let mut tracking = Tracking::default();
        tracking.track(&calls(ALICE, 1..2).view(), Time(10));
        tracking.restart(Time(90));
        assert_eq!(tracking.deadline(LIMIT), Some(Time(190)));
        assert!(!tracking.overdue(Time(189), LIMIT));
    }
}
