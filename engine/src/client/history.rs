//! What a client saw: one line for every call, from which anybody can judge whether the cluster kept its word.
//!
//! ```text
//! twostep-history 1
//! INVOKED ANSWERED SESSION SEQ OPERATION OUTCOME         one line for each call, in the order in which calls ended
//! end COUNT                                              so that a history that was cut short is told from a whole one
//!
//! 81220 99120 7.0 3 0402006b31… committed 12 0304…       times in nanoseconds of one monotonic clock, bytes in hexadecimal
//! 81300 99120 7.0 4 0402006b31… committed 12 gone        executed, but no learner keeps the reply
//! 81300 99130 7.1 9 0402006b31… rejected stale           never executed
//! 81300 99130 7.1 9 0402006b31… busy                     never sent
//! 81300 -     7.2 1 0402006b31… unknown                  open to the end: it may take effect at any later time, or never
//! ```
//!
//! A call under one number of a session that is made again stands there once more, with the same operation.
//!
//! *Order.* A recorder takes the time of a call before it is sent and that of its answer after it has come, and no time twice:
//! what has the lower time happened before, for the client. Histories of several clients of one machine share its clock.
//!
//! *Cost.* A line of twice the operation's and the reply's bytes and about 60 more, in one buffered write. *Bounds.* The
//! recorder keeps nothing; who makes the calls keeps those under way. A reader takes lines of [`LINE_BYTES_MAX`] and
//! [`CALLS_MAX`] calls.

use std::io::{self, BufRead, Read, Write};

use thiserror::Error;

use super::{CallOutcome, Rejection};
use crate::types::{Decree, Seq, SessionId};

/// The first line.
const HEAD: &str = "twostep-history 1";
/// The longest line that is read: the largest request and reply that a cluster can be configured for, and more. Bytes.
pub const LINE_BYTES_MAX: u64 = 64 << 20;
/// The most calls that are read.
pub const CALLS_MAX: usize = 50_000_000;

/// One call of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// When it was made. Nanoseconds of a monotonic clock.
    pub invoked: u64,
    /// When it ended; none if its outcome is unknown, so that it is open for ever.
    pub answered: Option<u64>,
    /// Its session.
    pub session: SessionId,
    /// Its number.
    pub seq: Seq,
    /// What the state machine was asked.
    pub operation: Vec<u8>,
    /// How it ended.
    pub end: End,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It was executed.
    Committed {
        /// In this decree.
        decree: Decree,
        /// With this reply; none if no learner keeps it.
        reply: Option<Vec<u8>>,
    },
    /// It was never executed.
    Rejected(Rejection),
    /// It was never sent.
    Busy,
    /// Nobody knows.
    Unknown,
}

/// Why a history cannot be read.
#[derive(Debug, Error)]
pub enum HistoryError {
    /// Reading failed.
    #[error("cannot read: {0}")]
    Io(#[from] io::Error),
    /// The first line is another one.
    #[error("line 1: expected \"{HEAD}\", found \"{0:.60}\"; is it a history, of this version?")]
    Head(String),
    /// A line is none of a history.
    #[error("line {line}: expected {expected}, found \"{found:.60}\"")]
    Line {
        /// Which.
        line: usize,
        /// What should stand there.
        expected: &'static str,
        /// What does.
        found: String,
    },
    /// It has no end.
    #[error(
        "it ends after {0} calls without its last line: the recorder was stopped, so calls that were under way are missing"
    )]
    CutShort(usize),
    /// It has more calls than are read.
    #[error("it has more than {CALLS_MAX} calls; record fewer")]
    TooLong,
}

/// Writes a history, call by call.
#[derive(Debug)]
pub struct Recorder<W> {
    out: W,
    line: Vec<u8>,
    calls: u64,
    failed: Option<io::Error>,
}

impl<W: Write> Recorder<W> {
    /// Begins a history.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(mut out: W) -> io::Result<Recorder<W>> {
        writeln!(out, "{HEAD}")?;
        Ok(Recorder {
            out,
            line: Vec::new(),
            calls: 0,
            failed: None,
        })
    }

    /// Writes a call that ended, or one that has not when the history ends. The first error ends the recording, and
    /// [`finish`](Recorder::finish) tells of it.
    pub fn record(
        &mut self,
        times: (u64, u64),
        session: SessionId,
        seq: Seq,
        operation: &[u8],
        outcome: &CallOutcome<'_>,
    ) {
        if self.failed.is_some() {
            return;
        }
        self.line.clear();
        let line = &mut self.line;
        let (invoked, answered) = times;
        let written = match outcome {
            CallOutcome::Unknown { .. } => write!(line, "{invoked} - {session} {seq} "),
            _ => write!(line, "{invoked} {answered} {session} {seq} "),
        };
        written.expect("writing to memory does not fail");
        push_hex(operation, line);
        match outcome {
            CallOutcome::Committed { decree, reply } => {
                write!(line, " committed {decree} ").expect("writing to memory does not fail");
                match reply {
                    Some(reply) => push_hex(reply, line),
                    None => line.extend_from_slice(b"gone"),
                }
            }
            CallOutcome::Rejected(why) => {
                line.extend_from_slice(b" rejected ");
                line.extend_from_slice(word_of(*why).as_bytes());
            }
            CallOutcome::Busy { .. } => line.extend_from_slice(b" busy"),
            CallOutcome::Unknown { .. } => line.extend_from_slice(b" unknown"),
        }
        line.push(b'\n');
        self.calls += 1;
        self.failed = self.out.write_all(line).err();
    }

    /// Ends the history.
    ///
    /// # Errors
    /// When a part of it could not be written.
    pub fn finish(mut self) -> io::Result<()> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        writeln!(self.out, "end {}", self.calls)?;
        self.out.flush()
    }
}

/// Reads a whole history.
///
/// # Errors
/// [`HistoryError`]: the first thing that is not as it should be.
pub fn read(mut input: impl BufRead) -> Result<Vec<Call>, HistoryError> {
    let mut text = String::new();
    let mut next = |text: &mut String| {
        text.clear();
        input.by_ref().take(LINE_BYTES_MAX).read_line(text)
    };
    next(&mut text)?;
    if text.trim_end() != HEAD {
        return Err(HistoryError::Head(text.trim_end().to_owned()));
    }
    let mut calls = Vec::new();
    loop {
        let length = next(&mut text)?;
        if length == 0 || !text.ends_with('\n') {
            return Err(HistoryError::CutShort(calls.len()));
        }
        let wrong = |expected| HistoryError::Line {
            line: calls.len() + 2,
            expected,
            found: text.trim_end().to_owned(),
        };
        if let Some(count) = text.strip_prefix("end ") {
            if count.trim_end().parse() != Ok(calls.len()) {
                return Err(wrong("the number of calls above"));
            }
            return Ok(calls);
        }
        if calls.len() == CALLS_MAX {
            return Err(HistoryError::TooLong);
        }
        let call = parse(text.trim_end()).map_err(wrong)?;
        calls.push(call);
    }
}

fn parse(line: &str) -> Result<Call, &'static str> {
    const NUMBER: &str = "a number of 64 bits";
    const HEX: &str = "bytes in hexadecimal";
    let mut words = line.split_ascii_whitespace();
    let mut word = || {
        words
            .next()
            .ok_or("INVOKED ANSWERED SESSION SEQ OPERATION OUTCOME")
    };
    let number = |word: &str| word.parse::<u64>().map_err(|_| NUMBER);
    let invoked = number(word()?)?;
    let answered = match word()? {
        "-" => None,
        time => Some(number(time)?),
    };
    let (decree, index) = word()?
        .split_once('.')
        .ok_or("a session such as 7.0, its decree and place")?;
    let session = SessionId {
        decree: Decree(number(decree)?),
        index: index.parse().map_err(|_| "a number of 32 bits")?,
    };
    let seq = Seq(number(word()?)?);
    let operation = from_hex(word()?).ok_or(HEX)?;
    let end = match word()? {
        "committed" => End::Committed {
            decree: Decree(number(word()?)?),
            reply: match word()? {
                "gone" => None,
                reply => Some(from_hex(reply).ok_or(HEX)?),
            },
        },
        "rejected" => End::Rejected(rejection(word()?).ok_or("the reason of a rejection")?),
        "busy" => End::Busy,
        "unknown" => End::Unknown,
        _ => return Err("committed, rejected, busy or unknown"),
    };
    if words.next().is_some() {
        return Err("nothing behind the outcome");
    }
    match (&end, answered) {
        (End::Unknown, None) => {}
        (End::Unknown, Some(_)) => return Err("no answer to what ended as unknown"),
        (_, Some(answered)) if answered >= invoked => {}
        _ => return Err("an answer after the call"),
    }
    Ok(Call {
        invoked,
        answered,
        session,
        seq,
        operation,
        end,
    })
}

const REJECTIONS: [(Rejection, &str); 5] = [
    (Rejection::Stale, "stale"),
    (Rejection::TooFar, "too-far"),
    (Rejection::SeqReused, "seq-reused"),
    (Rejection::SessionLapsed, "session-lapsed"),
    (Rejection::NeverSent, "never-sent"),
];

fn word_of(why: Rejection) -> &'static str {
    let entry = REJECTIONS.iter().find(|(rejection, _)| *rejection == why);
    entry.expect("the table names every reason").1
}

fn rejection(word: &str) -> Option<Rejection> {
    let entry = REJECTIONS.iter().find(|(_, name)| *name == word)?;
    Some(entry.0)
}

/// Appends bytes in hexadecimal; `.` if there are none, so that no word is empty.
fn push_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    if bytes.is_empty() {
        out.push(b'.');
    }
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if text == "." {
        return Some(Vec::new());
    }
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let pair = |pair: &[u8]| match pair {
        [high, low] => u8::try_from(digit(*high)? << 4 | digit(*low)?).ok(),
        _ => None,
    };
    text.as_bytes().chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SESSION: SessionId = SessionId {
        decree: Decree(7),
        index: 2,
    };

    fn outcomes() -> [CallOutcome<'static>; 6] {
        [
            CallOutcome::Committed {
                decree: Decree(12),
                reply: Some(&[3, 255]),
            },
            CallOutcome::Committed {
                decree: Decree(12),
                reply: Some(&[]),
            },
            CallOutcome::Committed {
                decree: Decree(u64::MAX),
                reply: None,
            },
            CallOutcome::Rejected(Rejection::SessionLapsed),
            CallOutcome::Busy {
                retry_after: Duration::ZERO,
            },
            CallOutcome::Unknown {
                session: SESSION,
                seq: Seq(9),
            },
        ]
    }

    fn written() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut recorder = Recorder::begin(&mut bytes).unwrap();
        for (at, outcome) in (0..).zip(outcomes()) {
            recorder.record((at, at + 5), SESSION, Seq(9), &[4, 0, 0xab], &outcome);
        }
        recorder.finish().unwrap();
        bytes
    }

    #[test]
    fn what_was_written_is_read() {
        let calls = read(&written()[..]).unwrap();
        assert_eq!(calls.len(), outcomes().len());
        assert!(calls.iter().all(|call| call.session == SESSION
            && call.seq == Seq(9)
            && call.operation == [4, 0, 0xab]));
        let ends: Vec<&End> = calls.iter().map(|call| &call.end).collect();
        let committed = |decree, reply: Option<&[u8]>| End::Committed {
            decree: Decree(decree),
            reply: reply.map(<[u8]>::to_vec),
        };
        let expected = [
            committed(12, Some(&[3, 255])),
            committed(12, Some(&[])),
            committed(u64::MAX, None),
            End::Rejected(Rejection::SessionLapsed),
            End::Busy,
            End::Unknown,
        ];
        assert_eq!(ends, expected.iter().collect::<Vec<_>>());
        assert_eq!((calls[0].invoked, calls[0].answered), (0, Some(5)));
        assert_eq!((calls[5].invoked, calls[5].answered), (5, None));
        for (why, word) in REJECTIONS {
            assert_eq!(rejection(word), Some(why));
        }
    }

    #[test]
    fn a_history_that_was_cut_anywhere_is_refused() {
        let bytes = written();
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_err(), "cut after {length} bytes");
        }
    }

    #[test]
    fn errors_say_which_line_and_what_was_expected() {
        let error = |text: &str| {
            let text = format!("{HEAD}\n{text}\nend 1\n");
            read(text.as_bytes()).unwrap_err().to_string()
        };
        for (line, expected) in [
            ("1 2 7.0 3", "line 2: expected INVOKED ANSWERED"),
            ("x 2 7.0 3 . busy", "line 2: expected a number of 64 bits"),
            ("1 2 7 3 . busy", "expected a session such as 7.0"),
            ("1 2 7.0 3 0g busy", "expected bytes in hexadecimal"),
            ("1 2 7.0 3 abc busy", "expected bytes in hexadecimal"),
            ("1 2 7.0 3 . rejected me", "the reason of a rejection"),
            ("1 2 7.0 3 . lost", "committed, rejected, busy or unknown"),
            ("1 2 7.0 3 . busy 4", "nothing behind the outcome"),
            ("2 1 7.0 3 . busy", "an answer after the call"),
            ("1 2 7.0 3 . unknown", "no answer"),
            ("1 - 7.0 3 . busy", "an answer after the call"),
            ("end 3", "the number of calls above"),
        ] {
            let found = error(line);
            assert!(found.contains(expected), "{line}: {found}");
        }
        let head = read(&b"seq,time\n"[..]).unwrap_err().to_string();
        assert!(head.contains("is it a history"), "{head}");
        assert!(matches!(read(&[0xff, 0xfe][..]), Err(HistoryError::Io(_))));
    }

    #[test]
    fn the_first_error_of_writing_is_told_at_the_end() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = self
                    .0
                    .checked_sub(bytes.len())
                    .ok_or(io::ErrorKind::StorageFull)?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut recorder = Recorder::begin(Full(60)).unwrap();
        for _ in 0..3 {
            recorder.record((1, 2), SESSION, Seq(1), &[4; 20], &outcomes()[4]);
        }
        let error = recorder.finish().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
