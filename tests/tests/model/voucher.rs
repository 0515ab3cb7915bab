//! Vouchers, as bags of reports, and what `select` makes of each.
//!
//! A report about one decree says "no vote" or "psn p, value v" with p below the regency reported for. A voucher is
//! a bag of such kinds, so all vouchers for a regency are a short table. `select` of the rules under test is run over
//! **every order** of every bag, since a lying leader also picks the order; which bags can be had in a state depends
//! on the reports that the correct acceptors sent there (see [`Table::plans`]).

use twostep_engine::quorum::{Quorums, Reported};
use twostep_engine::rules::Rules;

use super::acceptor::{Acceptor, Letter, Plan, Vote};

/// A set of plans: bit 0 is `Free`, bit 1 + letter is `Must(letter)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plans(u8);

impl Plans {
    /// Adds one.
    pub fn insert(&mut self, plan: Plan) {
        self.0 |= Plans::bit(plan);
    }

    /// Adds all of the other set.
    pub fn extend(&mut self, other: Plans) {
        self.0 |= other.0;
    }

    /// Whether it is among them.
    pub fn contains(self, plan: Plan) -> bool {
        self.0 & Plans::bit(plan) != 0
    }

    /// Those among `letters` values.
    pub fn iter(self, letters: u8) -> impl Iterator<Item = Plan> {
        std::iter::once(Plan::Free)
            .chain((0..letters).map(|letter| Plan::Must(Letter(letter))))
            .filter(move |plan| self.contains(*plan))
    }

    fn bit(plan: Plan) -> u8 {
        match plan {
            Plan::Free => 1,
            Plan::Must(letter) => 2 << letter.0,
        }
    }
}

/// What reports can say: kind 0 is "no vote", kind `1 + psn·letters + letter` a vote.
#[derive(Clone, Copy, Debug)]
pub struct Kinds {
    /// The values of the model.
    pub letters: u8,
}

impl Kinds {
    /// How many kinds a report for this regency can be of.
    pub fn count(self, regency: u8) -> usize {
        1 + usize::from(regency) * usize::from(self.letters)
    }

    /// The kind of a report.
    pub fn of(self, report: Option<Vote>) -> usize {
        report.map_or(0, |vote| {
            1 + usize::from(vote.psn) * usize::from(self.letters) + usize::from(vote.letter.0)
        })
    }

    /// The report of a kind.
    pub fn report(self, kind: usize) -> Option<Vote> {
        let vote = u8::try_from(kind.checked_sub(1)?).expect("kinds are few");
        Some(Vote {
            psn: vote / self.letters,
            letter: Letter(vote % self.letters),
        })
    }
}

/// One bag of reports.
#[derive(Clone, Debug)]
pub struct Voucher {
    /// How many reports of each kind.
    pub counts: Vec<u8>,
    /// What `select` makes of it, over all orders.
    pub plans: Plans,
}

/// Whose reports a voucher may hold besides those that correct acceptors sent.
#[derive(Clone, Copy, Debug)]
pub struct Signers {
    /// Acceptors that sign anything.
    pub liars: usize,
    /// Whether one signer may stand in a voucher several times (PROTOCOL.md section 6, S3).
    pub repeat: bool,
}

impl Voucher {
    /// How many of its reports only liars can have signed, given how many correct acceptors sent each kind; `None`
    /// if it cannot be had.
    pub fn lies(&self, sent: &[u8], signers: Signers) -> Option<usize> {
        let mut lies = 0;
        for (needed, sent) in self.counts.iter().zip(sent) {
            let once = !signers.repeat || *sent == 0;
            if once {
                lies += usize::from(needed.saturating_sub(*sent));
            }
        }
        let possible = lies <= signers.liars || (signers.repeat && signers.liars > 0);
        possible.then_some(lies)
    }
}

/// Every voucher for one regency.
#[derive(Clone, Debug)]
pub struct Table {
    vouchers: Vec<Voucher>,
    kinds: Kinds,
    regency: u8,
}

impl Table {
    /// Runs `select` over every order of every bag of one report quorum.
    pub fn new<R: Rules + ?Sized>(
        rules: &R,
        quorums: &Quorums,
        kinds: Kinds,
        regency: u8,
    ) -> Table {
        let mut vouchers = Vec::new();
        let mut counts = vec![0; kinds.count(regency)];
        bags(&mut counts, 0, quorums.report, &mut |counts| {
            let mut plans = Plans::default();
            let mut order = Vec::with_capacity(quorums.report);
            orders(&mut counts.to_vec(), kinds, &mut order, &mut |order| {
                plans.insert(Plan::of(rules.select(quorums, order)));
            });
            vouchers.push(Voucher {
                counts: counts.to_vec(),
                plans,
            });
        });
        Table {
            vouchers,
            kinds,
            regency,
        }
    }

    /// Every plan that a leader can prove by reports which these acceptors sent for the regency and liars sign.
    pub fn plans(&self, acceptors: &[Acceptor], signers: Signers) -> Plans {
        let sent = self.sent(acceptors.iter().filter_map(|acceptor| {
            let report = acceptor.reports.get(usize::from(self.regency))?;
            *report
        }));
        self.plans_of(&sent, signers)
    }

    /// The same if all of them enter the regency now.
    pub fn plans_if_all_enter(&self, acceptors: &[Acceptor], signers: Signers) -> Plans {
        let sent = self.sent(acceptors.iter().map(|acceptor| acceptor.vote));
        self.plans_of(&sent, signers)
    }

    /// The voucher with the fewest lies that proves this plan, for the story.
    pub fn simplest(&self, acceptors: &[Acceptor], signers: Signers, plan: Plan) -> &Voucher {
        let sent = self.sent(acceptors.iter().filter_map(|acceptor| {
            let report = acceptor.reports.get(usize::from(self.regency))?;
            *report
        }));
        self.vouchers
            .iter()
            .filter(|voucher| voucher.plans.contains(plan))
            .filter_map(|voucher| Some((voucher.lies(&sent, signers)?, voucher)))
            .min_by_key(|(lies, _)| *lies)
            .map(|(_, voucher)| voucher)
            .expect("the step needed such a voucher")
    }

    fn sent(&self, reports: impl Iterator<Item = Option<Vote>>) -> Vec<u8> {
        let mut sent = vec![0; self.kinds.count(self.regency)];
        for report in reports {
            // An acceptor whose newest vote is not below the regency sends no valid report (PROTOCOL.md section 3).
            if let Some(sent) = sent.get_mut(self.kinds.of(report)) {
                *sent += 1;
            }
        }
        sent
    }

    fn plans_of(&self, sent: &[u8], signers: Signers) -> Plans {
        let mut plans = Plans::default();
        for voucher in &self.vouchers {
            if voucher.lies(sent, signers).is_some() {
                plans.extend(voucher.plans);
            }
        }
        plans
    }
}

/// Calls `each` with every way to put `left` reports into the kinds from `kind` on.
fn bags(counts: &mut [u8], kind: usize, left: usize, each: &mut impl FnMut(&[u8])) {
    if kind + 1 == counts.len() {
        counts[kind] = u8::try_from(left).expect("a voucher is small");
        each(counts);
        return;
    }
    for here in 0..=left {
        counts[kind] = u8::try_from(here).expect("a voucher is small");
        bags(counts, kind + 1, left - here, each);
    }
}

/// Calls `each` with every order of a bag.
fn orders(
    counts: &mut [u8],
    kinds: Kinds,
    order: &mut Vec<Option<Reported>>,
    each: &mut impl FnMut(&[Option<Reported>]),
) {
    let mut last = true;
    for kind in 0..counts.len() {
        if counts[kind] == 0 {
            continue;
        }
        last = false;
        counts[kind] -= 1;
        order.push(kinds.report(kind).map(Vote::reported));
        orders(counts, kinds, order, each);
        order.pop();
        counts[kind] += 1;
    }
    if last {
        each(order);
    }
}
