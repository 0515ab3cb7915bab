//! What comes back from the kernel: answers to entries, and sends whose success is not answered. Each becomes a change that the loop is told.

use std::mem;
use std::net::Shutdown;
use std::os::fd::{FromRawFd, OwnedFd};

use io_uring::cqueue;
use rustix::io::Errno;

use super::slot::{Changes, Connecting, End, Operation, Role, SendState, cancel_entry, untag};
use super::{ACCEPTED_AHEAD, UringDriver, shutdown};

impl UringDriver {
    /// The kernel has taken every send, and those that did not fit have been answered: so the others are done.
    pub(super) fn settle(&mut self) {
        self.hurry = false;
        let mut trying = mem::take(&mut self.trying);
        for index in trying.drain(..) {
            if self.slots[index as usize].sending.state == SendState::Trying {
                self.sent(index);
            }
        }
        self.trying = trying;
    }

    /// All bytes of a send buffer are with the kernel.
    fn sent(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.sending.state = SendState::Idle;
        slot.in_flight -= 1;
        if mem::take(&mut slot.sending.wanted) {
            self.change(index, |changes| changes.writable = true);
        }
        let slot = &mut self.slots[index as usize];
        if mem::take(&mut slot.sending.shutdown) {
            shutdown(slot, Shutdown::Write);
        }
        self.free_if_done(index);
    }

    fn change(&mut self, index: u32, set: impl FnOnce(&mut Changes)) {
        let slot = &mut self.slots[index as usize];
        if slot.key.is_none() {
            return;
        }
        set(&mut slot.changes);
        if !slot.changes.listed {
            slot.changes.listed = true;
            self.changed.push(index);
        }
    }

    pub(super) fn completed(&mut self, completion: &cqueue::Entry) {
        let (operation, index) = untag(completion.user_data());
        let more = cqueue::more(completion.flags());
        if operation == Operation::Wake {
            self.bell_armed = more;
            return;
        }
        let result = completion.result();
        if !more && operation != Operation::Send {
            self.slots[index as usize].in_flight -= 1;
        }
        match operation {
            Operation::Accept => self.accepted(index, result, more),
            Operation::Connect => self.connect_ended(index, result),
            Operation::Receive => {
                self.received(
                    index,
                    result,
                    more,
                    cqueue::buffer_select(completion.flags()),
                );
            }
            Operation::Send => self.send_answered(index, result),
            Operation::Cancel | Operation::Wake => {}
        }
        self.free_if_done(index);
    }

    fn accepted(&mut self, index: u32, result: i32, more: bool) {
        // SAFETY: the kernel has just opened this descriptor for us, and nobody else has heard of it.
        let socket = (result >= 0).then(|| unsafe { OwnedFd::from_raw_fd(result) });
        let slot = &mut self.slots[index as usize];
        let (Some(_), Role::Listener(listener)) = (slot.key, &mut slot.role) else {
            return;
        };
        listener.armed &= more;
        listener.cancelling &= more;
        match socket {
            Some(socket) => listener.accepted.push_back(socket),
            None if result == -Errno::CANCELED.raw_os_error() => {
                // The loop has taken all meanwhile, and will not ask again by itself.
                if listener.accepted.is_empty() {
                    self.push_accept(index);
                }
                return;
            }
            None => listener.error = Some(-result),
        }
        if listener.armed && !listener.cancelling && listener.accepted.len() >= ACCEPTED_AHEAD {
            listener.cancelling = true;
            self.push(index, cancel_entry(Operation::Accept, index));
        }
        self.change(index, |changes| changes.readable = true);
    }

    fn connect_ended(&mut self, index: u32, result: i32) {
        if let Role::Stream(stream) = &mut self.slots[index as usize].role {
            stream.connecting = if result == 0 {
                Connecting::Done
            } else {
                Connecting::Failed(-result)
            };
            self.change(index, |changes| changes.writable = true);
        }
    }

    fn received(&mut self, index: u32, result: i32, more: bool, buffer: Option<u16>) {
        let slot = &mut self.slots[index as usize];
        let closed = slot.key.is_none();
        let Role::Stream(stream) = &mut slot.role else {
            unreachable!("only streams receive")
        };
        stream.armed = more;
        if let Some(buffer) = buffer {
            let bytes = u32::try_from(result.max(0)).expect("not negative");
            self.buffers.received(&mut stream.chunks, buffer, bytes);
        }
        if closed {
            self.buffers.discard(&mut stream.chunks);
            return;
        }
        match result {
            1.. => self.change(index, |changes| changes.readable = true),
            0 => self.ended(index, End::Closed),
            _ => match Errno::from_raw_os_error(-result) {
                Errno::NOBUFS | Errno::INTR | Errno::AGAIN | Errno::CANCELED => {}
                _ => self.ended(index, End::Failed(-result)),
            },
        }
        self.list_unarmed(index);
    }

    fn ended(&mut self, index: u32, end: End) {
        if let Role::Stream(stream) = &mut self.slots[index as usize].role {
            stream.end.get_or_insert(end);
            self.change(index, |changes| {
                changes.readable = true;
                changes.read_closed = true;
            });
        }
    }

    /// A send was answered: one that was tried and did not fit, or one that waited.
    fn send_answered(&mut self, index: u32, result: i32) {
        let slot = &mut self.slots[index as usize];
        let sending = &mut slot.sending;
        let error = match result {
            0.. => None,
            _ if result == -Errno::AGAIN.raw_os_error() => None,
            _ => Some(-result),
        };
        sending.sent += usize::try_from(result).unwrap_or(0);
        if sending.sent == sending.bytes.len() {
            self.sent(index);
        } else if error.is_none() && slot.key.is_some() {
            sending.state = SendState::Waiting;
            slot.in_flight -= 1;
            let entry = slot.send_entry(index);
            self.push(index, entry);
        } else {
            sending.state = SendState::Idle;
            sending.shutdown = false;
            slot.in_flight -= 1;
            if let Some(error) = error {
                self.ended(index, End::Failed(error));
                self.change(index, |changes| changes.writable = true);
            }
        }
    }
}
