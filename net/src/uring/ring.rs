//! The submission and completion queues, and whether the kernel grants them at all.
//!
//! The ring belongs to one thread (`SINGLE_ISSUER`) and runs the work of completions only when that thread waits (`DEFER_TASKRUN`): nobody interrupts
//! the loop. It is made disabled, since a loop may be built on one thread and run on another; the first [`enter`](Ring::enter) binds it. Entries put before
//! stay in the queue until then.

#![expect(
    unsafe_code,
    reason = "entries in the queue name memory that the kernel will use"
)]

use std::collections::VecDeque;
use std::fmt;
use std::fs;
use std::io;
use std::thread::{self, ThreadId};
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};
use rustix::io::Errno;

/// Entries that one call can hand over; more are handed over in several.
const SUBMISSIONS: u32 = 256;
/// Completions that the kernel keeps without extra memory.
const COMPLETIONS: u32 = 4096;
/// Most sockets in the table of registered files; those beyond are used by their descriptor.
const FILES_MAX: u32 = 4096;
/// The first Linux, as major and minor version, that lets go of a socket as soon as it has left the table and no request on that very socket lives.
/// Before, it waited for all requests on registered files that were older than the removal.
const FILES_SINCE: (u32, u32) = (6, 13);

/// Why there is no `io_uring` here.
#[derive(Debug)]
pub struct Refused {
    /// What was tried.
    step: &'static str,
    error: io::Error,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.error)?;
        match self.error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::PERM) => f.write_str(
                "; sysctl kernel.io_uring_disabled or the container's seccomp profile forbids it",
            ),
            Some(Errno::NOSYS | Errno::INVAL) | None => {
                f.write_str("; it needs Linux 6.1 or newer, and no seccomp profile against it")
            }
            Some(_) => Ok(()),
        }
    }
}

impl std::error::Error for Refused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Says at which step something was refused.
pub(super) fn at(step: &'static str) -> impl FnOnce(io::Error) -> Refused {
    move |error| Refused { step, error }
}

/// Both queues.
pub(super) struct Ring {
    ring: IoUring,
    /// Entries that found the queue full.
    backlog: VecDeque<squeue::Entry>,
    /// The thread that entered first.
    issuer: Option<ThreadId>,
    /// Places in the table of registered files; none on kernels that keep sockets in it for too long.
    pub files: u32,
    enters: u64,
}

impl Ring {
    /// A ring that no thread owns yet.
    ///
    /// # Errors
    /// When the kernel, its settings or a filter of system calls refuse it.
    pub fn new() -> Result<Self, Refused> {
        check_enter()?;
        let ring = builder(COMPLETIONS)
            .build(SUBMISSIONS)
            .map_err(at("setting up a ring"))?;
        // Where it cannot be read, sockets are used by their descriptors, which every kernel closes in time.
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let files = files_for(&release);
        if files > 0 {
            ring.submitter()
                .register_files_sparse(files)
                .map_err(at("registering files"))?;
        }
        Ok(Self {
            ring,
            backlog: VecDeque::new(),
            issuer: None,
            files,
            enters: 0,
        })
    }

    /// The kernel's side, for registering buffers.
    pub fn kernel(&self) -> &IoUring {
        &self.ring
    }

    /// How often the kernel was entered.
    pub fn enters(&self) -> u64 {
        self.enters
    }

    /// Puts `descriptor` (or nothing, -1) into the table of registered files. False when it has no place there.
    pub fn register_file(&mut self, index: u32, descriptor: i32) -> bool {
        index < self.files
            && self
                .ring
                .submitter()
                .register_files_update(index, &[descriptor])
                .is_ok()
    }

    /// Queues an entry for the next time that the kernel is entered.
    ///
    /// # Safety
    /// The memory that the entry names stays where it is until the kernel has answered it.
    pub unsafe fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: promised by the caller.
        if !self.backlog.is_empty() || unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.backlog.push_back(entry);
        }
    }

    /// Whether everything queued was taken by the kernel.
    pub fn all_taken(&mut self) -> bool {
        self.backlog.is_empty() && self.ring.submission().is_empty()
    }

    /// Hands what is queued to the kernel, and waits until something has completed, at most `timeout` (none: as long as it takes). Makes no system call
    /// when there is nothing to hand over, to run or to wait for.
    ///
    /// # Errors
    /// Those of the operating system, other than interruption and the passing of time.
    pub fn enter(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.enable()?;
        while self.refill() {
            self.enters += 1;
            if !passing(self.ring.submit())? {
                break;
            }
        }
        let waits = timeout != Some(Duration::ZERO) && self.ring.completion().is_empty();
        if !waits {
            let queue = self.ring.submission();
            if queue.is_empty() && !queue.taskrun() && !queue.cq_overflow() {
                return Ok(());
            }
        }
        self.enters += 1;
        let outcome = match timeout {
            Some(timeout) if waits => {
                let timeout = Timespec::from(timeout);
                let arguments = SubmitArgs::new().timespec(&timeout);
                self.ring.submitter().submit_with_args(1, &arguments)
            }
            _ => self.ring.submit_and_wait(usize::from(waits)),
        };
        passing(outcome).map(drop)
    }

    /// Whether completions are left that found the queue full; entering again brings them.
    pub fn overflowed(&mut self) -> bool {
        self.ring.submission().cq_overflow()
    }

    /// The oldest completion that was not taken yet.
    pub fn completion(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }

    /// Whether the calling thread may enter: it is the one that entered first. None when nobody has, so that the kernel knows of no entry.
    pub fn is_issuer(&self) -> Option<bool> {
        self.issuer.map(|issuer| issuer == thread::current().id())
    }

    fn enable(&mut self) -> io::Result<()> {
        if self.issuer.is_none() {
            self.ring.submitter().register_enable_rings()?;
            self.issuer = Some(thread::current().id());
        }
        Ok(())
    }

    /// Moves the backlog into the queue. True when the queue is full and more is left.
    fn refill(&mut self) -> bool {
        let mut queue = self.ring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: promised when the entry was pushed.
            if unsafe { queue.push(entry) }.is_err() {
                return true;
            }
            self.backlog.pop_front();
        }
        false
    }
}

/// Interruption, the end of the time and full completion queues pass: the next call goes on. False when the kernel took nothing.
fn passing(outcome: io::Result<usize>) -> io::Result<bool> {
    match outcome {
        Ok(taken) => Ok(taken > 0),
        Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::INTR | Errno::TIME | Errno::BUSY | Errno::AGAIN) => Ok(false),
            _ => Err(error),
        },
    }
}

/// Places that the table of registered files gets on a kernel of this release.
fn files_for(release: &str) -> u32 {
    if version_of(release).is_none_or(|version| version < FILES_SINCE) {
        return 0;
    }
    let nofile = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    nofile.map_or(FILES_MAX, |files| {
        u32::try_from(files).map_or(FILES_MAX, |files| files.min(FILES_MAX))
    })
}

/// Major and minor version of a kernel's release, such as `6.12.9-generic`.
fn version_of(release: &str) -> Option<(u32, u32)> {
    let (major, rest) = release.split_once('.')?;
    let end = rest
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(rest.len());
    Some((major.parse().ok()?, rest[..end].parse().ok()?))
}

fn builder(completions: u32) -> io_uring::Builder {
    let mut builder = IoUring::builder();
    builder
        .setup_cqsize(completions)
        .setup_clamp()
        .setup_submit_all()
        .setup_r_disabled()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag();
    builder
}

/// Does one round trip on a ring of its own: setting up may be allowed and entering not. A kernel that knows the modes of the ring (6.1) knows multishot
/// accepts and receives, and rings of buffers, too; the operations are asked for one by one all the same.
fn check_enter() -> Result<(), Refused> {
    let mut ring = builder(4).build(2).map_err(at("setting up a ring"))?;
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(at("asking for its operations"))?;
    let operations = [
        opcode::AcceptMulti::CODE,
        opcode::AsyncCancel2::CODE,
        opcode::Connect::CODE,
        opcode::PollAdd::CODE,
        opcode::RecvMulti::CODE,
        opcode::Send::CODE,
    ];
    let parameters = ring.params();
    if !operations.iter().all(|&code| probe.is_supported(code))
        || !parameters.is_feature_ext_arg()
        || !parameters.is_feature_nodrop()
        || !parameters.is_feature_skip_cqe_on_success()
    {
        return Err(at("asking for its operations")(Errno::NOSYS.into()));
    }
    ring.submitter()
        .register_enable_rings()
        .map_err(at("enabling a ring"))?;
    let entry = opcode::Nop::new().build();
    // SAFETY: the operation that does nothing names no memory.
    unsafe { ring.submission().push(&entry) }.expect("the queue is new");
    ring.submit_and_wait(1).map_err(at("entering a ring"))?;
    match ring.completion().next() {
        Some(completion) if completion.result() == 0 => Ok(()),
        _ => Err(at("entering a ring")(io::ErrorKind::Other.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_registered_only_where_the_kernel_lets_go_of_them() {
        for old in ["6.1.0-18-amd64", "6.12.9", "5.15.0", "4.4.0", "2.6.60"] {
            assert_eq!(files_for(old), 0, "{old}");
        }
        for unknown in ["", "6", "6.", "six.13", "6.x", "-1.13", "6.99999999999"] {
            assert_eq!(files_for(unknown), 0, "{unknown}");
        }
        for new in ["6.13.0-rc1", "6.13\n", "6.18.44-fc\n", "7.0", "10.2.1"] {
            assert!(files_for(new) > 0, "{new}");
        }
    }
}
