//! Memory that the kernel receives into: one ring of equal buffers for all sockets of a loop.
//!
//! ```text
//!  ring ──(kernel takes the front, fills it, names it in a completion)──► chunk of a socket ──(read)──► back into the ring
//! ```
//!
//! A buffer is either in the ring, where only the kernel may touch it, or a chunk of exactly one socket, where only we do. The list of a socket's
//! chunks runs through [`RecvBuffers`] itself, so that nothing is allocated after start. When all are held, receives end with `ENOBUFS` and are armed
//! again once some are back: the kernel's socket buffers then hold what comes, as with any slow reader.

#![expect(
    unsafe_code,
    reason = "the kernel writes into this memory, beside Rust's rules of borrowing"
)]

use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// The one group of provided buffers of a ring.
pub(super) const GROUP: u16 = 0;
const NONE: u16 = u16::MAX;
/// Buffers do not begin at equal offsets of pages: their fronts, which are all that small messages touch, would share few sets of the caches.
const STAGGER_BYTES: usize = 9 * 64;

/// All receive buffers of a loop.
pub(super) struct RecvBuffers {
    /// The ring's entries, then the buffers.
    memory: NonNull<u8>,
    memory_bytes: usize,
    buffers_at: usize,
    buffer_bytes: usize,
    count: u16,
    /// The number of entries ever put into the ring, modulo 2^16, as the kernel wants it.
    tail: u16,
    held: u16,
    chunks: Box<[Chunk]>,
}

/// What has come into one buffer, from `at` to `end`.
#[derive(Clone, Copy)]
struct Chunk {
    at: u32,
    end: u32,
    next: u16,
}

/// The chunks of one socket, in the order in which they came.
#[derive(Clone, Copy)]
pub(super) struct Chunks {
    first: u16,
    last: u16,
}

impl Default for Chunks {
    fn default() -> Self {
        Self {
            first: NONE,
            last: NONE,
        }
    }
}

impl Chunks {
    pub fn is_empty(&self) -> bool {
        self.first == NONE
    }
}

// SAFETY: the memory belongs to this value alone and to the ring with which it is registered; nothing in it is tied to a thread.
unsafe impl Send for RecvBuffers {}

impl RecvBuffers {
    /// Memory for `count` buffers (a power of two) of `buffer_bytes`, not yet known to a ring.
    ///
    /// # Errors
    /// When the operating system gives no memory.
    pub fn new(count: u16, buffer_bytes: usize) -> io::Result<Self> {
        assert!(count.is_power_of_two() && buffer_bytes > 0 && u32::try_from(buffer_bytes).is_ok());
        let buffers_at = usize::from(count) * size_of::<BufRingEntry>();
        let memory_bytes = buffers_at + usize::from(count) * (buffer_bytes + STAGGER_BYTES);
        // SAFETY: a new anonymous mapping at a place of the kernel's choosing overlaps nothing.
        let memory = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                memory_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        let mut buffers = Self {
            memory: NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?,
            memory_bytes,
            buffers_at,
            buffer_bytes,
            count,
            tail: 0,
            held: count,
            chunks: vec![
                Chunk {
                    at: 0,
                    end: 0,
                    next: NONE
                };
                count.into()
            ]
            .into_boxed_slice(),
        };
        for buffer in 0..count {
            buffers.put(buffer);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// Makes the buffers known to `ring` as its [`GROUP`]. Whoever calls this sees to it that `self` outlives every receive of the ring.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn register(&self, ring: &IoUring) -> io::Result<()> {
        // SAFETY: the entries stand at the front of a mapping, which is page-aligned, and the driver that owns both keeps the mapping until the ring has
        // answered for every receive, or for ever.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                self.memory.as_ptr() as u64,
                self.count,
                GROUP,
                0,
            )
        }
    }

    /// Whether the kernel has buffers left, as far as its completions have told.
    pub fn any_free(&self) -> bool {
        self.held < self.count
    }

    /// Adds what the kernel has received into `buffer` to `chunks`.
    pub fn received(&mut self, chunks: &mut Chunks, buffer: u16, bytes: u32) {
        assert!(
            buffer < self.count && bytes as usize <= self.buffer_bytes,
            "the kernel names buffers of ours and fills no more than they hold"
        );
        self.held += 1;
        if bytes == 0 {
            self.put(buffer);
            self.publish();
            return;
        }
        self.chunks[usize::from(buffer)] = Chunk {
            at: 0,
            end: bytes,
            next: NONE,
        };
        if chunks.is_empty() {
            chunks.first = buffer;
        } else {
            self.chunks[usize::from(chunks.last)].next = buffer;
        }
        chunks.last = buffer;
    }

    /// Moves bytes from the front of `chunks` to `into`, as many as there are or fit, and gives emptied buffers back to the kernel.
    pub fn read(&mut self, chunks: &mut Chunks, into: &mut [u8]) -> usize {
        let mut copied = 0;
        while copied < into.len() && !chunks.is_empty() {
            let buffer = chunks.first;
            let Chunk { at, end, next } = self.chunks[usize::from(buffer)];
            let bytes = (end - at) as usize;
            let part = bytes.min(into.len() - copied);
            // SAFETY: the buffer is a chunk and not in the ring, so the kernel does not write to it; `at + part` is within what it filled; `into` is
            // borrowed from Rust and cannot overlap the mapping, to which no reference ever exists.
            unsafe {
                ptr::copy_nonoverlapping(
                    self.buffer(buffer).add(at as usize),
                    into[copied..].as_mut_ptr(),
                    part,
                );
            }
            copied += part;
            if part == bytes {
                chunks.first = next;
                self.put(buffer);
            } else {
                self.chunks[usize::from(buffer)].at += u32::try_from(part).expect("within a chunk");
            }
        }
        self.publish();
        copied
    }

    /// Gives all of `chunks` back to the kernel, unread.
    pub fn discard(&mut self, chunks: &mut Chunks) {
        while !chunks.is_empty() {
            let buffer = chunks.first;
            chunks.first = self.chunks[usize::from(buffer)].next;
            self.put(buffer);
        }
        self.publish();
    }

    /// Leaves the memory to the kernel for ever: for the case that it may still write into it.
    pub fn leak(&mut self) {
        self.memory_bytes = 0;
    }

    /// Writes the entry of `buffer` behind the ring's tail; the kernel sees it with the next [`publish`](Self::publish).
    fn put(&mut self, buffer: u16) {
        assert!(self.held > 0, "no buffer is in the ring twice");
        let place = usize::from(self.tail & (self.count - 1));
        let address = self.buffer(buffer) as u64;
        let len = u32::try_from(self.buffer_bytes).expect("checked at creation");
        // SAFETY: the entry lies within the mapping and is aligned, since the mapping starts at a page; the kernel reads no entry from the tail on, and
        // `held > 0` shows that this place is behind all entries it may read. The field that entry 0 shares with the tail is not written by these setters.
        unsafe {
            let entry = &mut *self.memory.as_ptr().cast::<BufRingEntry>().add(place);
            entry.set_addr(address);
            entry.set_len(len);
            entry.set_bid(buffer);
        }
        self.tail = self.tail.wrapping_add(1);
        self.held -= 1;
    }

    /// Shows the kernel everything that was put.
    fn publish(&mut self) {
        // SAFETY: the tail is a field of entry 0, within the mapping and aligned; both sides access it atomically. Releasing orders the entries before it.
        unsafe {
            let tail = BufRingEntry::tail(self.memory.as_ptr().cast::<BufRingEntry>());
            (*tail.cast::<AtomicU16>()).store(self.tail, Ordering::Release);
        }
    }

    fn buffer(&self, buffer: u16) -> *mut u8 {
        let at = self.buffers_at + usize::from(buffer) * (self.buffer_bytes + STAGGER_BYTES);
        // SAFETY: every buffer lies within the mapping, whose size was computed from their count.
        unsafe { self.memory.as_ptr().add(at) }
    }
}

impl Drop for RecvBuffers {
    fn drop(&mut self) {
        if self.memory_bytes > 0 {
            // SAFETY: the mapping is ours, of this size, and whoever drops it has made sure that the kernel is done with it (see `leak`).
            unsafe {
                // It cannot fail for a whole mapping; if it did, the memory would stay, which is safe.
                let _ = munmap(self.memory.as_ptr().cast(), self.memory_bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays the kernel: takes the front of the ring and fills it.
    fn fill(buffers: &mut RecvBuffers, head: &mut u16, chunks: &mut Chunks, bytes: &[u8]) {
        assert_ne!(*head, buffers.tail, "the ring is not empty");
        let place = usize::from(*head & (buffers.count - 1));
        // SAFETY: within the mapping; the test is the only one that accesses it.
        let buffer = unsafe {
            let entry = &*buffers.memory.as_ptr().cast::<BufRingEntry>().add(place);
            ptr::copy_nonoverlapping(bytes.as_ptr(), entry.addr() as *mut u8, bytes.len());
            entry.bid()
        };
        *head = head.wrapping_add(1);
        buffers.received(chunks, buffer, u32::try_from(bytes.len()).unwrap());
    }

    #[test]
    fn bytes_come_out_in_order_and_every_buffer_comes_back() {
        let mut buffers = RecvBuffers::new(4, 100).unwrap();
        let (mut head, mut a, mut b) = (0, Chunks::default(), Chunks::default());
        let mut into = [0; 64];
        for round in 0..100_000u32 {
            let byte = round.to_le_bytes()[0];
            fill(&mut buffers, &mut head, &mut a, &[byte; 100]);
            fill(&mut buffers, &mut head, &mut b, &[byte.wrapping_add(1); 7]);
            fill(&mut buffers, &mut head, &mut a, &[byte; 20]);
            assert_eq!(buffers.read(&mut a, &mut into), 64);
            assert_eq!(into, [byte; 64]);
            assert_eq!(buffers.read(&mut a, &mut into), 56, "across two chunks");
            assert_eq!(into[..56], [byte; 56]);
            assert!(a.is_empty() && buffers.read(&mut a, &mut into) == 0);
            if round % 2 == 0 {
                assert_eq!(buffers.read(&mut b, &mut into), 7);
            } else {
                buffers.discard(&mut b);
            }
            assert!(b.is_empty());
            assert_eq!(
                buffers.tail.wrapping_sub(head),
                4,
                "all buffers are in the ring"
            );
        }
    }

    #[test]
    fn what_is_held_is_not_in_the_ring() {
        let mut buffers = RecvBuffers::new(2, 10).unwrap();
        let (mut head, mut chunks) = (0, Chunks::default());
        fill(&mut buffers, &mut head, &mut chunks, b"one");
        assert!(buffers.any_free());
        fill(&mut buffers, &mut head, &mut chunks, b"two");
        assert!(!buffers.any_free() && buffers.tail == head);
        buffers.discard(&mut chunks);
        assert!(buffers.any_free() && buffers.tail.wrapping_sub(head) == 2);
    }

    #[test]
    #[should_panic(expected = "the kernel names buffers of ours")]
    fn a_buffer_that_is_not_ours_is_a_defect() {
        let mut buffers = RecvBuffers::new(2, 10).unwrap();
        buffers.received(&mut Chunks::default(), 2, 1);
    }
}
