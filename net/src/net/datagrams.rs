//! Links of datagrams over time: what is said again, what keeps a link up, and what takes it down. Streams have none of it.
//!
//! All of them are looked at a few times a second, more often while one of them waits for something: the cost is that of a walk over a table.

use std::io;
use std::time::{Duration, Instant};

use twostep_crypto::Party;

use super::Net;
use super::table::{Phase, Slot, SlotUse};
use crate::driver::{Driver, Key};
use crate::fault::{Direction, Faults};
use crate::link::{Doubt, Link, LinkId};
use crate::packet::split;
use crate::refusal::LinkDown;

/// How often links are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often while one of them waits: so often an unanswered Hello is said again.
const LOOK_EVERY_WAITING: Duration = Duration::from_millis(50);
/// A link on which we have said nothing for so long gets a Credit.
const KEEP_UP_AFTER: Duration = Duration::from_millis(500);
/// A link on which nothing has come for so long is down: half a dozen Credits in a row were lost, or the other side is gone or stands still.
const DOWN_AFTER: Duration = Duration::from_secs(3);
/// A link whose packets the network says nobody takes is down if nothing comes for so long. The network's word alone can be forged.
const UNREACHABLE_DOWN_AFTER: Duration = Duration::from_millis(700);
/// How long to wait for credit before what is under way counts as lost.
const FORGET_AFTER: Duration = Duration::from_millis(100);

/// How long an attempt goes on that something speaks against, in case that was forged: a few questions long.
const DOUBT_FOR: Duration = Duration::from_millis(200);

/// How often links are searched for missing pieces at most.
const MEND_EVERY: Duration = Duration::from_millis(1);

/// What the table keeps of a link of datagrams.
#[derive(Clone, Copy)]
pub(crate) struct Liveness {
    /// When something that verified last came.
    pub heard: Instant,
    /// When something last left.
    pub said: Instant,
    /// Since when the network says that nobody takes our packets; none once something has come.
    pub unreachable: Option<Instant>,
    /// Since when packets wait for credit.
    pub waits: Option<Instant>,
    /// Since when something speaks against a link that we dial.
    pub doubts: Option<Instant>,
}

impl Liveness {
    pub fn new(now: Instant) -> Self {
        Self {
            heard: now,
            said: now,
            unreachable: None,
            waits: None,
            doubts: None,
        }
    }
}

/// What a look at a link finds to do.
enum Todo {
    Nothing,
    Flush,
    Down(io::Error),
    Believe(Doubt),
}

impl Net {
    /// Makes `link` one of datagrams if that is the transport.
    pub(super) fn fit(&self, link: Link) -> Link {
        if self.datagrams {
            link.over_datagrams(self.driver.receive_bytes())
        } else {
            link
        }
    }

    /// Looks at the links soon, because one of them waits for something.
    pub(super) fn look_soon(&mut self) {
        if self.datagrams {
            let at = self.now + LOOK_EVERY_WAITING;
            self.look_next = Some(self.look_next.map_or(at, |next| next.min(at)));
        }
    }

    /// Looks at every link, and plans the next look.
    pub(super) fn look_at_links(&mut self) {
        let now = self.now;
        let mut waiting = false;
        for index in 0..self.slots.len() {
            let index = u32::try_from(index).expect("slots are counted in 32 bits");
            let Some(link) = self.link_at(index) else {
                continue;
            };
            let Some(connection) = self.connection_mut(link) else {
                continue;
            };
            let mut forgets = false;
            let todo = match connection.phase {
                Phase::Up(_) => {
                    forgets = connection.forgets(now);
                    connection.keep_up(now)
                }
                Phase::Handshake => connection.ask_again(now),
                Phase::Connecting | Phase::Lingering => Todo::Nothing,
            };
            waiting |= connection.liveness.waits.is_some()
                || connection.liveness.unreachable.is_some()
                || matches!(connection.phase, Phase::Connecting | Phase::Handshake);
            self.counters.credit_timeouts += u64::from(forgets);
            match todo {
                Todo::Nothing if !forgets => {}
                Todo::Nothing | Todo::Flush => self.mark_dirty(link),
                Todo::Down(error) => self.drop_connection(link, LinkDown::Io(error)),
                Todo::Believe(Doubt::Refuse(error)) => self.refuse(link, &error),
                Todo::Believe(Doubt::RefusedUs(refused)) => self.refused_us(link, refused),
            }
        }
        let every = if waiting {
            LOOK_EVERY_WAITING
        } else {
            LOOK_EVERY
        };
        self.look_next = Some(now + every);
    }

    /// Looks for missing pieces at this time, if there is one.
    pub(super) fn mend_at(&mut self, at: Option<Instant>) {
        self.mend_next = [self.mend_next, at].into_iter().flatten().min();
    }

    /// Asks on every link for what has been missing for long enough, and plans when to look again.
    pub(super) fn mend_links(&mut self) {
        let now = self.now;
        self.mend_next = None;
        for index in 0..self.slots.len() {
            let index = u32::try_from(index).expect("slots are counted in 32 bits");
            let Some(link) = self.link_at(index) else {
                continue;
            };
            let Some(connection) = self.connection_mut(link) else {
                continue;
            };
            let asks = connection.link.ask_for_missing(now);
            let at = connection.link.ask_at();
            self.mend_at(at.map(|at| at.max(now + MEND_EVERY)));
            if asks {
                self.counters.repairs += 1;
                self.mark_dirty(link);
            }
        }
    }

    /// Something that verified has come.
    pub(super) fn heard(&mut self, link: LinkId) {
        let now = self.now;
        if let Some(connection) = self.connection_mut(link) {
            connection.liveness.heard = now;
            connection.liveness.unreachable = None;
        }
    }

    /// A read has failed. On a link of datagrams that is up the error speaks of what we sent, and whoever can forge it must not end the link.
    pub(crate) fn read_failed(&mut self, link: LinkId, error: io::Error) {
        let now = self.now;
        if self.datagrams
            && let Some(connection) = self.connection_mut(link)
            && matches!(connection.phase, Phase::Up(_))
        {
            connection.liveness.unreachable.get_or_insert(now);
            return self.look_soon();
        }
        self.drop_connection(link, LinkDown::Io(error));
    }

    /// Says on every link that it ends: the end of a process says nothing by itself.
    pub(crate) fn say_goodbye(&mut self) {
        if self.datagrams {
            for index in 0..self.slots.len() {
                let index = u32::try_from(index).expect("slots are counted in 32 bits");
                if let Some(link) = self.link_at(index)
                    && let Some(connection) = self.connection_mut(link)
                {
                    connection.link.push_close();
                    self.flush_datagrams(index);
                }
            }
        }
    }

    /// Writes what waits on a link of datagrams, as far as there is credit.
    pub(super) fn flush_datagrams(&mut self, index: u32) {
        let Some(Slot {
            socket: SlotUse::Connection(connection),
            ..
        }) = self.slots.get_mut(index as usize)
        else {
            return;
        };
        connection.dirty = false;
        if connection.phase == Phase::Connecting {
            return;
        }
        let mut wrote = 0;
        if !connection.link.control().is_empty() {
            // Lost if there is no room: the next one says more.
            wrote += self
                .driver
                .write(Key(index), connection.link.control())
                .unwrap_or(0);
            connection.link.control_sent();
        }
        let mut waits = false;
        if connection.writable && connection.phase != Phase::Lingering {
            let (bytes, more) = connection.link.outgoing_within_credit();
            let allowed = bytes.len();
            let count = match connection.phase {
                _ if allowed == 0 => 0,
                Phase::Up(party) if self.faults.is_active() => {
                    write_some(&mut *self.driver, &mut self.faults, index, party, bytes)
                }
                _ => self.driver.write(Key(index), bytes).unwrap_or(0),
            };
            connection.link.sent_within_credit(count);
            connection.writable = count == allowed;
            waits = more;
            wrote += count;
        }
        let sealed = connection.link.newly_sealed();
        if wrote > 0 {
            connection.liveness.said = self.now;
        }
        let begins = waits && connection.liveness.waits.is_none();
        connection.liveness.waits = match connection.liveness.waits {
            // Whatever still leaves shows that credit comes.
            Some(since) if waits && wrote == 0 => Some(since),
            _ if waits => Some(self.now),
            _ => None,
        };
        self.counters.packets_out += sealed;
        self.counters.macs += sealed;
        self.counters.bytes_out += wrote as u64;
        if begins {
            self.look_soon();
        }
    }
}

/// Writes those datagrams that no fault loses, as many at once as stand together. Returns the bytes of both.
fn write_some(
    driver: &mut dyn Driver,
    faults: &mut Faults,
    index: u32,
    party: Party,
    bytes: &[u8],
) -> usize {
    let (mut done, mut at) = (0, 0);
    loop {
        let packet = split(&bytes[at..], usize::MAX).ok().flatten();
        let lost = packet.is_some_and(|_| faults.loses_datagram(Direction::Out, party));
        if (lost || packet.is_none()) && at > done {
            done += driver.write(Key(index), &bytes[done..at]).unwrap_or(0);
            if done < at {
                return done;
            }
        }
        let Some(packet) = packet else {
            return done;
        };
        at += packet.len();
        if lost {
            done = at;
        }
    }
}

impl super::table::Connection {
    /// Keeps a link up that says nothing, or finds that it is down.
    fn keep_up(&mut self, now: Instant) -> Todo {
        let Liveness {
            heard,
            said,
            unreachable,
            ..
        } = self.liveness;
        let since = |at: Instant| now.saturating_duration_since(at);
        if since(heard) >= DOWN_AFTER {
            let words = format!("nothing has come for {} s", DOWN_AFTER.as_secs());
            return Todo::Down(io::Error::new(io::ErrorKind::TimedOut, words));
        }
        if unreachable.is_some_and(|at| since(at) >= UNREACHABLE_DOWN_AFTER) {
            return Todo::Down(io::ErrorKind::ConnectionRefused.into());
        }
        if since(said) >= KEEP_UP_AFTER {
            self.link.push_credit();
            return Todo::Flush;
        }
        Todo::Nothing
    }

    /// Says our Hello again where a link is not up yet, or believes what has spoken against it for long enough.
    fn ask_again(&mut self, now: Instant) -> Todo {
        if let Some(doubt) = self.link.doubt() {
            let since = *self.liveness.doubts.get_or_insert(now);
            if now.saturating_duration_since(since) >= DOUBT_FOR {
                return Todo::Believe(doubt.clone());
            }
        }
        if self.link.repeat_hello() {
            Todo::Flush
        } else {
            Todo::Nothing
        }
    }

    /// Takes what is under way for lost, once it has waited long enough.
    fn forgets(&mut self, now: Instant) -> bool {
        let long = |at: Instant| now.saturating_duration_since(at) >= FORGET_AFTER;
        let forgets = self.liveness.waits.is_some_and(long);
        if forgets {
            self.link.forget_under_way();
            self.liveness.waits = None;
        }
        forgets
    }
}
