//! The pacemaker: when a proposer suspects its leader, and how votes become a proof of leadership.
//!
//! | event | rule (PROTOCOL.md section 4) |
//! |---|---|
//! | the timer fires with work waiting, a request is overdue, or the leader provably lied | *suspect*: vote for `max(voted, cur + 1)` |
//! | f+1 distinct votes ≥ x > voted | *amplify*: vote for the (f+1)-th largest |
//! | 2f+1 distinct votes ≥ x | `Pol(x)`, x the (2f+1)-th largest |
//! | `Pol(r)`, r > cur | *enter*: `cur := r`, `k := k + 1` |
//! | W decrees or 10·T of good service | *relax*: `k := max(0, k − 1)`; k is never reset |
//!
//! `T = min(T0·2^k, Tmax)`. The timer suspects only while work waits: idle means no suspicion, and the first
//! request after a quiet hour gets a full T. Regencies are compared, never leader ids, which wrap (section 6, L5).
//! A minority cannot raise `x` above a correct proposer's vote, so regencies do not jump; votes of 2^64−1 are
//! just the largest and are never the (f+1)-th.
//!
//! In mode C there are no votes: a proposer that suspects takes the smallest regency above any it has seen that is
//! its own (section 2).

use std::time::Duration;

use twostep_crypto::{Signed, Verified};

use crate::message::{ProofOfLeadership, RegencyVote};
use crate::quorum::Quorums;
use crate::types::{Decree, NodeId, Party, Regency, Time};

/// The largest exponent of the time-out: `Tmax = 64·T0` (PROTOCOL.md section 5.8).
const BACKOFF_MAX: u32 = 6;

/// The time-outs of one proposer.
#[derive(Debug)]
pub struct Pacemaker {
    t0: Duration,
    window: u64,
    /// The time-out is `t0 << k`.
    k: u32,
    /// When it fires; none while no work waits.
    fires_at: Option<Time>,
    /// Since when, and from which decree on, the leader has served well.
    good_since: (Time, Decree),
}

impl Pacemaker {
    /// In regency 0 at the start.
    #[must_use]
    pub fn new(t0: Duration, window: u64) -> Pacemaker {
        Pacemaker {
            t0,
            window,
            k: 0,
            fires_at: None,
            good_since: (Time(0), Decree::NONE),
        }
    }

    /// The time-out T.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.t0 * (1 << self.k)
    }

    /// When it fires.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        self.fires_at
    }

    /// Work waits or does not: the first work after none gets a full T.
    pub fn waiting(&mut self, now: Time, waiting: bool) {
        match (waiting, self.fires_at) {
            (true, None) => self.arm(now),
            (false, Some(_)) => self.fires_at = None,
            _ => {}
        }
    }

    /// n_l − f learners acknowledged something new, up to `progress` (why not f+1: the guide's list of deviations).
    pub fn progressed(&mut self, now: Time, progress: Decree) {
        if self.fires_at.is_some() {
            self.arm(now);
        }
        let (since, from) = self.good_since;
        let served = progress.since(from) >= self.window || now.since(since) >= self.timeout() * 10;
        if served {
            self.k = self.k.saturating_sub(1);
            self.good_since = (now, progress);
        }
    }

    /// A new regency was entered.
    pub fn entered(&mut self, now: Time, progress: Decree) {
        self.k = (self.k + 1).min(BACKOFF_MAX);
        self.good_since = (now, progress);
        if self.fires_at.is_some() {
            self.arm(now);
        }
    }

    /// Whether the timer fires now; if so it is armed again.
    pub fn fires(&mut self, now: Time) -> bool {
        let fires = self.fires_at.is_some_and(|at| at <= now);
        if fires {
            self.arm(now);
        }
        fires
    }

    fn arm(&mut self, now: Time) {
        self.fires_at = Some(now + self.timeout());
    }
}

/// The votes of the proposers: of each, the one for the highest regency.
#[derive(Debug)]
pub struct Ballots {
    amplify: usize,
    leadership: usize,
    votes: Vec<Option<Verified<RegencyVote>>>,
}

/// What the votes held so far ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The regency that f+1 proposers want at least: a correct one is among them.
    pub amplify: Regency,
    /// The regency that a proof of leadership can be made for.
    pub proved: Regency,
}

impl Ballots {
    /// No votes yet, in a cluster of `nodes` nodes.
    ///
    /// # Panics
    /// In mode C, which has no votes.
    #[must_use]
    pub fn new(quorums: &Quorums, nodes: usize) -> Ballots {
        let leadership = quorums.leadership.expect("votes exist in Byzantine modes");
        Ballots {
            amplify: quorums.f + 1,
            leadership,
            votes: (0..nodes).map(|_| None).collect(),
        }
    }

    /// Whether a vote would be higher than what this proposer voted before.
    #[must_use]
    pub fn wants(&self, signer: Party, regency: Regency) -> bool {
        let held = signer
            .node()
            .and_then(|node| self.votes.get(usize::from(node.0)));
        held.is_some_and(|held| {
            held.as_ref()
                .is_none_or(|held| held.content().regency < regency)
        })
    }

    /// Takes a vote; true if it is higher than what this proposer voted before.
    pub fn take(&mut self, vote: Verified<RegencyVote>) -> bool {
        let Party::Node(NodeId(node)) = vote.signer() else {
            return false;
        };
        let Some(held) = self.votes.get_mut(usize::from(node)) else {
            return false;
        };
        let newer = held
            .as_ref()
            .is_none_or(|held| held.content().regency < vote.content().regency);
        if newer {
            *held = Some(vote);
        }
        newer
    }

    /// What the votes ask for.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let mut regencies: Vec<Regency> = self
            .votes
            .iter()
            .flatten()
            .map(|vote| vote.content().regency)
            .collect();
        regencies.sort_unstable_by(|one, other| other.cmp(one));
        let largest = |count: usize| regencies.get(count - 1).copied().unwrap_or_default();
        Standing {
            amplify: largest(self.amplify),
            proved: largest(self.leadership),
        }
    }

    /// f+1 votes for `regency` or higher ones, if there are so many, else fewer.
    #[must_use]
    pub fn support(&self, regency: Regency) -> Vec<Signed<RegencyVote>> {
        let votes = self.votes.iter().flatten();
        let high = votes.filter(|vote| vote.content().regency >= regency);
        let high = high.map(|vote| vote.signed().clone());
        high.take(self.amplify).collect()
    }

    /// The proof for [`Standing::proved`]: the votes for it or higher regencies, as many as it takes.
    #[must_use]
    pub fn proof(&self) -> ProofOfLeadership {
        let proved = self.standing().proved;
        let enough = self
            .votes
            .iter()
            .flatten()
            .filter(|vote| vote.content().regency >= proved);
        ProofOfLeadership {
            votes: enough
                .take(self.leadership)
                .map(|vote| vote.signed().clone())
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quorum::FaultModel;
    use crate::types::{ClusterId, Epoch};
    use twostep_crypto::{Identity, Scope};

    const T0: Duration = Duration::from_millis(100);

    fn at(ms: u64) -> Time {
        Time(ms * 1_000_000)
    }

    fn vote(node: u8, regency: u64) -> Verified<RegencyVote> {
        let scope = Scope::new(ClusterId([0; 32]), Epoch(0));
        let me = Party::Node(NodeId(u16::from(node)));
        Identity::from_seed([node; 32]).signing().sign(
            &scope,
            me,
            RegencyVote {
                regency: Regency(regency),
            },
        )
    }

    fn ballots() -> Ballots {
        Ballots::new(&Quorums::new(FaultModel::Fab, 1, 6, 4, 4).unwrap(), 6)
    }

    #[test]
    fn one_liar_neither_amplifies_nor_proves() {
        let mut ballots = ballots();
        ballots.take(vote(0, u64::MAX));
        assert_eq!(ballots.standing(), Standing::default());
        ballots.take(vote(1, 1));
        assert_eq!(
            ballots.standing(),
            Standing {
                amplify: Regency(1),
                proved: Regency(0)
            }
        );
        ballots.take(vote(2, 2));
        assert_eq!(
            ballots.standing(),
            Standing {
                amplify: Regency(2),
                proved: Regency(1)
            }
        );
        assert_eq!(ballots.proof().votes.len(), 3);
    }

    #[test]
    fn a_proposer_counts_once_with_its_highest_vote() {
        let mut ballots = ballots();
        assert!(ballots.take(vote(0, 3)));
        assert!(!ballots.take(vote(0, 3)) && !ballots.take(vote(0, 2)));
        assert!(ballots.take(vote(0, 4)));
        assert_eq!(
            ballots.standing(),
            Standing::default(),
            "one proposer is no quorum"
        );
    }

    #[test]
    fn idle_means_no_suspicion_and_the_first_work_gets_a_full_timeout() {
        let mut pacemaker = Pacemaker::new(T0, 8);
        assert!(!pacemaker.fires(at(3_600_000)));
        pacemaker.waiting(at(3_600_000), true);
        assert!(!pacemaker.fires(at(3_600_099)));
        assert!(pacemaker.fires(at(3_600_100)));
        assert!(!pacemaker.fires(at(3_600_199)), "armed again");
        pacemaker.waiting(at(3_600_150), false);
        assert!(!pacemaker.fires(at(3_700_000)));
    }

    #[test]
    fn timeouts_double_and_come_back() {
        let mut pacemaker = Pacemaker::new(T0, 8);
        for _ in 0..20 {
            pacemaker.entered(at(0), Decree::NONE);
        }
        assert_eq!(pacemaker.timeout(), T0 * 64, "bounded by Tmax");
        let mut progress = 0;
        for _ in 0..6 {
            progress += 8;
            pacemaker.progressed(at(1), Decree(progress));
        }
        assert_eq!(
            pacemaker.timeout(),
            T0,
            "a window of good service each takes one doubling back"
        );
    }

    #[test]
    fn progress_arms_anew() {
        let mut pacemaker = Pacemaker::new(T0, 8);
        pacemaker.waiting(at(0), true);
        pacemaker.progressed(at(90), Decree(1));
        assert!(!pacemaker.fires(at(110)));
        assert!(pacemaker.fires(at(190)));
    }
}
