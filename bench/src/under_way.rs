//! The calls that a load has under way: what each is for, and what its history will say of it.
//!
//! A call's token is its place here. Places are reused, so there are as many as calls were ever under way at once, and nothing
//! allocates once they are there. When the load ends, what is still under way stands in the history as open.

use std::io;

use twostep_engine::client::{CallOutcome, CallRefused, ClientCore, SessionHandle};
use twostep_engine::types::{Seq, SessionId, Time};

use crate::recording::Recording;

/// One call, or a free place.
#[derive(Debug)]
struct Made<T> {
    /// What it is for; none in a free place.
    about: Option<T>,
    session: SessionId,
    seq: Seq,
    invoked: u64,
    /// Empty unless a history is written.
    operation: Vec<u8>,
}

/// The calls under way, each with what its load knows about it.
#[derive(Debug)]
pub struct UnderWay<T> {
    calls: Vec<Made<T>>,
    free: Vec<usize>,
    recording: Recording,
}

impl<T> UnderWay<T> {
    /// None, and what is called is recorded.
    #[must_use]
    pub fn new(recording: Recording) -> UnderWay<T> {
        UnderWay {
            calls: Vec::new(),
            free: Vec::new(),
            recording,
        }
    }

    /// Makes a call.
    ///
    /// # Errors
    /// [`CallRefused`], and then nothing is under way.
    pub fn call(
        &mut self,
        core: &mut ClientCore,
        (handle, session): (SessionHandle, SessionId),
        operation: &[u8],
        about: T,
        now: Time,
    ) -> Result<Seq, CallRefused> {
        let make = |token| core.call(handle, operation, token, now);
        self.call_with(make, session, operation, |_| about)
    }

    /// Makes a call as `make` does with its token, in a session that is open; `about` is told its number.
    ///
    /// # Errors
    /// [`CallRefused`], and then nothing is under way.
    pub fn call_with(
        &mut self,
        make: impl FnOnce(u64) -> Result<Seq, CallRefused>,
        session: SessionId,
        operation: &[u8],
        about: impl FnOnce(Seq) -> T,
    ) -> Result<Seq, CallRefused> {
        let invoked = self.recording.time();
        let place = self.free.last().copied().unwrap_or(self.calls.len());
        let seq = make(place as u64)?;
        self.free.pop();
        self.begin(place, (session, seq), invoked, operation, about(seq));
        Ok(seq)
    }

    fn begin(
        &mut self,
        place: usize,
        (session, seq): (SessionId, Seq),
        invoked: u64,
        operation: &[u8],
        about: T,
    ) {
        if place == self.calls.len() {
            self.calls.push(Made {
                about: None,
                session,
                seq,
                invoked,
                operation: Vec::new(),
            });
        }
        let made = &mut self.calls[place];
        (made.about, made.session, made.seq, made.invoked) = (Some(about), session, seq, invoked);
        if self.recording.is_on() {
            made.operation.clear();
            made.operation.extend_from_slice(operation);
        }
    }

    /// A call has ended; what it was for.
    ///
    /// # Panics
    /// If no call with this token is under way: the client core ends each call once.
    pub fn ended(&mut self, token: u64, outcome: &CallOutcome<'_>) -> T {
        let place = usize::try_from(token).expect("tokens are places");
        let made = &mut self.calls[place];
        let about = made.about.take().expect("a call ends once");
        let (session, seq) = (made.session, made.seq);
        self.recording
            .record(made.invoked, session, seq, &made.operation, outcome);
        self.free.push(place);
        about
    }

    /// Ends the history.
    ///
    /// # Errors
    /// When a part of it could not be written.
    pub fn finish(mut self) -> io::Result<()> {
        for made in self.calls.iter().filter(|made| made.about.is_some()) {
            let (session, seq) = (made.session, made.seq);
            let unknown = CallOutcome::Unknown { session, seq };
            self.recording
                .record(made.invoked, session, seq, &made.operation, &unknown);
        }
        self.recording.finish()
    }
}
