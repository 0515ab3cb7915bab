//! One decree as a stateright model: its states, its steps, its properties.

use stateright::{Model, Property};
use twostep_engine::quorum::{FaultModel, Quorums};
use twostep_engine::rules::{Rules, Verdict};
use twostep_engine::types::NodeId;

use super::acceptor::{Acceptor, Letter, Plan, REGENCIES_MAX, Vote};
use super::voucher::{Kinds, Plans, Signers, Table};

/// No two values are chosen (CS2).
pub const AGREEMENT: &str = "no two values are chosen";
/// PROTOCOL.md section 7, I3′.
pub const ANCHORED: &str = "no other value can be chosen below a vote";
/// The next regency decides if its leader is correct and the network is timely.
pub const NEVER_STUCK: &str = "a correct leader of the next regency gets a value chosen";
/// Against an empty truth: both values get chosen in some state each.
pub const EITHER: &str = "the last value can be chosen";
/// Against an empty truth: the last regency chooses although another value has votes.
pub const OVERCOMES: &str = "the last regency chooses one value while another has votes";

/// Which reductions are on; see the page of the test for why each keeps every violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reduction {
    /// Acceptors are interchangeable: a state is a bag of them, kept sorted.
    pub symmetric: bool,
    /// A leader shows its voucher at the moment of its proposal: one step, and no plan to remember.
    pub merged: bool,
}

/// Both reductions.
pub const REDUCED: Reduction = Reduction {
    symmetric: true,
    merged: true,
};

/// What is checked: thresholds, rules and bounds.
pub struct OneDecree<R> {
    /// The thresholds; the test may set ones that [`Quorums::new`] refuses.
    pub quorums: Quorums,
    /// The rules under test.
    pub rules: R,
    /// Regencies 0 to this, exclusive.
    pub regencies: u8,
    /// How many values there are.
    pub letters: u8,
    reduction: Reduction,
    signers: Signers,
    /// Vouchers for regency 1, 2, … and for the one after the last.
    tables: Vec<Table>,
}

/// A state: what each correct acceptor knows and told, and in mode C what each leader proposed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The correct acceptors.
    pub acceptors: Vec<Acceptor>,
    /// Mode C: the one proposal of each regency's leader. In mode F every leader proposes everything to everybody.
    pub proposed: [Option<Letter>; REGENCIES_MAX],
}

/// What an acceptor does in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Gather: it promises the regency and reports.
    Enter(u8),
    /// NewRegency as a step of its own: it enters if it must, and keeps the plan.
    Keep(u8, Plan),
    /// Propose: it votes. With [`Reduction::merged`] the leader's voucher comes with it and proves the plan.
    Vote(u8, Letter, Option<Plan>),
}

/// One step of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The acceptor at this place does something.
    Act(usize, Step),
    /// Mode C: the leader of a regency proposes, once, what some voucher allows.
    Lead(u8, Letter, Plan),
}

impl<R: Rules> OneDecree<R> {
    /// A model of two values with both reductions.
    pub fn new(quorums: Quorums, rules: R, regencies: u8) -> OneDecree<R> {
        OneDecree::with(quorums, rules, regencies, 2, REDUCED)
    }

    /// A model with everything chosen.
    pub fn with(
        quorums: Quorums,
        rules: R,
        regencies: u8,
        letters: u8,
        reduction: Reduction,
    ) -> OneDecree<R> {
        assert!(usize::from(regencies) <= REGENCIES_MAX, "a state has room");
        let kinds = Kinds { letters };
        let tables = (1..=regencies)
            .map(|regency| Table::new(&rules, &quorums, kinds, regency))
            .collect();
        let liars = match quorums.model {
            FaultModel::Fab => quorums.f,
            FaultModel::Crash => 0,
        };
        let repeat = rules.voucher(&quorums, &vec![NodeId(0); quorums.report]);
        OneDecree {
            quorums,
            rules,
            regencies,
            letters,
            reduction,
            signers: Signers { liars, repeat },
            tables,
        }
    }

    /// Acceptors that say anything: all of f in mode F, none in mode C.
    pub fn signers(&self) -> Signers {
        self.signers
    }

    /// Whether a learner adds up votes of different regencies for one value (PROTOCOL.md section 6, S6).
    pub fn adds_across_regencies(&self) -> bool {
        let vote = |psn| Vote {
            psn,
            letter: Letter(0),
        };
        self.rules.counts(vote(0).reported(), vote(1).reported())
    }

    /// What reports can say.
    pub fn kinds(&self) -> Kinds {
        Kinds {
            letters: self.letters,
        }
    }

    /// The vouchers for a regency above 0.
    pub fn table(&self, regency: u8) -> &Table {
        &self.tables[usize::from(regency) - 1]
    }

    /// The acceptor after one step; `None` if the rules refuse it or it changes nothing.
    pub fn after(&self, acceptor: Acceptor, step: Step) -> Option<Acceptor> {
        match step {
            Step::Enter(regency) => {
                (regency > acceptor.promised).then(|| acceptor.entered(regency))
            }
            Step::Keep(regency, plan) => {
                let mut entered = if regency > acceptor.promised {
                    acceptor.entered(regency)
                } else {
                    acceptor
                };
                // A second NewRegency of a regency is ignored, and one of an old regency is refused.
                let news = regency == entered.promised && entered.plan.is_none();
                entered.plan = Some(plan);
                news.then_some(entered)
            }
            Step::Vote(regency, letter, Some(plan)) => {
                acceptor.voted(&self.rules, regency, letter, Some(plan))
            }
            Step::Vote(regency, letter, None) => {
                let plan = if acceptor.promised == 0 {
                    Some(Plan::Free)
                } else {
                    acceptor.plan
                };
                // Without the plan of its own regency it only keeps the proposal.
                (regency <= acceptor.promised)
                    .then(|| acceptor.voted(&self.rules, regency, letter, plan))?
            }
        }
    }

    /// The values that a learner can be made to decide.
    pub fn chosen(&self, state: &State) -> Vec<Letter> {
        let regencies = 0..self.regencies;
        self.values()
            .filter(|letter| {
                if self.adds_across_regencies() {
                    self.decides(state, |acceptor| {
                        regencies
                            .clone()
                            .any(|regency| acceptor.has_told(regency, *letter))
                    })
                } else {
                    regencies.clone().any(|regency| {
                        self.decides(state, |acceptor| acceptor.has_told(regency, *letter))
                    })
                }
            })
            .collect()
    }

    /// The values of the model.
    pub fn values(&self) -> impl Iterator<Item = Letter> + use<R> {
        (0..self.letters).map(Letter)
    }

    /// Whether those acceptors, with the help of all liars, make a learner decide.
    fn decides(&self, state: &State, voted: impl Fn(&Acceptor) -> bool) -> bool {
        let correct = state.acceptors.iter().filter(|a| voted(a)).count();
        correct + self.signers.liars >= self.rules.learn(&self.quorums)
    }

    /// Every plan that the leader of a regency can prove in this state.
    fn plans(&self, state: &State, regency: u8) -> Plans {
        if regency == 0 {
            let mut free = Plans::default();
            free.insert(Plan::Free);
            return free;
        }
        self.table(regency).plans(&state.acceptors, self.signers)
    }

    /// The steps by which one acceptor may vote for one value in one regency, given what its leader can prove.
    fn votes(&self, acceptor: Acceptor, regency: u8, plans: Plans, letter: Letter) -> Option<Step> {
        let step = |plan| Step::Vote(regency, letter, plan);
        if !self.reduction.merged {
            return self.after(acceptor, step(None)).map(|_| step(None));
        }
        // With several plans that allow it, the vote is the same: one step is enough.
        plans
            .iter(self.letters)
            .map(|plan| step(Some(plan)))
            .find(|step| self.after(acceptor, *step).is_some())
    }

    fn lying_leader_steps(&self, state: &State, regency: u8, actions: &mut Vec<Action>) {
        let plans = self.plans(state, regency);
        for (place, acceptor) in self.distinct(state) {
            if !self.reduction.merged && regency > 0 {
                for plan in plans.iter(self.letters) {
                    let keep = Step::Keep(regency, plan);
                    if self.after(acceptor, keep).is_some() {
                        actions.push(Action::Act(place, keep));
                    }
                }
            }
            for letter in self.values() {
                if let Some(vote) = self.votes(acceptor, regency, plans, letter) {
                    actions.push(Action::Act(place, vote));
                }
            }
        }
    }

    fn correct_leader_steps(&self, state: &State, regency: u8, actions: &mut Vec<Action>) {
        let Some(letter) = state.proposed[usize::from(regency)] else {
            let plans = self.plans(state, regency);
            for letter in self.values() {
                let fits = |plan: &Plan| matches!(plan, Plan::Free) || *plan == Plan::Must(letter);
                if let Some(plan) = plans.iter(self.letters).find(fits) {
                    actions.push(Action::Lead(regency, letter, plan));
                }
            }
            return;
        };
        // The leader's plan is believed: nothing else binds the acceptor.
        let mut believed = Plans::default();
        believed.insert(Plan::Free);
        for (place, acceptor) in self.distinct(state) {
            if let Some(vote) = self.votes(acceptor, regency, believed, letter) {
                actions.push(Action::Act(place, vote));
            }
        }
    }

    /// The acceptors and their places; of equal ones the first, if they are interchangeable.
    fn distinct<'a>(&self, state: &'a State) -> impl Iterator<Item = (usize, Acceptor)> + 'a {
        let symmetric = self.reduction.symmetric;
        let acceptors = &state.acceptors;
        acceptors
            .iter()
            .copied()
            .enumerate()
            .filter(move |(place, acceptor)| {
                !symmetric || *place == 0 || acceptors[place - 1] != *acceptor
            })
    }

    fn agreement(&self, state: &State) -> bool {
        self.chosen(state).len() <= 1
    }

    fn anchored(&self, state: &State) -> bool {
        let votes = |regency: u8| {
            let acceptors = &state.acceptors;
            self.values()
                .filter(move |letter| acceptors.iter().any(|a| a.has_told(regency, *letter)))
        };
        (1..self.regencies).all(|regency| {
            votes(regency).all(|voted| {
                (0..regency).all(|lower| {
                    self.values().filter(|other| *other != voted).all(|other| {
                        !self.decides(state, |acceptor| {
                            let silent = acceptor.told[usize::from(lower)] == 0;
                            acceptor.has_told(lower, other)
                                || (acceptor.promised <= lower && silent)
                        })
                    })
                })
            })
        })
    }

    /// Whatever the liars report and whichever reports come first: `select` yields a plan, some value fits it that
    /// the leader can get hold of, no correct acceptor refuses it, and they are enough to decide without any liar.
    fn never_stuck(&self, state: &State) -> bool {
        let next = self.regencies;
        let plans = self
            .table(next)
            .plans_if_all_enter(&state.acceptors, self.signers);
        let accepted = |plan: Plan, letter: Letter| {
            state.acceptors.iter().all(|acceptor| {
                let entered = Acceptor {
                    promised: next,
                    ..*acceptor
                };
                entered.judged(&self.rules, next, letter, Some(plan)) == Some(Verdict::Vote)
            })
        };
        // A bound value was voted by enough correct acceptors to fetch its body from: `must` of which all but the
        // liars are correct (2f+1 and f+1 in mode F, 1 and 1 in mode C).
        let held = |letter: Letter| {
            let holds = |vote: Option<Vote>| vote.is_some_and(|vote| vote.letter == letter);
            let holders = state.acceptors.iter().filter(|a| holds(a.vote)).count();
            holders + self.signers.liars >= self.quorums.must.max(1 + self.signers.liars)
        };
        let enough = state.acceptors.len() >= self.rules.learn(&self.quorums);
        enough
            && plans.iter(self.letters).all(|plan| match plan {
                Plan::Free => self.values().all(|letter| accepted(plan, letter)),
                Plan::Must(letter) => held(letter) && accepted(plan, letter),
            })
    }

    fn overcomes(&self, state: &State) -> bool {
        let last = self.regencies - 1;
        self.values().any(|letter| {
            let other = |a: &Acceptor| {
                (0..last).any(|lower| a.told[usize::from(lower)] & !(1 << letter.0) != 0)
            };
            self.decides(state, |a| a.has_told(last, letter)) && state.acceptors.iter().any(other)
        })
    }
}

impl<R: Rules> Model for OneDecree<R> {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let correct = self.quorums.acceptors - self.signers.liars;
        vec![State {
            acceptors: vec![Acceptor::default(); correct],
            proposed: [None; REGENCIES_MAX],
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for regency in 0..self.regencies {
            for (place, acceptor) in self.distinct(state) {
                if regency > acceptor.promised {
                    actions.push(Action::Act(place, Step::Enter(regency)));
                }
            }
            match self.quorums.model {
                FaultModel::Fab => self.lying_leader_steps(state, regency, actions),
                FaultModel::Crash => self.correct_leader_steps(state, regency, actions),
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Act(place, step) => {
                next.acceptors[place] = self.after(state.acceptors[place], step)?;
                if self.reduction.symmetric {
                    next.acceptors.sort_unstable();
                }
            }
            Action::Lead(regency, letter, _) => {
                next.proposed[usize::from(regency)] = Some(letter);
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(AGREEMENT, OneDecree::agreement),
            Property::always(ANCHORED, OneDecree::anchored),
            Property::always(NEVER_STUCK, OneDecree::never_stuck),
            Property::sometimes(EITHER, |model, state| {
                model.chosen(state).contains(&Letter(model.letters - 1))
            }),
            Property::sometimes(OVERCOMES, OneDecree::overcomes),
        ]
    }
}
