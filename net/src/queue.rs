//! Bounded lock-free hand-off into a loop, and the wake-up of a loop that sleeps.
//!
//! ```text
//! other threads ── Sender::send ──► ArrayQueue ──► Receiver::receive ── the loop, in its turn
//!                        └── WakeUp::wake ── a system call only if the loop sleeps
//!               ◄── WakeUp::wake, when a full queue has room again (`bounded_both`) ──┘
//! ```
//!
//! Waking a sleeper costs microseconds and a system call, pushing costs nanoseconds (DESIGN.md section 3). So a sender rings only when the loop has
//! said that it sleeps; a busy loop finds the work in its next turn anyway. One [`WakeUp`] serves a loop, any number of queues share it.
//!
//! Two rules, checked over all interleavings by `tests/wake_up.rs` with the atomics and queues of a model checker in place of [`Flag`] and [`Slots`]:
//! no wake-up is lost (what was pushed before a loop sleeps, or while it does, is received without any further push), and nobody rings a loop that is awake.

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

/// The atomic that a wake-up rests on: the standard one, or that of a model checker.
pub trait Flag: Send + Sync + 'static {
    /// A flag with this value.
    fn new(value: u8) -> Self;
    /// Puts `value` in and returns what was there, both acquiring and releasing.
    fn swap(&self, value: u8) -> u8;
    /// Puts `to` in if `from` is there, both acquiring and releasing; whether it was.
    fn replace(&self, from: u8, to: u8) -> bool;
}

impl Flag for AtomicU8 {
    fn new(value: u8) -> Self {
        AtomicU8::new(value)
    }

    fn swap(&self, value: u8) -> u8 {
        AtomicU8::swap(self, value, Ordering::AcqRel)
    }

    fn replace(&self, from: u8, to: u8) -> bool {
        self.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

/// The bounded queue that a hand-off rests on: lock-free, or that of a model checker.
pub trait Slots<T> {
    /// Adds an item at the end.
    ///
    /// # Errors
    /// Gives it back when there is no room.
    fn push(&self, item: T) -> Result<(), T>;
    /// Takes the oldest item.
    fn pop(&self) -> Option<T>;
    /// Items that wait.
    fn len(&self) -> usize;
    /// Whether nothing waits.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The most items that may wait.
    fn capacity(&self) -> usize;
}

impl<T> Slots<T> for ArrayQueue<T> {
    fn push(&self, item: T) -> Result<(), T> {
        ArrayQueue::push(self, item)
    }

    fn pop(&self) -> Option<T> {
        ArrayQueue::pop(self)
    }

    fn len(&self) -> usize {
        ArrayQueue::len(self)
    }

    fn capacity(&self) -> usize {
        ArrayQueue::capacity(self)
    }
}

/// How other threads get a loop to take a turn. Clones wake the same loop.
pub struct WakeUp<F = AtomicU8> {
    shared: Arc<WakeUpState<F>>,
}

struct WakeUpState<F> {
    state: F,
    ring: Box<dyn Fn() + Send + Sync>,
}

impl WakeUp {
    /// A wake-up whose `ring` interrupts the wait of a sleeping loop.
    pub fn new(ring: impl Fn() + Send + Sync + 'static) -> Self {
        WakeUp::over(ring)
    }
}

impl<F: Flag> WakeUp<F> {
    /// The same over another atomic.
    pub fn over(ring: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            shared: Arc::new(WakeUpState {
                state: F::new(AWAKE),
                ring: Box::new(ring),
            }),
        }
    }

    /// Makes the loop take a turn after this call: it ends its sleep, or does not begin one.
    pub fn wake(&self) {
        // The swap releases what the caller wrote before it; `woke` acquires it.
        if self.shared.state.swap(NOTIFIED) == ASLEEP {
            (self.shared.ring)();
        }
    }

    /// The loop asks to sleep. False means that it was notified meanwhile and must take a turn first. The loop's side, as is [`woke`](Self::woke).
    #[must_use]
    pub fn may_sleep(&self) -> bool {
        self.shared.state.replace(AWAKE, ASLEEP)
    }

    /// The loop is up again; every notification before this moment is answered by the turn that follows.
    pub fn woke(&self) {
        self.shared.state.swap(AWAKE);
    }
}

impl<F> Clone for WakeUp<F> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<F> fmt::Debug for WakeUp<F> {
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
    over(ArrayQueue::new(capacity), wake_up, None)
}

/// The same between two loops: `room` wakes the sending loop when a full queue has room again, so that it may sleep on an item that came back.
///
/// # Panics
/// When `capacity` is zero.
#[must_use]
pub fn bounded_both<T>(capacity: usize, wake_up: WakeUp, room: WakeUp) -> (Sender<T>, Receiver<T>) {
    over(ArrayQueue::new(capacity), wake_up, Some(room))
}

/// A hand-off over any queue: `wake_up` wakes the receiving loop, `room` the sending one, if it is one.
#[must_use]
pub fn over<T, Q: Slots<T>, F: Flag>(
    slots: Q,
    wake_up: WakeUp<F>,
    room: Option<WakeUp<F>>,
) -> (Sender<T, Q, F>, Receiver<T, Q, F>) {
    let shared = Arc::new(Shared {
        items: slots,
        closed: AtomicBool::new(false),
    });
    let sender = Sender {
        shared: Arc::clone(&shared),
        wake_up,
        item: std::marker::PhantomData,
    };
    let receiver = Receiver {
        shared,
        room,
        item: std::marker::PhantomData,
    };
    (sender, receiver)
}

struct Shared<Q> {
    items: Q,
    closed: AtomicBool,
}

/// The end that any thread may push into.
pub struct Sender<T, Q: Slots<T> = ArrayQueue<T>, F = AtomicU8> {
    shared: Arc<Shared<Q>>,
    wake_up: WakeUp<F>,
    item: std::marker::PhantomData<fn(T)>,
}

impl<T, Q: Slots<T>, F: Flag> Sender<T, Q, F> {
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

impl<T, Q: Slots<T>, F> Clone for Sender<T, Q, F> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            wake_up: self.wake_up.clone(),
            item: std::marker::PhantomData,
        }
    }
}

impl<T, Q: Slots<T>, F> fmt::Debug for Sender<T, Q, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items = &self.shared.items;
        write!(f, "Sender({} of {})", items.len(), items.capacity())
    }
}

/// The loop's end.
pub struct Receiver<T, Q: Slots<T> = ArrayQueue<T>, F = AtomicU8> {
    shared: Arc<Shared<Q>>,
    room: Option<WakeUp<F>>,
    item: std::marker::PhantomData<fn() -> T>,
}

impl<T, Q: Slots<T>, F: Flag> Receiver<T, Q, F> {
    /// The oldest item, if there is one.
    #[must_use]
    pub fn receive(&self) -> Option<T> {
        let item = self.shared.items.pop()?;
        if let Some(room) = &self.room
            && self.shared.items.len() + 1 >= self.shared.items.capacity()
        {
            // It was full, so its sender may sleep on an item. If the sender filled it again meanwhile it wakes for nothing, once.
            room.wake();
        }
        Some(item)
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

impl<T, Q: Slots<T>, F> Drop for Receiver<T, Q, F> {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        // Items may own what others wait for (reply channels): they must not lie here until the last sender goes.
        while self.shared.items.pop().is_some() {}
    }
}

impl<T, Q: Slots<T>, F> fmt::Debug for Receiver<T, Q, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let items = &self.shared.items;
        write!(f, "Receiver({} of {})", items.len(), items.capacity())
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
