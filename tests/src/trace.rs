//! What happened, twice: as a hash over every event, to compare runs, and as lines, for people.

use std::fmt;

use twostep_engine::types::Time;

/// How many leading bytes of a message the hash covers. The value in the head of a `Propose` covers its body.
const HEAD_BYTES: usize = 96;
/// The hash takes bytes in lots of this size, which is far cheaper than event by event.
const LOT_BYTES: usize = 16 << 10;

/// The record of one run.
#[derive(Debug, Default)]
pub struct Trace {
    hasher: blake3::Hasher,
    lot: Vec<u8>,
    events: u64,
    lines: Option<Vec<Line>>,
}

/// One thing that happened, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When.
    pub at: Time,
    /// What.
    pub text: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>14}  {}", self.at.0, self.text)
    }
}

/// What kind of event is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A message reached its receiver.
    Arrived = 1,
    /// Records became durable.
    Stored = 2,
    /// A decree was executed.
    Executed = 3,
    /// A turn ended.
    Tick = 4,
    /// A client had its turn.
    Turn = 5,
    /// A look-up was answered.
    Asked = 6,
    /// A fault struck or ended.
    Fault = 7,
}

impl Trace {
    /// An empty trace that keeps lines only if they are `wanted`.
    #[must_use]
    pub fn new(wanted: bool) -> Trace {
        Trace {
            lines: wanted.then(Vec::new),
            ..Trace::default()
        }
    }

    /// Notes an event at `who` with what it carried.
    pub fn event(&mut self, at: Time, kind: Kind, who: u64, bytes: &[u8]) {
        self.events += 1;
        let head = &bytes[..bytes.len().min(HEAD_BYTES)];
        self.lot.extend_from_slice(&at.0.to_le_bytes());
        self.lot.extend_from_slice(&who.to_le_bytes());
        self.lot.push(kind as u8);
        self.lot
            .extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        self.lot.extend_from_slice(head);
        if self.lot.len() >= LOT_BYTES {
            self.hasher.update(&self.lot);
            self.lot.clear();
        }
    }

    /// Whether lines are kept.
    #[must_use]
    pub fn wants_lines(&self) -> bool {
        self.lines.is_some()
    }

    /// Adds a line, which is made only if lines are kept.
    pub fn line(&mut self, at: Time, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(Line { at, text: line() });
        }
    }

    /// Takes the lines kept so far.
    pub fn take_lines(&mut self) -> Vec<Line> {
        self.lines.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// How many events there were.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The hash of all events so far, in hexadecimal.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut hasher = self.hasher.clone();
        hasher.update(&self.lot);
        hasher.finalize().to_hex().to_string()
    }
}
