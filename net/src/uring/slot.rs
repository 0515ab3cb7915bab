//! What the driver keeps of one socket until the kernel has answered for everything that was begun on it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::types::{Fd, Fixed};
use io_uring::{opcode, squeue, types};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};
use socket2::SockAddr;

use super::buffers::{Chunks, GROUP};
use crate::driver::Key;

/// Most bytes that a socket takes at once; the rest waits with the link.
pub(super) const SEND_BYTES_MAX: usize = 256 * 1024;
/// A send buffer above this is given back when its socket closes.
const SEND_BYTES_KEPT: usize = 64 * 1024;

/// What was asked of the kernel; travels with each entry and comes back with its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Wake = 0,
    Accept = 1,
    Connect = 2,
    Receive = 3,
    Send = 4,
    Cancel = 5,
}

/// The number that names an operation of a slot.
pub(super) fn tag(operation: Operation, slot: u32) -> u64 {
    u64::from(slot) << 8 | operation as u64
}

/// The operation and slot of a number that came back.
pub(super) fn untag(tag: u64) -> (Operation, u32) {
    let operation = match tag & 0xff {
        0 => Operation::Wake,
        1 => Operation::Accept,
        2 => Operation::Connect,
        3 => Operation::Receive,
        4 => Operation::Send,
        5 => Operation::Cancel,
        other => unreachable!("no operation has number {other}"),
    };
    (
        operation,
        u32::try_from(tag >> 8).expect("slots are counted in 32 bits"),
    )
}

/// One socket, or the place for one.
#[derive(Default)]
pub(super) struct Slot {
    /// The loop's name for it; none when it is closed or free.
    pub key: Option<Key>,
    pub socket: Option<OwnedFd>,
    /// Whether it stands in the table of registered files, at the index of the slot.
    pub registered: bool,
    /// Operations that the kernel has not answered for the last time. The slot is not used again before there is none.
    pub in_flight: u32,
    pub role: Role,
    pub changes: Changes,
    /// Kept for the next socket in this slot.
    pub sending: Sending,
}

/// What is done with the socket.
#[derive(Default)]
pub(super) enum Role {
    #[default]
    None,
    Listener(Listener),
    Stream(Stream),
}

#[derive(Default)]
pub(super) struct Listener {
    /// Whether the kernel accepts for us.
    pub armed: bool,
    pub cancelling: bool,
    pub accepted: VecDeque<OwnedFd>,
    /// Why accepting ended; told once.
    pub error: Option<i32>,
}

#[derive(Default)]
pub(super) struct Stream {
    pub connecting: Connecting,
    /// Whether the kernel receives for us.
    pub armed: bool,
    /// Whether the slot stands in the list of those that shall receive again.
    pub listed: bool,
    pub chunks: Chunks,
    /// What comes after the last chunk.
    pub end: Option<End>,
}

#[derive(Default)]
pub(super) enum Connecting {
    /// Under way to this address.
    To(#[expect(dead_code, reason = "kept for the kernel, which reads its memory")] Box<SockAddr>),
    Failed(i32),
    #[default]
    Done,
}

/// How a stream ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Closed,
    /// With this number of an error.
    Failed(i32),
}

/// What the loop has not been told yet.
#[derive(Clone, Copy, Default)]
pub(super) struct Changes {
    pub listed: bool,
    pub readable: bool,
    pub writable: bool,
    pub read_closed: bool,
}

/// Bytes on their way out.
#[derive(Default)]
pub(super) struct Sending {
    pub bytes: Vec<u8>,
    /// Bytes at the front that the kernel has taken.
    pub sent: usize,
    pub state: SendState,
    /// Whether the loop waits for room.
    pub wanted: bool,
    /// Whether the other side shall be told that nothing more comes, once all is sent.
    pub shutdown: bool,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum SendState {
    #[default]
    Idle,
    /// Handed over with the next call, in which the kernel takes what the socket has room for. Only what does not fit is answered.
    Trying,
    /// The rest waits in the kernel until the socket has room for all of it.
    Waiting,
}

impl Slot {
    pub fn stream(&mut self) -> io::Result<&mut Stream> {
        match &mut self.role {
            Role::Stream(stream) => Ok(stream),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The descriptor, or the index among the registered files.
    fn with_file(
        &self,
        index: u32,
        fixed: impl FnOnce(Fixed) -> squeue::Entry,
        plain: impl FnOnce(Fd) -> squeue::Entry,
    ) -> squeue::Entry {
        if self.registered {
            fixed(Fixed(index))
        } else {
            let socket = self.socket.as_ref().expect("the slot holds a socket");
            plain(Fd(socket.as_raw_fd()))
        }
    }

    pub fn accept_entry(&self, index: u32) -> squeue::Entry {
        let flags = flag_bits(SocketFlags::CLOEXEC.bits());
        self.with_file(
            index,
            |file| opcode::AcceptMulti::new(file).flags(flags).build(),
            |file| opcode::AcceptMulti::new(file).flags(flags).build(),
        )
        .user_data(tag(Operation::Accept, index))
    }

    pub fn receive_entry(&self, index: u32) -> squeue::Entry {
        self.with_file(
            index,
            |file| opcode::RecvMulti::new(file, GROUP).build(),
            |file| opcode::RecvMulti::new(file, GROUP).build(),
        )
        .user_data(tag(Operation::Receive, index))
    }

    /// The address must stay where it is until the answer.
    pub fn connect_entry(&self, index: u32, addr: &SockAddr) -> squeue::Entry {
        let (pointer, len) = (addr.as_ptr().cast(), addr.len());
        self.with_file(
            index,
            |file| opcode::Connect::new(file, pointer, len).build(),
            |file| opcode::Connect::new(file, pointer, len).build(),
        )
        .user_data(tag(Operation::Connect, index))
    }

    /// What is unsent of the send buffer, which must stay as it is until the answer, or until the kernel has taken the entry without one.
    pub fn send_entry(&self, index: u32) -> squeue::Entry {
        let unsent = &self.sending.bytes[self.sending.sent..];
        let (pointer, len) = (
            unsent.as_ptr(),
            u32::try_from(unsent.len()).expect("bounded by SEND_BYTES_MAX"),
        );
        let tries = self.sending.state == SendState::Trying;
        let mut flags = RecvFlags::WAITALL.bits();
        if tries {
            flags |= SendFlags::DONTWAIT.bits();
        }
        let flags = flag_bits(flags);
        let entry = self
            .with_file(
                index,
                |file| opcode::Send::new(file, pointer, len).flags(flags).build(),
                |file| opcode::Send::new(file, pointer, len).flags(flags).build(),
            )
            .user_data(tag(Operation::Send, index));
        if tries {
            entry.flags(squeue::Flags::SKIP_SUCCESS)
        } else {
            entry
        }
    }

    /// Forgets the socket. Everything begun on it has been answered.
    pub fn clear(&mut self) {
        assert!(
            self.in_flight == 0 && self.key.is_none(),
            "a slot rests until the kernel is done with it"
        );
        let mut bytes = std::mem::take(&mut self.sending.bytes);
        bytes.clear();
        bytes.shrink_to(SEND_BYTES_KEPT);
        // Whether it is listed still holds: the list may name the slot.
        let changes = Changes {
            listed: self.changes.listed,
            ..Changes::default()
        };
        *self = Slot {
            changes,
            sending: Sending {
                bytes,
                ..Sending::default()
            },
            ..Slot::default()
        };
    }
}

/// Cancels one operation of a slot.
pub(super) fn cancel_entry(operation: Operation, index: u32) -> squeue::Entry {
    let which = types::CancelBuilder::user_data(tag(operation, index));
    opcode::AsyncCancel2::new(which)
        .build()
        .user_data(tag(Operation::Cancel, index))
}

pub(super) fn error_of(number: i32) -> io::Error {
    Errno::from_raw_os_error(number).into()
}

fn flag_bits(bits: u32) -> i32 {
    i32::try_from(bits).expect("flags of sockets are small")
}
