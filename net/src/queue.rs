//! Bounded lock-free hand-off into a loop, and the wake-up of a loop that sleeps.
//!
//! ```text
//! other threads ── Sender::send ──► ArrayQueue ──► Receiver::receive ── the loop, in its turn
//!                        └── WakeUp::wake ── a system call only if the loop sleeps
//! ```
//!
//! Waking a sleeper costs microseconds and a system call, pushing costs nanoseconds (DESIGN.md section 3). So a sender rings only when the loop has
//! said that it sleeps; a busy loop finds the work in its next turn anyway. One [`WakeUp`] serves a loop, any number of queues share it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crossbeam_queue::ArrayQueue;

/// The loop is in its turn and nobody has asked for another one.
const AWAKE: u8 = 0;
/// Somebody asked for another turn: the loop must not block.
const NOTIFIED: u8 = 1;
/// The loop blocks, or is about to: who finds this must ring.
const ASLEEP: u8 = 2;

/// How other threads get a loop to take a turn. Clones wake the same loop.
#[derive(Clone)]
pub struct WakeUp {
    shared: Arc<WakeUpState>,
}

struct WakeUpState {
    state: AtomicU8,
    ring: Box<dyn Fn() + Send + Sync>,
}

impl WakeUp {
    /// A wake-up whose `ring` interrupts the wait of a sleeping loop.
    pub fn new(ring: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            shared: Arc::new(WakeUpState {
                state: AtomicU8::new(AWAKE),
                ring: Box::new(ring),
            }),
        }
    }

    /// Makes the loop take a turn after this call: it ends its sleep, or does not begin one.
    pub fn wake(&self) {
        // The swap releases what the caller wrote before it; `woke` acquires it.
        if self.shared.state.swap(NOTIFIED, Ordering::AcqRel) == ASLEEP {
            (self.shared.ring)();
        }
    }

    /// The loop asks to sleep. False means that it was notified meanwhile and must take a turn first.
    pub(crate) fn may_sleep(&self) -> bool {
        self.shared
            .state
            .compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// The loop is up again; every notification before this moment is answered by the turn that follows.
    pub(crate) fn woke(&self) {
        self.shared.state.swap(AWAKE, Ordering::AcqRel);
    }
}

impl fmt::Debug for WakeUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WakeUp")
    }
}

/// A queue of at most `capacity` items into the loop that `wake_up` wakes.
///
/// # Panics
/// When `capacity` is zero.
#[must_use]
pub fn bounded<T>(capacity: usize, wake_up: WakeUp) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        items: ArrayQueue::new(capacity),
        closed: AtomicBool::new(false),
    });
    (
        Sender {
            shared: Arc::clone(&shared),
            wake_up,
        },
        Receiver { shared },
    )
}

struct Shared<T> {
    items: ArrayQueue<T>,
    closed: AtomicBool,
}

/// The end that any thread may push into.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
    wake_up: WakeUp,
}

impl<T> Sender<T> {
    /// Hands `item` to the loop, and wakes the loop if it sleeps. Never blocks.
    ///
    /// # Errors
    /// Gives the item back when the queue is full or the receiver is gone.
    pub fn send(&self, item: T) -> Result<(), SendError<T>> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(SendError::Closed(item));
        }
        self.shared.items.push(item).map_err(SendError::Full)?;
        self.wake_up.wake();
        Ok(())
    }

    /// Whether the receiver is gone, so that nothing sent will be read any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            wake_up: self.wake_up.clone(),
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Sender({} of {})",
            self.shared.items.len(),
            self.shared.items.capacity()
        )
    }
}

/// The loop's end.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Receiver<T> {
    /// The oldest item, if there is one.
    #[must_use]
    pub fn receive(&self) -> Option<T> {
        self.shared.items.pop()
    }

    /// Items that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.items.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shared.items.is_empty()
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        // Items may own what others wait for (reply channels): they must not lie here until the last sender goes.
        while self.shared.items.pop().is_some() {}
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Receiver({} of {})",
            self.shared.items.len(),
            self.shared.items.capacity()
        )
    }
}

/// Why an item was not taken; it comes back.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SendError<T> {
    /// The queue holds its capacity already: try again later, or shed the load.
    #[error("the queue into the loop is full; try again later")]
    Full(T),
    /// The loop has ended.
    #[error("the loop has ended")]
    Closed(T),
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    fn counted() -> (WakeUp, Arc<AtomicUsize>) {
        let rings = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&rings);
        let wake_up = WakeUp::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        (wake_up, rings)
    }

    #[test]
    fn only_a_sleeper_is_rung_and_only_once() {
        let (wake_up, rings) = counted();
        let (sender, receiver) = bounded(8, wake_up.clone());
        sender.send(1).unwrap();
        assert_eq!(rings.load(Ordering::Relaxed), 0, "the loop is awake");
        assert!(!wake_up.may_sleep(), "a notified loop takes a turn first");
        wake_up.woke();
        assert!(wake_up.may_sleep());
        sender.send(2).unwrap();
        sender.send(3).unwrap();
        assert_eq!(rings.load(Ordering::Relaxed), 1);
        wake_up.woke();
        assert_eq!(
            [receiver.receive(), receiver.receive(), receiver.receive()],
            [Some(1), Some(2), Some(3)]
        );
        assert_eq!(receiver.receive(), None);
    }

    #[test]
    fn a_full_queue_gives_the_item_back() {
        let (sender, receiver) = bounded(1, counted().0);
        sender.send("a").unwrap();
        assert_eq!(sender.send("b"), Err(SendError::Full("b")));
        assert_eq!(receiver.receive(), Some("a"));
        sender.send("b").unwrap();
    }

    #[test]
    fn senders_learn_that_the_receiver_is_gone_and_its_items_are_dropped() {
        let (sender, receiver) = bounded(4, counted().0);
        let item = Arc::new(());
        sender.send(Arc::clone(&item)).unwrap();
        drop(receiver);
        assert_eq!(Arc::strong_count(&item), 1);
        assert!(sender.is_closed());
        assert!(matches!(sender.send(item), Err(SendError::Closed(_))));
    }

    /// A lost wake-up would leave the sleeper in `recv_timeout` until it fails.
    #[test]
    fn no_wake_up_is_lost_between_threads() {
        const ITEMS: u32 = 20_000;
        let (ring, rung) = mpsc::channel();
        let wake_up = WakeUp::new(move || ring.send(()).expect("the loop outlives its senders"));
        let (sender, receiver) = bounded(64, wake_up.clone());
        let feeder = std::thread::spawn(move || {
            for item in 0..ITEMS {
                while sender.send(item).is_err() {
                    std::thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        while expected < ITEMS {
            if wake_up.may_sleep() {
                rung.recv_timeout(Duration::from_secs(20))
                    .expect("a sleeper is rung");
            }
            wake_up.woke();
            while let Some(item) = receiver.receive() {
                assert_eq!(item, expected);
                expected += 1;
            }
        }
        feeder.join().unwrap();
    }
}
