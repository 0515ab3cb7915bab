//! One session of a client: a ring of calls that are numbered from 1 and not yet resolved.
//!
//! The learners execute a number `seq` only if it is above `max − 64` and at most `max + 64`, where `max` is the
//! largest number they have executed (PROTOCOL.md section 5.1). The client keeps to numbers that can never miss that:
//! below the oldest unresolved number + 64, whatever was executed, and at most 64 above the largest number
//! whose commit it knows.

use crate::batch::{Request, RequestKind};
use crate::types::{Seq, SessionId, Time};

use super::CallRefused;
use super::tally::{KEPT_BYTES_MAX, Tally};

/// The most unresolved numbers of one session (PROTOCOL.md section 5.1).
pub(super) const UNRESOLVED_MAX: u64 = 64;

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The slot is free.
    Closed,
    /// Its Open is under way, with this nonce.
    Opening(Seq),
    /// The learners know it.
    Open(SessionId),
    /// The learners dropped it.
    Lapsed(SessionId),
}

/// One call that is not resolved, or a slot that waits for the next.
#[derive(Debug, Default)]
pub(super) struct Call {
    pub(super) seq: Seq,
    /// The host's name for it.
    pub(super) token: u64,
    /// When it was made.
    pub(super) since: Time,
    /// When the host wants an end of it.
    pub(super) deadline: Time,
    /// When it is to be sent (again) to everybody.
    pub(super) due: Time,
    /// How many copies of it were sent, by earlier calls under its number too.
    pub(super) sent: u32,
    /// Whether it is sent again for what the learners remember of it, not because an answer is overdue.
    pub(super) looked_up: bool,
    /// The bundle in which it was sent first.
    pub(super) bundle: u64,
    pub(super) operation: Vec<u8>,
    pub(super) tally: Tally,
}

/// One session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) generation: u32,
    pub(super) state: State,
    pub(super) calls: Box<[Call]>,
    /// Which slots hold an unresolved call, by bit.
    pub(super) active: u64,
    /// Which of those were never sent.
    pub(super) unsent: u64,
    /// Whether it stands in the core's list of sessions with unsent calls.
    pub(super) listed: bool,
    /// The next number.
    next: u64,
    /// The oldest unresolved number; `next` if there is none.
    oldest: u64,
    /// The largest number whose commit is known.
    committed: u64,
}

impl Session {
    /// A free slot for up to `window` unresolved calls at a time.
    pub(super) fn new(window: usize) -> Session {
        assert!(
            (1..=64).contains(&window),
            "a session has 1 to 64 unresolved calls"
        );
        Session {
            generation: 0,
            state: State::Closed,
            calls: (0..window).map(|_| Call::default()).collect(),
            active: 0,
            unsent: 0,
            listed: false,
            next: 1,
            oldest: 1,
            committed: 0,
        }
    }

    /// Begins anew with an Open under way; returns the place of its call.
    pub(super) fn begin(&mut self, nonce: Seq) -> usize {
        assert!(
            self.active == 0 && self.state == State::Closed,
            "only a free slot can begin"
        );
        self.state = State::Opening(nonce);
        (self.next, self.oldest, self.committed) = (1, 1, 0);
        (self.calls[0].seq, self.calls[0].sent) = (nonce, 0);
        self.activate(0);
        0
    }

    /// How many calls it takes right now.
    pub(super) fn room(&self) -> usize {
        let limit = self.limit();
        usize::try_from(limit.saturating_sub(self.next)).unwrap_or(usize::MAX)
    }

    /// The first number that may not be used yet.
    fn limit(&self) -> u64 {
        (self.oldest + self.calls.len() as u64).min(self.committed + UNRESOLVED_MAX + 1)
    }

    /// Takes the next number; returns the place of its call.
    pub(super) fn take_next(&mut self) -> Result<usize, CallRefused> {
        if self.next >= self.limit() {
            return Err(if self.active == 0 {
                CallRefused::Exhausted
            } else {
                CallRefused::WouldBlock
            });
        }
        let place = self.place(self.next);
        (self.calls[place].seq, self.calls[place].sent) = (Seq(self.next), 0);
        self.next += 1;
        self.activate(place);
        Ok(place)
    }

    /// Takes a number again whose call ended.
    pub(super) fn take_again(&mut self, seq: Seq) -> Result<usize, CallRefused> {
        let place = self.place(seq.0);
        let known = self.calls[place].seq == seq && self.active & (1 << place) == 0;
        // Not beyond the window: a larger number may have been executed, up to the last one used.
        if !known || seq.0 == 0 || seq.0 >= self.next || self.next - seq.0 > UNRESOLVED_MAX {
            return Err(CallRefused::NotAgain(seq));
        }
        self.oldest = self.oldest.min(seq.0);
        self.activate(place);
        Ok(place)
    }

    /// The place of the unresolved call with this number.
    pub(super) fn find(&self, seq: Seq) -> Option<usize> {
        let place = match self.state {
            State::Opening(_) => 0,
            _ => self.place(seq.0),
        };
        (self.active & (1 << place) != 0 && self.calls[place].seq == seq).then_some(place)
    }

    /// The call at `place` is resolved.
    pub(super) fn resolve(&mut self, place: usize, committed: bool) {
        assert!(
            self.active & (1 << place) != 0,
            "only an unresolved call can be resolved"
        );
        self.active &= !(1 << place);
        self.unsent &= !(1 << place);
        let call = &mut self.calls[place];
        call.tally.reset();
        call.operation.clear();
        call.operation.shrink_to(KEPT_BYTES_MAX);
        if matches!(self.state, State::Opening(_)) {
            // The number of an Open is a nonce; it must not be taken for a number that could be called again.
            call.seq = Seq(0);
            return;
        }
        if committed {
            self.committed = self.committed.max(call.seq.0);
        }
        while self.oldest < self.next && !self.unresolved(self.oldest) {
            self.oldest += 1;
        }
    }

    /// The call at `place` as a request.
    pub(super) fn request(&self, place: usize) -> Request<'_> {
        let call = &self.calls[place];
        let (kind, session) = match self.state {
            State::Open(session) | State::Lapsed(session) => (RequestKind::Operation, session),
            State::Opening(_) | State::Closed => (RequestKind::Open, SessionId::NONE),
        };
        Request {
            kind,
            session,
            seq: call.seq,
            operation: &call.operation,
        }
    }

    /// The places whose bit is set in `bits`, in the order of their numbers.
    pub(super) fn in_order(&self, bits: u64) -> impl Iterator<Item = usize> + use<> {
        let start = self.place(self.oldest);
        let low = (1_u64 << start) - 1;
        let mut parts = [bits & !low, bits & low];
        std::iter::from_fn(move || {
            let part = parts.iter_mut().find(|part| **part != 0)?;
            let place = part.trailing_zeros();
            *part &= *part - 1;
            Some(place as usize)
        })
    }

    fn unresolved(&self, seq: u64) -> bool {
        let place = self.place(seq);
        self.active & (1 << place) != 0 && self.calls[place].seq.0 == seq
    }

    fn activate(&mut self, place: usize) {
        self.active |= 1 << place;
        self.unsent |= 1 << place;
    }

    fn place(&self, seq: u64) -> usize {
        usize::try_from(seq % self.calls.len() as u64).expect("a place is below 64")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Decree;

    fn open(window: usize) -> Session {
        let mut session = Session::new(window);
        let place = session.begin(Seq(77));
        assert_eq!(session.find(Seq(77)), Some(place));
        session.resolve(place, false);
        session.state = State::Open(SessionId {
            decree: Decree(1),
            index: 0,
        });
        session
    }

    fn take(session: &mut Session) -> Seq {
        let place = session.take_next().unwrap();
        session.calls[place].seq
    }

    #[test]
    fn sixty_four_numbers_from_the_oldest_unresolved_one() {
        let mut session = open(64);
        for seq in 1..=64 {
            assert_eq!(take(&mut session), Seq(seq));
        }
        assert_eq!(session.take_next(), Err(CallRefused::WouldBlock));
        assert_eq!(session.room(), 0);
        // All but the oldest are resolved: the next number is still 64 above it.
        for seq in 2..=64 {
            session.resolve(session.find(Seq(seq)).unwrap(), true);
        }
        assert_eq!(session.take_next(), Err(CallRefused::WouldBlock));
        session.resolve(session.find(Seq(1)).unwrap(), true);
        assert_eq!(session.room(), 64);
        assert_eq!(take(&mut session), Seq(65));
    }

    #[test]
    fn numbers_stay_within_64_of_what_is_known_to_be_executed() {
        let mut session = open(64);
        for _ in 0..64 {
            let place = session.take_next().unwrap();
            session.resolve(place, false);
        }
        assert_eq!(
            session.take_next(),
            Err(CallRefused::Exhausted),
            "65 could be too far"
        );
        let place = session.take_again(Seq(1)).unwrap();
        assert_eq!(session.take_next(), Err(CallRefused::WouldBlock));
        session.resolve(place, true);
        assert_eq!(
            take(&mut session),
            Seq(65),
            "1 is executed, so 65 is in reach"
        );
    }

    #[test]
    fn only_ended_numbers_within_reach_can_be_called_again() {
        let mut session = open(4);
        let again = |session: &mut Session, seq| session.take_again(Seq(seq)).map(|_| ());
        assert_eq!(
            again(&mut session, 1),
            Err(CallRefused::NotAgain(Seq(1))),
            "never used"
        );
        assert_eq!(again(&mut session, 0), Err(CallRefused::NotAgain(Seq(0))));
        assert_eq!(
            again(&mut session, 77),
            Err(CallRefused::NotAgain(Seq(77))),
            "the nonce of the Open"
        );
        let place = session.take_next().unwrap();
        assert_eq!(
            again(&mut session, 1),
            Err(CallRefused::NotAgain(Seq(1))),
            "unresolved"
        );
        session.resolve(place, false);
        assert_eq!(again(&mut session, 1), Ok(()));
        assert_eq!(session.room(), 3, "it counts as the oldest again");
        session.resolve(place, true);
        for _ in 0..4 {
            let place = session.take_next().unwrap();
            session.resolve(place, true);
        }
        assert_eq!(
            again(&mut session, 1),
            Err(CallRefused::NotAgain(Seq(1))),
            "its slot is taken"
        );
    }

    #[test]
    fn the_order_is_that_of_the_numbers_when_the_ring_wraps() {
        let mut session = open(4);
        for _ in 0..3 {
            let place = session.take_next().unwrap();
            session.resolve(place, true);
        }
        for _ in 0..4 {
            take(&mut session);
        }
        let seqs: Vec<u64> = session
            .in_order(session.unsent)
            .map(|place| session.calls[place].seq.0)
            .collect();
        assert_eq!(seqs, [4, 5, 6, 7]);
        let one = open(1);
        assert_eq!(one.in_order(1).collect::<Vec<_>>(), [0]);
    }
}
