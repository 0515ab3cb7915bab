//! What goes to the kernel: the entries that it will answer, and receiving again where receiving has ended.

use std::mem;
use std::os::fd::AsRawFd;

use io_uring::{opcode, squeue, types};
use rustix::event::PollFlags;

use super::UringDriver;
use super::slot::{Operation, Role, tag};

impl UringDriver {
    /// Queues an entry that the kernel will answer, for the slot at `index`.
    pub(super) fn push(&mut self, index: u32, entry: squeue::Entry) {
        self.slots[index as usize].in_flight += 1;
        // SAFETY: entries name three kinds of memory. Receive buffers are a mapping that outlives the ring's use of it (see `drop`). A send buffer and
        // the address of a connection belong to the slot, stand on the heap wherever the slot moves, and are neither changed nor freed before
        // the answer: `write` changes a send buffer only when it is idle, and `clear` demands that nothing is in flight.
        unsafe { self.ring.push(entry) };
    }

    pub(super) fn push_receive(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let entry = slot.receive_entry(index);
        if let Role::Stream(stream) = &mut slot.role {
            stream.armed = true;
        }
        self.push(index, entry);
    }

    pub(super) fn push_accept(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let entry = slot.accept_entry(index);
        if let Role::Listener(listener) = &mut slot.role {
            listener.armed = true;
        }
        self.push(index, entry);
    }

    /// Receives again where receiving has ended, as far as there are buffers. A socket that still holds some gets none before the others.
    pub(super) fn arm(&mut self) {
        if !self.bell_armed {
            self.bell_armed = true;
            let poll = u32::from(PollFlags::IN.bits());
            let entry = opcode::PollAdd::new(types::Fd(self.bell.as_raw_fd()), poll)
                .multi(true)
                .build()
                .user_data(tag(Operation::Wake, 0));
            // SAFETY: the entry names no memory.
            unsafe { self.ring.push(entry) };
        }
        if self.unarmed.is_empty() || !self.buffers.any_free() {
            return;
        }
        let mut unarmed = mem::take(&mut self.unarmed);
        for index in unarmed.drain(..) {
            let Role::Stream(stream) = &mut self.slots[index as usize].role else {
                continue;
            };
            stream.listed = false;
            if !stream.armed && stream.end.is_none() && stream.chunks.is_empty() {
                self.push_receive(index);
            }
        }
        self.unarmed = unarmed;
    }

    /// Lists a stream whose receive has ended, once it holds no chunks.
    pub(super) fn list_unarmed(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        if slot.key.is_some()
            && let Role::Stream(stream) = &mut slot.role
            && !stream.armed
            && !stream.listed
            && stream.end.is_none()
            && stream.chunks.is_empty()
        {
            stream.listed = true;
            self.unarmed.push(index);
        }
    }
}
