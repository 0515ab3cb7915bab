//! Faults on purpose: delay, loss, duplication and partition of whole messages, per peer and direction, in user space.
//!
//! Off unless somebody sets a rule, and then the common path pays one branch. Messages are judged before they are sealed and after they are opened, so a
//! link stays authenticated and its counters stay in order, and the protocol above sees what a bad network would show it. A delayed message
//! is copied into a bounded store; over the bound it is lost, as in a router. Random delays reorder messages.
//! Datagrams can also be lost whole, after they are sealed and before they are opened, as on the way.
//!
//! The choices come from a seeded generator of this file's own, so that a run can be repeated as far as the timing of threads allows.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use twostep_crypto::Party;

use crate::link::LinkId;

/// Most bytes of delayed messages held at once; more is lost.
const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// One in [`MILLION`] is the unit of the rates.
const MILLION: u32 = 1_000_000;

/// Which way a message goes, seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From the peer to us.
    In,
    /// From us to the peer.
    Out,
}

/// What happens to the messages of one direction. The default does nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultRule {
    /// Lose everything.
    pub cut: bool,
    /// Lose this many of a million messages.
    pub loss_ppm: u32,
    /// Lose this many of a million datagrams, where links are of datagrams; what is lost of a large message is asked for again.
    pub datagram_loss_ppm: u32,
    /// Deliver this many of a million messages twice.
    pub duplicate_ppm: u32,
    /// Delay every message by at least this.
    pub delay_min: Duration,
    /// Delay every message by at most this (at least `delay_min`).
    pub delay_max: Duration,
}

impl FaultRule {
    /// A rule that loses everything: one side of a partition.
    #[must_use]
    pub fn cut() -> Self {
        Self {
            cut: true,
            ..Self::default()
        }
    }

    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// What shall happen to one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// How often it is delivered: none, one or two times.
    pub copies: u8,
    pub delay: Duration,
}

/// A message that waits for its time.
#[derive(Debug)]
pub(crate) struct Held {
    pub direction: Direction,
    pub link: LinkId,
    pub party: Party,
    pub bytes: Vec<u8>,
}

/// The faults of one loop.
#[derive(Debug)]
pub struct Faults {
    active: bool,
    everyone: [FaultRule; 2],
    /// Take the place of the rule for everyone.
    peers: BTreeMap<(Party, Direction), FaultRule>,
    random: SplitMix,
    held: BTreeMap<(Instant, u64), Held>,
    held_bytes: usize,
    held_count: u64,
    lost: u64,
    duplicated: u64,
    delayed: u64,
}

impl Faults {
    /// No faults yet; `seed` decides the choices once there are rules.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            active: false,
            everyone: [FaultRule::default(); 2],
            peers: BTreeMap::new(),
            random: SplitMix(seed),
            held: BTreeMap::new(),
            held_bytes: 0,
            held_count: 0,
            lost: 0,
            duplicated: 0,
            delayed: 0,
        }
    }

    /// Sets the rule for every peer that has none of its own.
    pub fn set_everyone(&mut self, direction: Direction, rule: FaultRule) {
        self.everyone[direction as usize] = rule;
        self.update();
    }

    /// Sets the rule for one peer, which takes the place of the rule for everyone. Setting one direction only makes one-way faults.
    pub fn set_peer(&mut self, peer: Party, direction: Direction, rule: FaultRule) {
        self.peers.insert((peer, direction), rule);
        self.update();
    }

    /// Ends all faults. What is delayed already still comes at its time.
    pub fn clear(&mut self) {
        self.everyone = [FaultRule::default(); 2];
        self.peers.clear();
        self.update();
    }

    /// Whether any rule is set.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active
    }

    /// Messages and datagrams lost, messages duplicated and delayed by rules so far.
    #[must_use]
    pub fn counts(&self) -> FaultCounts {
        FaultCounts {
            lost: self.lost,
            duplicated: self.duplicated,
            delayed: self.delayed,
        }
    }

    fn rule(&self, direction: Direction, peer: Party) -> FaultRule {
        *self
            .peers
            .get(&(peer, direction))
            .unwrap_or(&self.everyone[direction as usize])
    }

    /// Whether the next datagram is lost.
    pub(crate) fn loses_datagram(&mut self, direction: Direction, peer: Party) -> bool {
        let rule = self.rule(direction, peer);
        let loses = self.random.chance(rule.datagram_loss_ppm);
        self.lost += u64::from(loses);
        loses
    }

    pub(crate) fn judge(&mut self, direction: Direction, peer: Party) -> Verdict {
        let rule = self.rule(direction, peer);
        if rule.cut || self.random.chance(rule.loss_ppm) {
            self.lost += 1;
            return Verdict {
                copies: 0,
                delay: Duration::ZERO,
            };
        }
        let copies = if self.random.chance(rule.duplicate_ppm) {
            2
        } else {
            1
        };
        self.duplicated += u64::from(copies == 2);
        let spread = rule.delay_max.saturating_sub(rule.delay_min);
        let delay = rule.delay_min + self.random.up_to(spread);
        Verdict { copies, delay }
    }

    /// Keeps a message until `due`.
    pub(crate) fn hold(&mut self, due: Instant, held: Held) {
        if self.held_bytes + held.bytes.len() > HELD_BYTES_MAX {
            self.lost += 1;
            return;
        }
        self.delayed += 1;
        self.held_bytes += held.bytes.len();
        self.held_count += 1;
        self.held.insert((due, self.held_count), held);
    }

    /// A held message whose time has come.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Held> {
        let first = self
            .held
            .first_entry()
            .filter(|first| first.key().0 <= now)?;
        let held = first.remove();
        self.held_bytes -= held.bytes.len();
        Some(held)
    }

    /// When the next held message is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.held.first_key_value().map(|((due, _), _)| *due)
    }

    fn update(&mut self) {
        // A peer's rule that does nothing stays: it spares the peer from the rule for everyone, whichever is set first.
        self.active = self
            .peers
            .values()
            .chain(&self.everyone)
            .any(|rule| !rule.is_nothing());
    }
}

/// What the rules have done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Messages and datagrams lost.
    pub lost: u64,
    /// Messages delivered twice.
    pub duplicated: u64,
    /// Messages held back for a time.
    pub delayed: u64,
}

/// `SplitMix64` (Steele, Lea, Flood: "Fast splittable pseudorandom number generators"): tiny, and good enough to choose victims and jitter.
#[derive(Clone, Debug)]
pub(crate) struct SplitMix(pub u64);

impl SplitMix {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// True in `ppm` of a million cases. Draws nothing when it never is.
    fn chance(&mut self, ppm: u32) -> bool {
        ppm > 0 && self.next() % u64::from(MILLION) < u64::from(ppm)
    }

    /// A time from zero to `span`.
    pub fn up_to(&mut self, span: Duration) -> Duration {
        if span.is_zero() {
            return Duration::ZERO;
        }
        let span_ns = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.next() % span_ns.saturating_add(1).max(1))
    }
}

#[cfg(test)]
mod tests {
    use twostep_crypto::NodeId;

    use super::*;

    const A: Party = Party::Node(NodeId(1));
    const B: Party = Party::Node(NodeId(2));

    #[test]
    fn a_cut_is_per_peer_and_one_way() {
        let mut faults = Faults::new(1);
        assert!(!faults.is_active());
        faults.set_peer(A, Direction::Out, FaultRule::cut());
        assert!(faults.is_active());
        assert_eq!(faults.judge(Direction::Out, A).copies, 0);
        assert_eq!(faults.judge(Direction::In, A).copies, 1);
        assert_eq!(faults.judge(Direction::Out, B).copies, 1);
        faults.set_peer(A, Direction::Out, FaultRule::default());
        assert!(!faults.is_active(), "a rule that does nothing is none");
    }

    #[test]
    fn a_peer_can_be_spared_from_the_rule_for_everyone() {
        let mut faults = Faults::new(1);
        faults.set_everyone(Direction::In, FaultRule::cut());
        faults.set_peer(B, Direction::In, FaultRule::default());
        assert_eq!(faults.judge(Direction::In, A).copies, 0);
        assert_eq!(faults.judge(Direction::In, B).copies, 1);
        faults.clear();
        assert!(!faults.is_active());
    }

    #[test]
    fn rates_are_met_and_a_seed_repeats() {
        let run = |seed| {
            let mut faults = Faults::new(seed);
            faults.set_everyone(
                Direction::Out,
                FaultRule {
                    loss_ppm: 200_000,
                    duplicate_ppm: 500_000,
                    ..FaultRule::default()
                },
            );
            (0..10_000)
                .map(|_| faults.judge(Direction::Out, A).copies)
                .collect::<Vec<_>>()
        };
        let copies = run(42);
        assert_eq!(copies, run(42));
        assert_ne!(copies, run(43));
        let count = |n| copies.iter().filter(|&&c| c == n).count();
        assert!((1_800..2_200).contains(&count(0)), "{} lost", count(0));
        assert!(
            (3_700..4_300).contains(&count(2)),
            "{} duplicated",
            count(2)
        );
    }

    #[test]
    fn held_messages_come_at_their_time_and_in_order() {
        let mut faults = Faults::new(1);
        faults.set_everyone(
            Direction::Out,
            FaultRule {
                delay_min: Duration::from_millis(5),
                delay_max: Duration::from_millis(9),
                ..FaultRule::default()
            },
        );
        let delay = faults.judge(Direction::Out, A).delay;
        assert!((Duration::from_millis(5)..=Duration::from_millis(9)).contains(&delay));
        let start = Instant::now();
        let held = |bytes: &[u8]| Held {
            direction: Direction::Out,
            link: LinkId::NONE,
            party: A,
            bytes: bytes.to_vec(),
        };
        faults.hold(start + Duration::from_millis(2), held(b"second"));
        faults.hold(start + Duration::from_millis(1), held(b"first"));
        faults.hold(start + Duration::from_millis(2), held(b"third"));
        assert!(faults.due(start).is_none());
        assert_eq!(faults.deadline(), Some(start + Duration::from_millis(1)));
        let order: Vec<_> = std::iter::from_fn(|| {
            faults
                .due(start + Duration::from_millis(2))
                .map(|held| held.bytes)
        })
        .collect();
        assert_eq!(
            order,
            [b"first".to_vec(), b"second".to_vec(), b"third".to_vec()]
        );
    }

    #[test]
    fn the_store_of_held_messages_is_bounded() {
        let mut faults = Faults::new(1);
        let now = Instant::now();
        for _ in 0..70 {
            faults.hold(
                now,
                Held {
                    direction: Direction::In,
                    link: LinkId::NONE,
                    party: A,
                    bytes: vec![0; 1 << 20],
                },
            );
        }
        assert_eq!(
            faults.counts(),
            FaultCounts {
                lost: 6,
                duplicated: 0,
                delayed: 64
            }
        );
    }
}
