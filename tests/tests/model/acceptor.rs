//! A correct acceptor of the model, in a few bytes: what the rules read, and what it told the others.
//!
//! What it told stays true for ever (links lose and reorder, so a message may arrive at any later time). That is why
//! the network needs no state of its own: everything that could be received is written here.

use twostep_engine::quorum::{Choice, Reported};
use twostep_engine::rules::{Ballot, Rules, Verdict};
use twostep_engine::types::{Digest, Regency, Value};

/// The largest number of regencies that a state has room for.
pub const REGENCIES_MAX: usize = 4;

/// A value of the decree, by its letter: 0 is A, 1 is B and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Letter(pub u8);

impl Letter {
    /// The value of the engine that stands for this letter.
    pub fn value(self) -> Value {
        Value(Digest([self.0; 32]))
    }

    /// The letter that an engine's value stands for.
    pub fn of(value: Value) -> Letter {
        Letter(value.0.0[0])
    }
}

impl std::fmt::Display for Letter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", char::from(b'A' + self.0))
    }
}

/// A vote for the decree; in a report, the newest one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vote {
    /// The regency of the vote.
    pub psn: u8,
    /// Its value.
    pub letter: Letter,
}

impl Vote {
    /// The same in the engine's words.
    pub fn reported(self) -> Reported {
        Reported {
            psn: Regency(u64::from(self.psn)),
            value: self.letter.value(),
        }
    }
}

/// What a voucher binds: [`Choice`] in one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Plan {
    /// Any value.
    Free,
    /// Only this one.
    Must(Letter),
}

impl Plan {
    /// The engine's choice in one byte.
    pub fn of(choice: Choice) -> Plan {
        match choice {
            Choice::Free => Plan::Free,
            Choice::Must(value) => Plan::Must(Letter::of(value)),
        }
    }

    /// The same in the engine's words.
    pub fn choice(self) -> Choice {
        match self {
            Plan::Free => Choice::Free,
            Plan::Must(letter) => Choice::Must(letter.value()),
        }
    }
}

/// One correct acceptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Acceptor {
    /// The regency that it promised.
    pub promised: u8,
    /// The plan of that regency; kept only where plans and proposals are steps of their own.
    pub plan: Option<Plan>,
    /// Its newest vote.
    pub vote: Option<Vote>,
    /// Per regency: the report that it sent on entering it, if it entered it; inside, the vote reported.
    pub reports: [Option<Option<Vote>>; REGENCIES_MAX],
    /// Per regency: the values that it told learners it voted, one bit for each letter.
    pub told: [u8; REGENCIES_MAX],
}

impl Acceptor {
    /// Enters a regency: promises it and reports.
    #[must_use]
    pub fn entered(mut self, regency: u8) -> Acceptor {
        assert!(regency > self.promised, "a regency is entered once");
        self.promised = regency;
        self.plan = None;
        self.reports[usize::from(regency)] = Some(self.vote);
        self
    }

    /// What becomes of it when it gets this proposal and holds this plan; `None` if nothing does. A proposal of a
    /// higher regency comes with that regency's voucher, so it enters first.
    pub fn voted<R: Rules + ?Sized>(
        mut self,
        rules: &R,
        regency: u8,
        letter: Letter,
        plan: Option<Plan>,
    ) -> Option<Acceptor> {
        if regency > self.promised {
            self = self.entered(regency);
        }
        if self.judged(rules, regency, letter, plan) != Some(Verdict::Vote) {
            return None;
        }
        self.vote = Some(Vote {
            psn: regency,
            letter,
        });
        self.told[usize::from(regency)] |= 1 << letter.0;
        Some(self)
    }

    /// What the vote rule says of a proposal, given this plan; `None` if it refuses.
    pub fn judged<R: Rules + ?Sized>(
        &self,
        rules: &R,
        regency: u8,
        letter: Letter,
        plan: Option<Plan>,
    ) -> Option<Verdict> {
        let ballot = Ballot {
            promised: Regency(u64::from(self.promised)),
            plan: plan.map(Plan::choice),
            vote: self.vote.map(Vote::reported),
        };
        rules
            .vote(&ballot, Regency(u64::from(regency)), letter.value())
            .ok()
    }

    /// Whether it told learners that it voted so.
    pub fn has_told(&self, regency: u8, letter: Letter) -> bool {
        self.told[usize::from(regency)] & (1 << letter.0) != 0
    }
}
