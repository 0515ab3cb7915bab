//! Pooled buffers whose handles count: bytes are received once, shared by every role and link that needs them, and their memory comes back
//! when the last handle goes.
//!
//! ```text
//! Pool::take(len) → BodyMut ── write ──► freeze() → Body ── clone, slice ──► … last drop ──► free list of its size class
//! ```
//!
//! Size classes go from 256 B to 2 MiB, four to each doubling, so that less than a fifth of a buffer lies idle. A free list holds whole counted blocks, so in steady state taking, freezing, cloning, slicing
//! and dropping allocate nothing. The free lists together never hold more than the bound given at construction; what would exceed it goes back
//! to the allocator. A buffer above the largest class is allocated for its one use.
//!
//! [`Body`] is the one item of this crate that protocol roles may name (DESIGN.md section 2).

use std::fmt;
use std::ops::{Bound, Deref, DerefMut, RangeBounds};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use crossbeam_queue::ArrayQueue;

/// Bytes of the smallest size class.
const CLASS_BYTES_MIN: usize = 256;
/// Bytes of the largest size class.
const CLASS_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Classes from one power of two to the next.
const STEPS: usize = 4;
/// How many classes there are.
const CLASSES: usize = (CLASS_BYTES_MAX / CLASS_BYTES_MIN).ilog2() as usize * STEPS + 1;
/// Most blocks that one free list holds, so that the lists themselves stay small.
const FREE_BLOCKS_MAX: usize = 1024;

/// A handle on one pool of buffers. Clones share the pool; they may be used from any thread.
#[derive(Clone)]
pub struct Pool {
    shelves: Arc<Shelves>,
}

impl Pool {
    /// A pool whose free lists keep at most `free_bytes_max` bytes for reuse. Nothing is allocated ahead of need.
    #[must_use]
    pub fn new(free_bytes_max: usize) -> Self {
        let lists = std::array::from_fn(|class| {
            let blocks = free_bytes_max / class_bytes(class);
            ArrayQueue::new(blocks.clamp(1, FREE_BLOCKS_MAX))
        });
        Self {
            shelves: Arc::new(Shelves {
                lists,
                free_bytes: AtomicUsize::new(0),
                free_bytes_max,
                made: AtomicU64::new(0),
            }),
        }
    }

    /// A buffer of exactly `len` bytes to write into. Its content is unspecified (an earlier user's bytes may stand there): write all of it or
    /// [`BodyMut::truncate`] before freezing.
    #[must_use]
    pub fn take(&self, len: usize) -> BodyMut {
        let block = match class_of(len) {
            Some(class) => self
                .shelves
                .take(class)
                .unwrap_or_else(|| self.make(class_bytes(class))),
            None => self.make(len),
        };
        BodyMut {
            block: Some(block),
            len,
        }
    }

    /// A body with a copy of `bytes`.
    #[must_use]
    pub fn copy(&self, bytes: &[u8]) -> Body {
        if bytes.is_empty() {
            return Body::empty();
        }
        let mut body = self.take(bytes.len());
        body.copy_from_slice(bytes);
        body.freeze()
    }

    /// Bytes that lie in the free lists now.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.shelves.free_bytes.load(Ordering::Relaxed)
    }

    /// Buffers that the pool had to get from the allocator so far. It stands still once the pool is warm.
    #[must_use]
    pub fn buffers_made(&self) -> u64 {
        self.shelves.made.load(Ordering::Relaxed)
    }

    fn make(&self, capacity: usize) -> Arc<Block> {
        self.shelves.made.fetch_add(1, Ordering::Relaxed);
        Arc::new(Block {
            bytes: vec![0; capacity].into_boxed_slice(),
            home: Arc::downgrade(&self.shelves),
        })
    }
}

impl Default for Pool {
    /// A pool that keeps up to 64 MiB for reuse.
    fn default() -> Self {
        Self::new(64 * 1024 * 1024)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("free_bytes", &self.free_bytes())
            .field("buffers_made", &self.buffers_made())
            .finish_non_exhaustive()
    }
}

/// A buffer that one owner writes; [`freeze`](Self::freeze) makes it a [`Body`]. Dropped unfrozen it returns to its pool as well.
pub struct BodyMut {
    /// Present until frozen or dropped; this handle is the only one.
    block: Option<Arc<Block>>,
    len: usize,
}

impl BodyMut {
    /// Shortens the buffer to `len` bytes; longer than it is changes nothing.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Makes the bytes immutable and shareable, without copying.
    #[must_use]
    pub fn freeze(mut self) -> Body {
        let block = self.block.take().expect("a buffer is frozen once");
        Body {
            start: 0,
            len: self.len,
            source: Source::Pooled(block),
        }
    }
}

impl Deref for BodyMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let block = self.block.as_ref().expect("present until frozen");
        &block.bytes[..self.len]
    }
}

impl DerefMut for BodyMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        let block = self.block.as_mut().expect("present until frozen");
        let block = Arc::get_mut(block).expect("a buffer that is being written has one handle");
        &mut block.bytes[..self.len]
    }
}

impl Drop for BodyMut {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            give_back(block);
        }
    }
}

impl fmt::Debug for BodyMut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BodyMut({} bytes)", self.len)
    }
}

/// Immutable bytes behind a counted handle. Cloning and slicing share the buffer; equality is by bytes.
#[derive(Clone)]
pub struct Body {
    source: Source,
    start: usize,
    len: usize,
}

#[derive(Clone)]
enum Source {
    Static(&'static [u8]),
    Pooled(Arc<Block>),
}

impl Body {
    /// The body without bytes. It owns no memory.
    #[must_use]
    pub const fn empty() -> Self {
        Self::from_static(&[])
    }

    /// A body over bytes that live as long as the program. It owns no memory.
    #[must_use]
    pub const fn from_static(bytes: &'static [u8]) -> Self {
        Self {
            source: Source::Static(bytes),
            start: 0,
            len: bytes.len(),
        }
    }

    /// A body that owns `bytes` and belongs to no pool: for cold paths and tests.
    #[must_use]
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        let block = Block {
            bytes: bytes.into_boxed_slice(),
            home: Weak::new(),
        };
        Self {
            source: Source::Pooled(Arc::new(block)),
            start: 0,
            len,
        }
    }

    /// The bytes in `range` as a body of its own that shares this one's buffer.
    ///
    /// # Panics
    /// When the range leaves the body or is reversed, as slicing does.
    #[must_use]
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Self {
        let from = match range.start_bound() {
            Bound::Included(&at) => at,
            Bound::Excluded(&at) => at + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(&at) => at + 1,
            Bound::Excluded(&at) => at,
            Bound::Unbounded => self.len,
        };
        assert!(
            from <= to && to <= self.len,
            "range {from}..{to} leaves a body of {} bytes",
            self.len
        );
        Self {
            source: self.source.clone(),
            start: self.start + from,
            len: to - from,
        }
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        let bytes: &[u8] = match &self.source {
            Source::Static(bytes) => bytes,
            Source::Pooled(block) => &block.bytes,
        };
        &bytes[self.start..self.start + self.len]
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Source::Pooled(block) = std::mem::replace(&mut self.source, Source::Static(&[])) {
            give_back(block);
        }
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Body {}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.len)
    }
}

/// The memory behind the handles, and the way home.
struct Block {
    bytes: Box<[u8]>,
    /// Weak, because blocks lie in the pool's own free lists: a counted way home would keep the pool alive for ever.
    home: Weak<Shelves>,
}

struct Shelves {
    lists: [ArrayQueue<Arc<Block>>; CLASSES],
    free_bytes: AtomicUsize,
    free_bytes_max: usize,
    made: AtomicU64,
}

impl Shelves {
    fn take(&self, class: usize) -> Option<Arc<Block>> {
        let block = self.lists[class].pop()?;
        self.free_bytes
            .fetch_sub(block.bytes.len(), Ordering::Relaxed);
        Some(block)
    }

    /// Keeps `block` for reuse, or lets the allocator have it when the bound is reached.
    fn put(&self, block: Arc<Block>) {
        let bytes = block.bytes.len();
        let Some(class) = class_of(bytes).filter(|&class| class_bytes(class) == bytes) else {
            return;
        };
        // Count first: two threads that return at once may both give up, but never both exceed the bound.
        let before = self.free_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes > self.free_bytes_max || self.lists[class].push(block).is_err() {
            self.free_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

/// The smallest class that holds `len` bytes, if any does.
fn class_of(len: usize) -> Option<usize> {
    if len > CLASS_BYTES_MAX {
        return None;
    }
    let last = len.max(CLASS_BYTES_MIN) - 1;
    if last < CLASS_BYTES_MIN {
        return Some(0);
    }
    let doublings = (last / CLASS_BYTES_MIN).ilog2() as usize;
    let step = (CLASS_BYTES_MIN << doublings) / STEPS;
    Some(doublings * STEPS + last / step - STEPS + 1)
}

/// How many bytes a block of a class has.
fn class_bytes(class: usize) -> usize {
    let Some(above) = class.checked_sub(1) else {
        return CLASS_BYTES_MIN;
    };
    let step = (CLASS_BYTES_MIN << (above / STEPS)) / STEPS;
    step * (STEPS + 1 + above % STEPS)
}

/// Ends one handle on `block`; the last one returns it to its pool.
fn give_back(mut block: Arc<Block>) {
    if Arc::get_mut(&mut block).is_some() {
        if let Some(home) = block.home.upgrade() {
            home.put(block);
        }
        return;
    }
    // Two threads may end the last two handles at once, and then neither saw itself alone above. `into_inner` names exactly one of them the last:
    // it saves the buffer at the price of one small allocation.
    if let Some(block) = Arc::into_inner(block)
        && let Some(home) = block.home.upgrade()
    {
        home.put(Arc::new(block));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_go_from_256_bytes_to_2_mib_in_steps_of_a_quarter_at_most() {
        let bytes: Vec<usize> = (0..CLASSES).map(class_bytes).collect();
        assert_eq!(bytes[..6], [256, 320, 384, 448, 512, 640]);
        assert_eq!(bytes[CLASSES - 1], CLASS_BYTES_MAX);
        for (class, &bytes) in bytes.iter().enumerate() {
            assert_eq!(class_of(bytes), Some(class));
            let next = (class + 1 < CLASSES).then_some(class + 1);
            assert_eq!(class_of(bytes + 1), next);
            assert!(next.is_none_or(|next| class_bytes(next) * 4 <= bytes * 5));
        }
        assert_eq!(class_of(0), Some(0));
    }

    #[test]
    fn the_last_handle_returns_the_buffer() {
        let pool = Pool::new(1 << 20);
        let body = pool.copy(b"some bytes");
        let clone = body.clone();
        let part = body.slice(5..);
        drop(body);
        drop(clone);
        assert_eq!(pool.free_bytes(), 0, "a slice still holds the buffer");
        assert_eq!(&*part, b"bytes");
        drop(part);
        assert_eq!(pool.free_bytes(), 256);
        assert_eq!(pool.take(200).len(), 200);
        assert_eq!(
            pool.buffers_made(),
            1,
            "the second take reuses the first buffer"
        );
    }

    #[test]
    fn free_lists_stay_within_their_bound() {
        let pool = Pool::new(1024);
        let bodies: Vec<_> = (0..10).map(|_| pool.take(256).freeze()).collect();
        drop(bodies);
        assert_eq!(pool.free_bytes(), 1024);
    }

    #[test]
    fn what_exceeds_the_largest_class_is_not_kept() {
        let pool = Pool::default();
        let body = pool.take(CLASS_BYTES_MAX + 1);
        assert_eq!(body.len(), CLASS_BYTES_MAX + 1);
        drop(body);
        assert_eq!(pool.free_bytes(), 0);
    }

    #[test]
    fn equality_is_by_bytes_whatever_holds_them() {
        let pool = Pool::default();
        assert_eq!(pool.copy(b"abc"), Body::from_static(b"abc"));
        assert_eq!(
            Body::from_vec(b"xabcx".to_vec()).slice(1..=3),
            Body::from_static(b"abc")
        );
        assert_ne!(pool.copy(b"abc"), Body::from_static(b"abd"));
        assert_eq!(pool.copy(b""), Body::empty());
    }

    #[test]
    #[should_panic(expected = "leaves a body of 3 bytes")]
    fn a_slice_cannot_leave_its_body_though_the_buffer_goes_on() {
        let _ = Pool::default().copy(b"abc").slice(..4);
    }

    #[test]
    fn a_body_outlives_its_pool() {
        let pool = Pool::default();
        let body = pool.copy(b"still here");
        drop(pool);
        assert_eq!(&*body, b"still here");
    }

    #[test]
    fn buffers_survive_the_last_two_handles_going_at_once() {
        let pool = Pool::default();
        for round in 0..2_000u32 {
            let here = pool.copy(&round.to_le_bytes());
            let there = here.clone();
            let other = std::thread::spawn(move || drop(there));
            drop(here);
            other.join().expect("the thread only drops a handle");
        }
        assert_eq!(pool.buffers_made(), 1);
        assert_eq!(pool.free_bytes(), 256);
    }
}
