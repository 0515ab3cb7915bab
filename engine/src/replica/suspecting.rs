//! When a proposer suspects its leader, and what follows: votes, until a regency is proved.
//!
//! | event | rule (PROTOCOL.md section 4; see [`crate::election`]) |
//! |---|---|
//! | the timer fires with work waiting | suspect |
//! | a tracked request is overdue | suspect |
//! | the leader says that it lost its disk | the timer runs as if work were waiting |
//! | this leader's client does not sign what f+1 acceptors doubt ([`crate::complaint`]) | the leader suspects itself |
//! | the leader says two values | suspect at once |
//! | suspect | a signed vote, durable before it is said; said again until the regency is entered |
//! | votes of f+1, of 2f+1 | amplify; enter |
//!
//! A proposal against the plan that this node holds is no proof of a lie: a voucher proves itself whoever sends it,
//! and a liar that signed two reports can make a second valid one that the leader never saw. Nor is a body that is no
//! batch, or not the one of its value: the tag of the link leaves contents of bodies out ([`crate::wire::gaps`]), so that
//! whoever stands on the way could convict a correct leader. The timer finds the leader that does it.

use twostep_crypto::{Signed, Verified};

use super::{Replica, Say, Step};
use crate::election::{Ballots, Pacemaker};
use crate::machine::{Again, Event, Record, Refusal, To, earlier};
use crate::message::{Message, ProofOfLeadership, RegencyVote};
use crate::resend::Resend;
use crate::rules::Rules;
use crate::tracking::{Patience, Tracking};
use crate::types::{Decree, NodeId, NodeSet, Party, Regency, Time};

/// What a proposer keeps to judge its leader.
pub(super) struct Election {
    pub(super) pacemaker: Pacemaker,
    pub(super) tracking: Tracking,
    /// The votes of the others; none in mode C.
    ballots: Option<Ballots>,
    /// The highest regency that it wants, durable or not yet.
    voted: Regency,
    /// Its newest vote that was said.
    said: Option<Signed<RegencyVote>>,
    resend: Resend,
    pub(super) progress: Decree,
    /// What n_l − f learners acknowledged, f+1 correct ones among them, from which all others can pull. The leader is
    /// judged by this and not by what f+1 acknowledged, as PROTOCOL.md section 4 has it: a leader with f learners for
    /// accomplices could let one correct learner learn and nobody else for a whole window.
    common: Decree,
    /// When the learners are asked what is settled, and how far they must be to answer; none while this node sees what
    /// is executed, or nothing is tracked.
    pub(super) ask_at: Option<(Time, Decree)>,
    /// When the leader is told again what waits; none while nothing is tracked.
    pub(super) relay_at: Option<Time>,
    /// Whether a tracked bundle found no room at this node as leader.
    pub(super) unordered: bool,
}

impl Election {
    pub(super) fn new(
        pacemaker: Pacemaker,
        ballots: Option<Ballots>,
        tracking: Tracking,
    ) -> Election {
        Election {
            pacemaker,
            tracking,
            ballots,
            voted: Regency(0),
            said: None,
            resend: Resend::default(),
            progress: Decree::NONE,
            common: Decree::NONE,
            ask_at: None,
            relay_at: None,
            unordered: false,
        }
    }

    /// The newest vote of an earlier run, which is said again.
    pub(super) fn remember(&mut self, vote: Verified<RegencyVote>) {
        self.voted = vote.content().regency;
        self.said = Some(vote.signed().clone());
        self.resend = Resend::overdue();
        if let Some(ballots) = &mut self.ballots {
            ballots.take(vote);
        }
    }

    /// Takes part from this regency on, after a lost disk: it may have voted for it.
    pub(super) fn begin(&mut self, regency: Regency) {
        self.voted = regency;
    }

    /// The highest regency that it wants.
    pub(super) fn voted(&self) -> Regency {
        self.voted
    }

    /// f+1 votes for a regency or higher ones, as far as they are known.
    pub(super) fn support(&self, regency: Regency) -> Vec<Signed<RegencyVote>> {
        let ballots = self.ballots.as_ref();
        ballots.map_or_else(Vec::new, |ballots| ballots.support(regency))
    }

    pub(super) fn deadline(&self, current: Regency) -> Option<Time> {
        let wanted = self
            .said
            .as_ref()
            .is_some_and(|vote| vote.content.regency > current);
        let again = self.resend.at().filter(|_| wanted);
        let overdue = self.tracking.deadline(self.pacemaker.timeout() * 4);
        [overdue, again, self.ask_at.map(|(at, _)| at), self.relay_at]
            .into_iter()
            .fold(self.pacemaker.deadline(), earlier)
    }
}

impl<R: Rules> Replica<R> {
    /// The proposer's clock, at the end of every turn.
    pub(super) fn keep_time(&mut self, step: &mut Step<'_>) {
        let quorums = self.configuration.quorums();
        let progress = self.acks.reached_by(quorums.progress);
        let common = if self.crash_only() {
            progress
        } else {
            self.acks.reached_by(quorums.ack)
        };
        let leader = self.configuration.leader(self.regency);
        let abstains = self.peers.last(leader);
        let abstains = abstains.is_some_and(|(status, _)| status.abstaining);
        let Some(election) = &mut self.election else {
            return;
        };
        if progress > election.progress {
            election.progress = progress;
            self.doubting.progressed(step.now, progress);
        }
        if common > election.common {
            election.common = common;
            election.pacemaker.progressed(step.now, common);
        }
        // What one correct learner has and most others have not got waits as well: see `Election::common`.
        // A leader without its disk waits to be replaced: nobody else fills an idle order so that it heals.
        let waiting =
            !election.tracking.is_empty() || self.doubting.waits() || common < progress || abstains;
        election.pacemaker.waiting(step.now, waiting);
        let timeout = election.pacemaker.timeout();
        let patience = Patience {
            time: timeout * 4,
            decrees: self.configuration.limits().window,
            least: self.tuning.t0 / 2,
        };
        let fired = election.pacemaker.fires(step.now);
        let overdue = election.tracking.overdue(step.now, progress, patience);
        let unsigned = self.doubting.gives_up(step.now, timeout / 2);
        if (fired || overdue || unsigned) && self.keeps_records() {
            self.suspect(step);
        }
        self.ask_learners(step);
        self.relay_again(step);
        self.vote_again(step);
        self.gather_again(step);
    }

    pub(super) fn suspect(&mut self, step: &mut Step<'_>) {
        let Some(election) = &self.election else {
            return;
        };
        if self.crash_only() {
            // Mode C: the smallest regency above any seen that is this proposer's own.
            let mine = (self.regency.0 + 1..)
                .map(Regency)
                .find(|regency| self.configuration.leader(*regency) == self.me);
            let regency = mine.expect("this node is a proposer");
            step.fx.observe(Event::Suspected { regency });
            self.enter(regency, ProofOfLeadership::default(), step);
            return;
        }
        let regency = election.voted.max(Regency(self.regency.0 + 1));
        step.fx.observe(Event::Suspected { regency });
        self.vote_for(regency, step);
    }

    /// Suspects the leader at once if what it said over its own link can only be a lie.
    pub(super) fn judge_leader(
        &mut self,
        from: NodeId,
        regency: Regency,
        why: &Refusal,
        step: &mut Step<'_>,
    ) {
        let lied = *why == Refusal::SecondValue;
        let trusted = self
            .election
            .as_ref()
            .is_some_and(|election| election.voted <= regency);
        let leads = regency == self.regency && self.configuration.leader(regency) == from;
        if lied && trusted && leads && !self.crash_only() {
            self.suspect(step);
        }
    }

    fn vote_for(&mut self, regency: Regency, step: &mut Step<'_>) {
        let Some(election) = self
            .election
            .as_mut()
            .filter(|election| election.voted < regency)
        else {
            return;
        };
        election.voted = regency;
        let me = Party::Node(self.me);
        self.made.votes += 1;
        let vote = self
            .identity
            .signing()
            .sign(&self.scope, me, RegencyVote { regency });
        self.recorded.0 += 1;
        step.fx
            .store(self.recorded, &Record::RegencyVote(vote.signed()));
        self.hold(Say::Vote(vote), step);
    }

    /// The own vote is durable: the others hear of it, and it counts.
    pub(super) fn say_vote(&mut self, vote: Verified<RegencyVote>, step: &mut Step<'_>) {
        let others = self.other_proposers();
        let Some(election) = &mut self.election else {
            return;
        };
        step.fx
            .send(To::Nodes(others), &Message::Vote(vote.signed().clone()));
        election.said = Some(vote.signed().clone());
        election.resend = Resend::said(step.now, self.tuning.t0);
        if let Some(ballots) = &mut election.ballots {
            ballots.take(vote);
        }
        self.follow_votes(step);
    }

    fn vote_again(&mut self, step: &mut Step<'_>) {
        let (others, current) = (self.other_proposers(), self.regency);
        let Some(election) = &mut self.election else {
            return;
        };
        if let Some(vote) = election
            .said
            .as_ref()
            .filter(|vote| vote.content.regency > current)
            && election.resend.due(step.now, self.tuning.t0)
        {
            step.fx
                .send(To::Nodes(others), &Message::Vote(vote.clone()));
            step.fx.observe(Event::SentAgain(Again::Vote));
        }
    }

    pub(super) fn other_proposers(&self) -> NodeSet {
        let proposers: NodeSet = self.configuration.proposers().iter().copied().collect();
        proposers.minus(NodeSet::one(self.me))
    }

    pub(super) fn take_vote(
        &mut self,
        vote: Signed<RegencyVote>,
        step: &mut Step<'_>,
    ) -> Result<(), Refusal> {
        let Some(ballots) = self
            .election
            .as_mut()
            .and_then(|election| election.ballots.as_mut())
        else {
            return Err(Refusal::Role);
        };
        // A vote that says nothing new costs no signature check.
        if !ballots.wants(vote.signer, vote.content.regency) {
            return Ok(());
        }
        ballots.take(self.examiner.vote(vote)?);
        self.follow_votes(step);
        Ok(())
    }

    /// Amplifies what f+1 want, and enters what 2f+1 want.
    pub(super) fn follow_votes(&mut self, step: &mut Step<'_>) {
        let Some(ballots) = self
            .election
            .as_ref()
            .and_then(|election| election.ballots.as_ref())
        else {
            return;
        };
        let standing = ballots.standing();
        if standing.proved > self.regency {
            let proof = ballots.proof();
            self.enter(standing.proved, proof, step);
        }
        // Also right after entering: these votes are said again, but nothing more follows from them then.
        if standing.amplify > self.regency && self.keeps_records() {
            self.vote_for(standing.amplify, step);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use twostep_crypto::Identity;
    use twostep_net::pool::{Body, Pool};

    use super::*;
    use crate::batch::{Batch, Bundle, BundleWriter, Request, RequestKind};
    use crate::configuration::{Admission, Limits};
    use crate::machine::{Effects, Input, Machine, Question};
    use crate::replica::testing::one_of_six;
    use crate::types::{RecordSeq, Seq, SessionId, Value};

    /// The regencies that were voted for, and what was refused.
    #[derive(Default)]
    struct Heard {
        votes: Vec<Regency>,
        refused: Vec<Refusal>,
        stored: Option<RecordSeq>,
    }

    impl Effects for Heard {
        fn send(&mut self, _: To, message: &Message<'_>) {
            if let Message::Vote(vote) = message {
                self.votes.push(vote.content.regency);
            }
        }
        fn store(&mut self, seq: RecordSeq, _: &Record<'_>) {
            self.stored = Some(seq);
        }
        fn deliver(&mut self, _: Decree, _: &Batch) {}
        fn ask(&mut self, _: Question) {}
        fn observe(&mut self, event: Event) {
            if let Event::Refused { why, .. } = event {
                self.refused.push(why);
            }
        }
    }

    struct World {
        replica: Replica,
        heard: Heard,
        scope: twostep_crypto::Scope,
        client: Identity,
    }

    fn world() -> World {
        let (replica, configuration, client) = one_of_six(1, Admission::Signed);
        World {
            replica,
            heard: Heard::default(),
            scope: configuration.scope(),
            client,
        }
    }

    impl World {
        fn batch(&self, seq: u64) -> Batch {
            let mut writer = BundleWriter::new(self.client.public().client_id());
            assert!(writer.push(&Request {
                kind: RequestKind::Open,
                session: SessionId::NONE,
                seq: Seq(seq),
                operation: b"",
            }));
            let bytes = writer.finish_signed(&self.scope, self.client.signing());
            let bytes = Body::from_vec(bytes.to_vec());
            let bundle = Bundle::parse(bytes, &self.scope, &Limits::default());
            let mut waiting = VecDeque::from([bundle.expect("well-formed")]);
            Batch::assemble(&Pool::default(), &self.scope, &mut waiting, 1 << 20)
        }

        /// The leader proposes for decree 1 of regency 0; what this node refuses, and votes for, because of it.
        fn propose(&mut self, value: Value, body: &Body) -> (Vec<Refusal>, Vec<Regency>) {
            let message = Message::Propose {
                regency: Regency(0),
                decree: Decree(1),
                value,
                body: body.clone(),
            };
            let from = Party::Node(NodeId(0));
            self.step(Input::Message { from, message });
            while let Some(seq) = self.heard.stored.take() {
                self.step(Input::Stored(seq));
            }
            (
                std::mem::take(&mut self.heard.refused),
                std::mem::take(&mut self.heard.votes),
            )
        }

        fn step(&mut self, input: Input<'_>) {
            self.replica.step(Time(1), input, &mut self.heard);
        }
    }

    #[test]
    fn a_leader_that_says_two_values_is_suspected_at_once_and_once() {
        let mut world = world();
        let (one, other) = (world.batch(1), world.batch(2));
        let nothing = (vec![], vec![]);
        assert_eq!(world.propose(one.value(), one.body()), nothing);
        assert_eq!(world.propose(one.value(), one.body()), nothing, "again");
        let suspected = (vec![Refusal::SecondValue], vec![Regency(1)]);
        assert_eq!(world.propose(other.value(), other.body()), suspected);
        let known = (vec![Refusal::SecondValue], vec![]);
        assert_eq!(world.propose(other.value(), other.body()), known);
    }

    #[test]
    fn a_body_that_is_not_what_its_value_says_convicts_nobody() {
        // The tag of the link leaves the contents of bodies out: who stands on the way may have changed them.
        let mut world = world();
        let (one, other) = (world.batch(1), world.batch(2));
        let refused = (vec![Refusal::WrongBody], vec![]);
        assert_eq!(world.propose(one.value(), other.body()), refused);
    }

    #[test]
    fn a_request_that_does_not_verify_convicts_nobody() {
        // The client may have made it so.
        let mut world = world();
        let stranger = World {
            client: Identity::from_seed([98; 32]),
            ..self::world()
        };
        let batch = stranger.batch(1);
        let refused = (vec![Refusal::UnknownClient], vec![]);
        assert_eq!(world.propose(batch.value(), batch.body()), refused);
    }
}
