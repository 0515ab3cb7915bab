//! Makes segments ahead and removes old ones, on a thread of its own: both may take as long as hundreds of syncs.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SyncSender, TryRecvError, TrySendError, sync_channel,
};
use std::thread;
use std::time::Duration;

use tracing::warn;
use twostep_net::WakeUp;

use super::error::JournalError;
use super::folder::Folder;
use super::format::Owner;
use super::segment::{self, Segment, file_name};

/// What is to be done; the maker has at most so much to do.
const TASKS_MAX: usize = 4;

/// The other end of the maker's thread. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Maker {
    tasks: SyncSender<Task>,
    made: Receiver<io::Result<Segment>>,
}

#[derive(Debug)]
enum Task {
    Make { number: u64, length: u64 },
    Remove(Vec<u64>),
}

impl Maker {
    /// Starts it; `wake_up` tells that a segment is there.
    pub fn start(
        folder: Arc<dyn Folder>,
        owner: Owner,
        wake_up: WakeUp,
    ) -> Result<Maker, JournalError> {
        let (tasks, to_do) = sync_channel(TASKS_MAX);
        let (done, made) = sync_channel(TASKS_MAX);
        let work = move || {
            let mut old = VecDeque::new();
            while let Ok(task) = to_do.recv() {
                match task {
                    Task::Make { number, length } => {
                        let segment = segment::create(&*folder, owner, number, length);
                        let segment = segment.map_err(|error| match error {
                            JournalError::Io { source, .. } => source,
                            other => io::Error::other(other),
                        });
                        if done.send(segment).is_err() {
                            return;
                        }
                        wake_up.wake();
                    }
                    Task::Remove(numbers) => {
                        old.extend(numbers);
                        remove(&*folder, &mut old);
                    }
                }
            }
        };
        let thread = thread::Builder::new().name("journal segments".to_owned());
        thread.spawn(work).map_err(JournalError::Thread)?;
        Ok(Maker { tasks, made })
    }

    /// Asks for a segment; whether the maker has room for it.
    pub fn ask(&self, number: u64, length: u64) -> bool {
        self.tasks.try_send(Task::Make { number, length }).is_ok()
    }

    /// A segment that was made, or why not, if an answer comes within `patience`.
    pub fn wait(&self, patience: Duration) -> Option<io::Result<Segment>> {
        match self.made.recv_timeout(patience) {
            Ok(made) => Some(made),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Err(ended())),
        }
    }

    /// The same without waiting.
    pub fn take(&self) -> Option<io::Result<Segment>> {
        match self.made.try_recv() {
            Ok(made) => Some(made),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(ended())),
        }
    }

    /// Removes segments, in this order; leaves them where they are if the maker has no room for it.
    pub fn remove(&self, numbers: &mut Vec<u64>) {
        if numbers.is_empty() {
            return;
        }
        let task = Task::Remove(std::mem::take(numbers));
        if let Err(TrySendError::Full(Task::Remove(back))) = self.tasks.try_send(task) {
            *numbers = back;
        }
    }
}

fn ended() -> io::Error {
    io::Error::other("the thread that makes segments has ended")
}

/// A segment that cannot be removed stays for now, and so do all later ones: none may be missing in the middle.
fn remove(folder: &dyn Folder, old: &mut VecDeque<u64>) {
    while let Some(number) = old.front() {
        let name = file_name(*number);
        let removed = match folder.remove(&name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        if let Err(error) = removed.and_then(|()| folder.sync()) {
            let path = folder.path().display();
            warn!("{path}/{name}: cannot remove it: {error}; it is tried again with the next one");
            return;
        }
        old.pop_front();
    }
}
