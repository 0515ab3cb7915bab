//! A node of the floor: it says what its model says, when it has heard what its model had heard.

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use super::links::{Heard, Links, MESSAGE_BYTES_MIN, Scratch, Serve};
use super::pattern::Pattern;
use super::trace::{Kind, Turn};
use super::{ASK, FloorPlan, LONE, TOLD};

/// Operations of which a replay remembers what it heard: late messages of one come while the next ones run.
const REMEMBERED: usize = 64;

/// Serves as node `me` until the process ends.
///
/// # Errors
/// When the address is taken, or a connection that was open ends.
pub fn serve(plan: &FloorPlan, me: usize) -> io::Result<()> {
    let mut links = Links::new(plan, me)?;
    let mut scratch = Scratch::default();
    let mut node = Node {
        me,
        replay: Replay::new(plan, me),
        load: Load::new(plan.pattern.clone(), me),
    };
    links.run(plan, &mut scratch, &mut node)
}

struct Node {
    me: usize,
    replay: Replay,
    load: Load,
}

impl Serve for Node {
    fn message(&mut self, links: &mut Links, from: usize, heard: Heard<'_>) {
        match heard.kind {
            ASK => {
                let told = serde_json::to_vec(&links.counters()).expect("numbers have a form");
                links.say(links.client(), TOLD, self.me as u64, &[&told], 0);
            }
            kind if kind & LONE != 0 => self.replay.hear(links, kind & !LONE, heard.number),
            _ => self.load.hear(links, from, heard),
        }
    }

    fn turn(&mut self, links: &mut Links, now: Instant) {
        self.load.end_turn(links, now);
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn stopping(&self) -> bool {
        false
    }
}

/// One party of a recorded operation, again and again.
pub(super) struct Replay {
    turns: Vec<Turn>,
    operations: Vec<Progress>,
}

#[derive(Clone, Copy, Default)]
struct Progress {
    number: u64,
    heard: [u32; 6],
    /// How many of the turns were taken.
    taken: usize,
}

impl Replay {
    pub(super) fn new(plan: &FloorPlan, me: usize) -> Replay {
        Replay {
            turns: plan.trace.of_party(me).cloned().collect(),
            operations: vec![Progress::default(); REMEMBERED],
        }
    }

    /// Counts a message of operation `number`, and says what is due then.
    pub(super) fn hear(&mut self, links: &mut Links, kind: u8, number: u64) {
        let slots = self.operations.len() as u64;
        let place = usize::try_from(number % slots).expect("below the number of slots");
        let progress = &mut self.operations[place];
        if progress.number < number {
            *progress = Progress {
                number,
                ..Progress::default()
            };
        }
        let Some(count) = progress.heard.get_mut(usize::from(kind)) else {
            return;
        };
        *count += 1;
        // A party takes its turns in the order of its model.
        while let Some(turn) = self.turns.get(progress.taken)
            && reached(&progress.heard, &turn.after)
        {
            progress.taken += 1;
            say(links, turn, number);
        }
    }
}

/// Whether as much was heard as the model had.
pub(super) fn reached(heard: &[u32; 6], after: &[u32; 6]) -> bool {
    heard.iter().zip(after).all(|(heard, after)| heard >= after)
}

/// Says what one turn of a recording says.
pub(super) fn say(links: &mut Links, turn: &Turn, number: u64) {
    for said in &turn.says {
        links.say(said.to, said.kind as u8 | LONE, number, &[], said.bytes);
    }
}

/// A node under load: leader, acceptor and learner as the pattern says.
struct Load {
    pattern: Pattern,
    me: usize,
    accepts: bool,
    /// Its place among the learners.
    learner: Option<usize>,
    /// As leader: the bundles that wait, and how many operations each has.
    waiting: VecDeque<(u32, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
    proposed: u64,
    /// What each learner acknowledged.
    acked_by: Vec<u64>,
    decrees: Vec<Decree>,
    learned: u64,
    /// What the leader was told, and what all others were, when.
    told_leader: u64,
    told_others: (u64, Option<Instant>),
}

#[derive(Clone, Copy, Default)]
struct Decree {
    number: u64,
    votes: usize,
    /// How many operations its body has, once it is here.
    operations: Option<u32>,
}

impl Load {
    fn new(pattern: Pattern, me: usize) -> Load {
        let window = usize::try_from(pattern.window).expect("a window fits into memory");
        Load {
            me,
            accepts: pattern.acceptors.contains(&me),
            learner: pattern.learners.iter().position(|node| *node == me),
            waiting: VecDeque::new(),
            spare: Vec::new(),
            proposed: 0,
            acked_by: vec![0; pattern.learners.len()],
            // Votes run ahead of what is learned by less than a window.
            decrees: vec![Decree::default(); 2 * window],
            learned: 0,
            told_leader: 0,
            told_others: (0, None),
            pattern,
        }
    }

    fn hear(&mut self, links: &mut Links, from: usize, heard: Heard<'_>) {
        let kind = Kind::ALL.get(usize::from(heard.kind));
        match kind {
            Some(Kind::Submit) => {
                let mut bundle = self.spare.pop().unwrap_or_default();
                bundle.clear();
                bundle.extend_from_slice(heard.bytes);
                self.waiting.push_back((heard.u32_at(0), bundle));
            }
            Some(Kind::Propose) => self.proposal(links, heard.number, heard.u32_at(0)),
            Some(Kind::Accepted) => self.vote(heard.number),
            Some(Kind::Ack) => self.ack(from, heard.number),
            Some(Kind::Replies | Kind::Other) | None => {}
        }
    }

    fn decree(&mut self, number: u64) -> &mut Decree {
        let slots = self.decrees.len() as u64;
        let place = usize::try_from(number % slots).expect("below the number of slots");
        let decree = &mut self.decrees[place];
        if decree.number < number {
            *decree = Decree {
                number,
                ..Decree::default()
            };
        }
        decree
    }

    fn proposal(&mut self, links: &mut Links, number: u64, operations: u32) {
        if self.learner.is_some() {
            self.decree(number).operations = Some(operations);
        }
        if self.accepts {
            for node in Pattern::others(&self.pattern.learners, self.me) {
                links.say(
                    node,
                    Kind::Accepted as u8,
                    number,
                    &[],
                    self.pattern.accepted,
                );
            }
            // What was learned travels with the vote.
            self.tell_leader(links);
            self.vote(number);
        }
    }

    fn vote(&mut self, number: u64) {
        if self.learner.is_some() {
            self.decree(number).votes += 1;
        }
    }

    fn ack(&mut self, from: usize, learned: u64) {
        if let Some(place) = self.pattern.learners.iter().position(|node| *node == from) {
            self.acked_by[place] = self.acked_by[place].max(learned);
        }
    }

    /// What a turn brought is learned, answered, acknowledged and makes room for batches.
    fn end_turn(&mut self, links: &mut Links, now: Instant) {
        self.learn(links);
        if self.me == self.pattern.leader {
            self.propose(links);
            // Alone, its own vote may decide.
            self.learn(links);
        }
        self.acknowledge(links, now);
    }

    fn tell_leader(&mut self, links: &mut Links) {
        let Pattern { leader, ack, .. } = self.pattern;
        if self.learned > self.told_leader && self.me != leader {
            self.told_leader = self.learned;
            links.say(leader, Kind::Ack as u8, self.learned, &[], ack);
        }
    }

    /// The leader is told with the next vote, or at once before it would run out of slots; all others of as many decrees as
    /// the delay brings. Those of the end are left out.
    fn acknowledge(&mut self, links: &mut Links, now: Instant) {
        let Pattern {
            leader,
            ack,
            ack_delay,
            in_flight,
            ..
        } = self.pattern;
        if !self.accepts || self.learned - self.told_leader >= in_flight / 2 {
            self.tell_leader(links);
        }
        let (told, at) = self.told_others;
        if self.learned > told && at.is_none_or(|at| now - at >= ack_delay) {
            self.told_others = (self.learned, Some(now));
            for node in (0..links.client()).filter(|node| *node != self.me && *node != leader) {
                let told = self.pattern.acceptors.contains(&node)
                    || self.pattern.proposers.contains(&node);
                if told {
                    links.say(node, Kind::Ack as u8, self.learned, &[], ack);
                }
            }
        }
    }

    fn learn(&mut self, links: &mut Links) {
        let Some(place) = self.learner else { return };
        loop {
            let (number, learn) = (self.learned + 1, self.pattern.learn);
            let decree = *self.decree(number);
            let (Some(operations), true) = (decree.operations, decree.votes >= learn) else {
                return;
            };
            self.learned = number;
            self.ack(self.me, number);
            links.say(
                links.client(),
                Kind::Replies as u8,
                number,
                &[&operations.to_le_bytes()],
                self.pattern.replies[place].of(operations),
            );
        }
    }

    fn propose(&mut self, links: &mut Links) {
        while !self.waiting.is_empty() && self.proposed - self.progress() < self.pattern.in_flight {
            let (mut operations, mut count, mut bytes) = (0, 0, 0);
            for (more, bundle) in &self.waiting {
                if count > 0 && bytes + bundle.len() > self.pattern.body_bytes_max {
                    break;
                }
                operations += more;
                count += 1;
                bytes += bundle.len();
            }
            self.proposed += 1;
            let head: &[u8] = &u32::to_le_bytes(operations);
            // What a proposal has beside its bundles stands in front of them.
            let padding = vec![
                0;
                self.pattern
                    .propose_more
                    .saturating_sub(MESSAGE_BYTES_MIN + 4)
            ];
            let mut parts = vec![head, padding.as_slice()];
            parts.extend(
                self.waiting
                    .iter()
                    .take(count)
                    .map(|(_, bundle)| bundle.as_slice()),
            );
            for node in 0..links.client() {
                let told =
                    self.pattern.acceptors.contains(&node) || self.pattern.learners.contains(&node);
                if told && node != self.me {
                    links.say(node, Kind::Propose as u8, self.proposed, &parts, 0);
                }
            }
            for (_, bundle) in self.waiting.drain(..count) {
                self.spare.push(bundle);
            }
            self.proposal(links, self.proposed, operations);
        }
    }

    /// What `progress` learners acknowledged.
    fn progress(&self) -> u64 {
        let mut acked = self.acked_by.clone();
        acked.sort_unstable_by(|a, b| b.cmp(a));
        acked.get(self.pattern.progress - 1).copied().unwrap_or(0)
    }
}
