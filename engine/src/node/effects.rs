//! Where the effects of a step go: messages to links at once, everything else to the host.

use std::collections::{BTreeMap, VecDeque};

use tracing::{debug, error, info, warn};
use twostep_net::{LinkId, Net, SendOutcome};

use crate::batch::Batch;
use crate::journal::Recorder;
use crate::letter::Letter;
use crate::machine::{Again, Effects, Event, Path, Question, Record, To};
use crate::message::Message;
use crate::node::stages::{Stage, Stages};
use crate::types::{ClientId, Decree, RecordSeq, Time};

/// Where messages go: to the links of this loop, or to the lanes that have them.
pub(super) trait Links {
    /// Sends a message. One that finds no link or no room is lost: the protocol says again what matters, and it is counted.
    fn send(&mut self, to: To, message: &Message<'_>);
}

/// The links of every connected client at one loop.
#[derive(Debug, Default)]
pub(super) struct ClientLinks(BTreeMap<ClientId, Vec<LinkId>>);

impl ClientLinks {
    /// A link is up.
    pub fn add(&mut self, client: ClientId, link: LinkId) {
        self.0.entry(client).or_default().push(link);
    }

    /// A connection has ended; false if its link was not up.
    pub fn remove(&mut self, client: ClientId, link: LinkId) -> bool {
        let Some(links) = self.0.get_mut(&client) else {
            return false;
        };
        let before = links.len();
        links.retain(|one| *one != link);
        let was_up = links.len() < before;
        if links.is_empty() {
            self.0.remove(&client);
        }
        was_up
    }

    /// Those of one client.
    pub fn of(&self, client: ClientId) -> &[LinkId] {
        self.0.get(&client).map_or(&[], Vec::as_slice)
    }

    /// How many there are in all.
    pub fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }
}

/// The links of this loop.
pub(super) struct Direct<'a> {
    /// The links.
    pub net: &'a mut Net,
    /// Those to clients.
    pub clients: &'a ClientLinks,
    /// Where messages are encoded, once each.
    pub letter: &'a mut Letter,
}

impl Links for Direct<'_> {
    fn send(&mut self, to: To, message: &Message<'_>) {
        let letter = self.letter.write(message);
        match to {
            To::Nodes(nodes) => {
                for node in nodes.iter() {
                    if let Some(link) = self.net.link_to(node) {
                        let _: SendOutcome = letter.send(self.net, link);
                    }
                }
            }
            To::Client(client) => {
                for link in self.clients.of(client) {
                    let _: SendOutcome = letter.send(self.net, *link);
                }
            }
        }
    }
}

/// What the effects of a step leave to the host.
pub(super) struct Outbox {
    /// Stored, as far as it is told to be, and not yet said: without a journal.
    pub stored: Option<RecordSeq>,
    /// The journal; none if records count as stored at once.
    pub recorder: Option<Recorder>,
    /// Delivered and not yet executed.
    pub delivered: VecDeque<(Decree, Batch)>,
    /// To be asked of the session table.
    pub questions: VecDeque<Question>,
    /// What was refused, by name.
    pub refusals: BTreeMap<&'static str, u64>,
    /// How much was refused in all.
    pub refused: u64,
    /// What happened.
    pub counts: EventCounts,
    /// How long it took.
    pub stages: Stages,
}

impl Outbox {
    /// Empty, of a node with a window of so many decrees.
    pub fn new(window: u64) -> Outbox {
        Outbox {
            stored: None,
            recorder: None,
            delivered: VecDeque::new(),
            questions: VecDeque::new(),
            refusals: BTreeMap::new(),
            refused: 0,
            counts: EventCounts::default(),
            stages: Stages::new(window),
        }
    }

    /// Counts a refusal.
    pub fn refuse(&mut self, name: &'static str) {
        *self.refusals.entry(name).or_default() += 1;
        self.refused += 1;
    }
}

/// Counts of events.
#[derive(Default)]
pub(super) struct EventCounts {
    decrees_by_votes: u64,
    decrees_by_pull: u64,
    votes: u64,
    proposals: u64,
    bundles_proposed: u64,
    records: u64,
    regencies: u64,
    doubts: u64,
    snapshots: u64,
    installed: u64,
    archived: u64,
    sent_again: [u64; 10],
}

/// The sink of one step.
pub(super) struct Sink<'a, L> {
    /// When the step is.
    pub now: Time,
    /// Where messages go.
    pub links: &'a mut L,
    /// What is left to the host.
    pub outbox: &'a mut Outbox,
}

impl<L: Links> Effects for Sink<'_, L> {
    fn send(&mut self, to: To, message: &Message<'_>) {
        self.links.send(to, message);
    }

    fn store(&mut self, seq: RecordSeq, record: &Record<'_>) {
        self.outbox.counts.records += 1;
        match &mut self.outbox.recorder {
            Some(recorder) => recorder.store(seq, record),
            None => self.outbox.stored = Some(seq),
        }
    }

    fn deliver(&mut self, decree: Decree, batch: &Batch) {
        self.outbox.delivered.push_back((decree, batch.clone()));
    }

    fn ask(&mut self, question: Question) {
        self.outbox.counts.archived += u64::from(matches!(question, Question::Archive(_)));
        self.outbox.questions.push_back(question);
    }

    fn observe(&mut self, event: Event) {
        let Outbox { counts, stages, .. } = &mut *self.outbox;
        match event {
            Event::Proposed {
                decree,
                bundles,
                waited,
                ..
            } => {
                stages.record(Stage::Batch, waited);
                stages.proposed(decree, self.now);
                counts.proposals += 1;
                counts.bundles_proposed += u64::from(bundles);
            }
            Event::Voted { decree, .. } => {
                stages.proposed(decree, self.now);
                counts.votes += 1;
            }
            Event::Learned {
                decree,
                path: Path::Votes,
                ..
            } => {
                stages.learned(decree, self.now);
                counts.decrees_by_votes += 1;
            }
            Event::Learned {
                path: Path::Pull, ..
            } => counts.decrees_by_pull += 1,
            Event::Low { .. } | Event::Timeout { .. } => {}
            Event::Regency { regency } => {
                counts.regencies += 1;
                info!("entered regency {regency}");
            }
            Event::Rejoined { regency } => {
                info!("takes part again after a lost disk, from regency {regency} on");
            }
            Event::Suspected { regency } => {
                warn!("the leader is suspected: this node wants regency {regency}");
            }
            Event::Refused { from, why } => {
                debug!("refused what {from} said: {why}");
                self.outbox.refuse(why.name());
            }
            Event::Doubted { .. } => counts.doubts += 1,
            Event::OnSignatures { client, for_good } => warn!(
                "tags of client {client} are doubted by f+1 acceptors: it must sign {}",
                if for_good {
                    "from now on"
                } else {
                    "until the next regency"
                }
            ),
            Event::SentAgain(again) => counts.sent_again[place(again)] += 1,
            Event::Diverged { decree } => error!(
                "DIVERGED at decree {decree}: the results differ from those of other learners; this node executes and \
                 answers no more until it has installed a certified snapshot. Its state machine is not deterministic, \
                 or its memory is damaged"
            ),
            Event::SnapshotCertified { decree } => {
                counts.snapshots += 1;
                debug!("the snapshot after decree {decree} is certified");
            }
            Event::SnapshotFailed { decree } => warn!(
                "no snapshot after decree {decree}: the one before is still under way, or there is no room; if this goes on, \
                 raise snapshot_every of the cluster or the room for snapshots"
            ),
            Event::TransferBegun { decree } => {
                warn!(
                    "what this node lacks is in no log any more: receiving the snapshot after decree {decree}"
                );
            }
            Event::Installed { decree } => {
                counts.installed += 1;
                info!("installed the snapshot after decree {decree}, and learning on from there");
            }
        }
    }
}

const SENT_AGAIN: [(&str, Again); 10] = [
    ("sent_again.propose", Again::Propose),
    ("sent_again.accepted", Again::Accepted),
    ("sent_again.checkpoint", Again::Checkpoint),
    ("sent_again.pull", Again::Pull),
    ("sent_again.fetch", Again::Fetch),
    ("sent_again.vote", Again::Vote),
    ("sent_again.gather", Again::Gather),
    ("sent_again.snapshot", Again::Snapshot),
    ("sent_again.ask_snapshot", Again::AskSnapshot),
    ("sent_again.recall", Again::Recall),
];

fn place(again: Again) -> usize {
    SENT_AGAIN
        .iter()
        .position(|(_, one)| *one == again)
        .expect("the table names every case")
}

impl EventCounts {
    /// The counts by name, for status.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let again = SENT_AGAIN
            .iter()
            .map(|(name, again)| (*name, self.sent_again[place(*again)]));
        [
            ("decrees.by_votes", self.decrees_by_votes),
            ("decrees.by_pull", self.decrees_by_pull),
            ("votes", self.votes),
            ("proposals", self.proposals),
            ("proposals.bundles", self.bundles_proposed),
            ("records", self.records),
            ("regencies", self.regencies),
            ("proposals.doubted", self.doubts),
            ("snapshots.certified", self.snapshots),
            ("snapshots.installed", self.installed),
            ("archive.questions", self.archived),
        ]
        .into_iter()
        .chain(again)
    }
}
