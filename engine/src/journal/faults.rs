//! A folder with faults that are steered while it runs: slow, hung and failing syncs, a full disk, a power cut at any time.
//!
//! ```text
//!   journal ──► FaultyFolder ──► DiskFolder or MemoryFolder
//!                    ▲
//!   control socket ──┴─ DiskFaultHandle::set(DiskFaults)
//! ```
//!
//! | fault | what happens |
//! |---|---|
//! | `lose_unsynced` | written bytes stay in the memory of the process and reach the folder below only inside [`File::sync`], new names only inside [`Folder::sync`]: so ending the process is a power cut |
//! | `slow_ms` | every sync takes so much longer |
//! | `hung` | a sync does not return until this is over |
//! | `full` | nothing can be written: harder than most file systems, which let a file be written over |
//! | `read_only` | nothing can be written, made, renamed or removed |
//! | `failing_syncs` | syncs fail, and what they were to sync is lost: as a kernel that gives up on a page does |
//! | `ignored_syncs` | syncs return at once and do nothing: a bug that tests must find |
//! | `told_early` | records are told as durable before they are: likewise, in [`super::recorder`] |
//!
//! It is for tests of the journal and for whole nodes under test; without the setting that allows faults no node has it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::folder::{File, Folder};

/// What is wrong with a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskFaults {
    /// What was not synced is lost when the process ends.
    pub lose_unsynced: bool,
    /// Every sync takes so much longer. Milliseconds.
    pub slow_ms: u64,
    /// Syncs do not return until this is over.
    pub hung: bool,
    /// No room is left.
    pub full: bool,
    /// Nothing can be changed.
    pub read_only: bool,
    /// Syncs fail.
    pub failing_syncs: bool,
    /// Syncs do nothing.
    pub ignored_syncs: bool,
    /// Records are told as durable when they are handed over.
    pub told_early: bool,
}

/// The place of one fault among them all.
type Switch = fn(&mut DiskFaults) -> &mut bool;

impl DiskFaults {
    /// Those that are on or off, by the names that they have in settings.
    pub const SWITCHES: [(&str, Switch); 7] = [
        ("lose-unsynced", |faults| &mut faults.lose_unsynced),
        ("hung", |faults| &mut faults.hung),
        ("full", |faults| &mut faults.full),
        ("read-only", |faults| &mut faults.read_only),
        ("failing-syncs", |faults| &mut faults.failing_syncs),
        ("ignored-syncs", |faults| &mut faults.ignored_syncs),
        ("told-early", |faults| &mut faults.told_early),
    ];
}

/// Steers the faults of a folder, from any thread.
#[derive(Clone, Debug, Default)]
pub struct DiskFaultHandle {
    steered: Arc<Steered>,
    scratch: bool,
}

#[derive(Debug, Default)]
struct Steered {
    faults: Mutex<DiskFaults>,
    changed: Condvar,
}

impl DiskFaultHandle {
    /// No faults.
    #[must_use]
    pub fn new() -> DiskFaultHandle {
        DiskFaultHandle::default()
    }

    /// The same faults, for files that a start throws away: they are never synced, so nothing of them is kept back or lost.
    #[must_use]
    pub fn scratch(&self) -> DiskFaultHandle {
        DiskFaultHandle {
            steered: Arc::clone(&self.steered),
            scratch: true,
        }
    }

    /// These faults from now on, and no others.
    pub fn set(&self, faults: DiskFaults) {
        *held(&self.steered.faults) = faults;
        self.steered.changed.notify_all();
    }

    /// The faults of now.
    #[must_use]
    pub fn faults(&self) -> DiskFaults {
        let mut faults = *held(&self.steered.faults);
        faults.lose_unsynced &= !self.scratch;
        faults.failing_syncs &= !self.scratch;
        faults
    }

    /// Waits as a sync has to.
    fn delay(&self) {
        let faults = held(&self.steered.faults);
        let slow = Duration::from_millis(faults.slow_ms);
        let waited = self
            .steered
            .changed
            .wait_while(faults, |faults| faults.hung);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        if !slow.is_zero() {
            std::thread::sleep(slow);
        }
    }

    /// Refuses to write.
    fn refuse_writes(&self) -> io::Result<DiskFaults> {
        let faults = self.faults();
        if faults.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        if faults.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(faults)
    }
}

/// Nothing here is left half done by a panic.
fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Written and not yet synced: offset and bytes, in the order of writing.
type Unsynced = Arc<Mutex<Vec<(u64, Vec<u8>)>>>;

/// A change of names that is not yet synced.
#[derive(Debug)]
enum Change {
    Rename(String, String),
    Remove(String),
}

/// A folder with faults around another one.
#[derive(Debug)]
pub struct FaultyFolder {
    below: Arc<dyn Folder>,
    handle: DiskFaultHandle,
    names: Mutex<Names>,
}

/// What the process knows of the names, and the folder below does not yet.
#[derive(Debug, Default)]
struct Names {
    changes: VecDeque<Change>,
    /// Of every file that was opened, by its name of now: what is written through one handle is seen through all.
    unsynced: BTreeMap<String, Unsynced>,
}

impl FaultyFolder {
    /// Puts faults around `below`.
    #[must_use]
    pub fn new(below: Arc<dyn Folder>, handle: DiskFaultHandle) -> Arc<FaultyFolder> {
        Arc::new(FaultyFolder {
            below,
            handle,
            names: Mutex::default(),
        })
    }
}

impl Names {
    /// What the file is called below; none if the process sees no such file.
    fn below(&self, name: &str) -> Option<String> {
        let mut name = name;
        for change in self.changes.iter().rev() {
            match change {
                Change::Rename(from, to) if to == name => name = from,
                Change::Rename(from, _) if from == name => return None,
                Change::Remove(removed) if removed == name => return None,
                Change::Rename(..) | Change::Remove(_) => {}
            }
        }
        Some(name.to_owned())
    }

    fn apply(&mut self, below: &dyn Folder) -> io::Result<()> {
        while let Some(change) = self.changes.pop_front() {
            match change {
                Change::Rename(from, to) => below.rename(&from, &to)?,
                Change::Remove(name) => below.remove(&name)?,
            }
        }
        Ok(())
    }

    /// Whether a change that is not yet synced has to do with the name.
    fn concern(&self, name: &str) -> bool {
        self.changes.iter().any(|change| match change {
            Change::Rename(from, to) => from == name || to == name,
            Change::Remove(removed) => removed == name,
        })
    }
}

impl Folder for FaultyFolder {
    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        self.handle.refuse_writes()?;
        let mut names = held(&self.names);
        if names.concern(name) {
            // A name that is taken again: the changes so far happen now, as they may at any time.
            names.apply(&*self.below)?;
        }
        let below = self.below.create(name)?;
        let unsynced = Unsynced::default();
        names.unsynced.insert(name.to_owned(), unsynced.clone());
        Ok(Box::new(FaultyFile {
            below,
            unsynced,
            handle: self.handle.clone(),
        }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let mut names = held(&self.names);
        let below = names.below(name).ok_or(io::ErrorKind::NotFound)?;
        let below = self.below.open(&below)?;
        let unsynced = names.unsynced.entry(name.to_owned()).or_default().clone();
        Ok(Box::new(FaultyFile {
            below,
            unsynced,
            handle: self.handle.clone(),
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let faults = self.handle.refuse_writes()?;
        let mut names = held(&self.names);
        if names.below(from).is_none() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let change = Change::Rename(from.to_owned(), to.to_owned());
        names.changes.push_back(change);
        if let Some(unsynced) = names.unsynced.remove(from) {
            names.unsynced.insert(to.to_owned(), unsynced);
        }
        if faults.lose_unsynced {
            return Ok(());
        }
        names.apply(&*self.below)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        // A full disk lets files be removed.
        if self.handle.faults().read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let mut names = held(&self.names);
        let below = names.below(name).ok_or(io::ErrorKind::NotFound)?;
        // Says so if there is none.
        self.below.open(&below)?;
        names.changes.push_back(Change::Remove(name.to_owned()));
        names.unsynced.remove(name);
        if self.handle.faults().lose_unsynced {
            return Ok(());
        }
        names.apply(&*self.below)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut list = self.below.list()?;
        for change in &held(&self.names).changes {
            let (gone, new) = match change {
                Change::Rename(from, to) => (from, Some(to)),
                Change::Remove(name) => (name, None),
            };
            list.retain(|name| name != gone && Some(name) != new);
            list.extend(new.cloned());
        }
        list.sort_unstable();
        Ok(list)
    }

    fn sync(&self) -> io::Result<()> {
        self.handle.delay();
        let faults = self.handle.faults();
        if faults.failing_syncs {
            return Err(io::Error::other("a sync that fails on purpose"));
        }
        if faults.ignored_syncs {
            return Ok(());
        }
        held(&self.names).apply(&*self.below)?;
        self.below.sync()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        if self.handle.faults().full {
            return Ok(0);
        }
        self.below.free_bytes()
    }

    fn path(&self) -> &Path {
        self.below.path()
    }
}

#[derive(Debug)]
struct FaultyFile {
    below: Box<dyn File>,
    handle: DiskFaultHandle,
    unsynced: Unsynced,
}

impl File for FaultyFile {
    fn size(&self) -> io::Result<u64> {
        let unsynced = held(&self.unsynced);
        let ends = unsynced
            .iter()
            .map(|(offset, bytes)| offset + bytes.len() as u64);
        Ok(self.below.size()?.max(ends.max().unwrap_or(0)))
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        self.handle.refuse_writes()?;
        self.below.preallocate(bytes)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let unsynced = held(&self.unsynced);
        if unsynced.is_empty() {
            return self.below.read_at(bytes, offset);
        }
        let end = offset + bytes.len() as u64;
        // What stands below, as far as it reaches; the rest must have been written since.
        let there = self.below.size()?.saturating_sub(offset).min(end - offset);
        let there = usize::try_from(there).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        self.below.read_at(&mut bytes[..there], offset)?;
        let mut known = offset + there as u64;
        for (at, written) in unsynced.iter() {
            let (from, to) = ((*at).max(offset), (at + written.len() as u64).min(end));
            if from < to {
                let place = |position: u64, base: u64| {
                    usize::try_from(position - base).map_err(|_| io::ErrorKind::UnexpectedEof)
                };
                let found = &written[place(from, *at)?..place(to, *at)?];
                bytes[place(from, offset)?..place(to, offset)?].copy_from_slice(found);
                if from <= known {
                    known = known.max(to);
                }
            }
        }
        if known < end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let faults = self.handle.refuse_writes()?;
        let mut unsynced = held(&self.unsynced);
        // What is written later must not arrive earlier.
        if faults.lose_unsynced || faults.failing_syncs || !unsynced.is_empty() {
            unsynced.push((offset, bytes.to_owned()));
            return Ok(());
        }
        self.below.write_at(bytes, offset)
    }

    fn let_go(&self) {
        self.below.let_go();
    }

    fn sync(&self) -> io::Result<()> {
        self.handle.delay();
        let mut unsynced = held(&self.unsynced);
        let faults = self.handle.faults();
        if faults.ignored_syncs {
            return Ok(());
        }
        if faults.failing_syncs {
            unsynced.clear();
            return Err(io::Error::other("a sync that fails on purpose"));
        }
        for (offset, bytes) in unsynced.drain(..) {
            self.below.write_at(&bytes, offset)?;
        }
        self.below.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::memory::MemoryFolder;

    fn faulty(faults: DiskFaults) -> (Arc<MemoryFolder>, Arc<FaultyFolder>, DiskFaultHandle) {
        let (below, handle) = (MemoryFolder::new(), DiskFaultHandle::new());
        handle.set(faults);
        let folder = FaultyFolder::new(Arc::<MemoryFolder>::clone(&below), handle.clone());
        (below, folder, handle)
    }

    fn content(folder: &dyn Folder, name: &str) -> Vec<u8> {
        let file = folder.open(name).unwrap();
        let mut bytes = vec![0; usize::try_from(file.size().unwrap()).unwrap()];
        file.read_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn what_is_not_synced_is_seen_by_the_process_and_gone_after_it() {
        let lossy = DiskFaults {
            lose_unsynced: true,
            ..DiskFaults::default()
        };
        let (below, folder, _) = faulty(lossy);
        let file = folder.create("f").unwrap();
        file.preallocate(8).unwrap();
        file.write_at(b"abcd", 0).unwrap();
        file.sync().unwrap();
        file.write_at(b"xyz", 2).unwrap();
        file.write_at(b"tail", 8).unwrap();
        assert_eq!(content(&*folder, "f"), b"abxyz\0\0\0tail");
        assert_eq!(content(&*below, "f"), b"abcd\0\0\0\0");
        drop(file);
        assert_eq!(
            content(&*folder, "f"),
            b"abxyz\0\0\0tail",
            "not closed, lost"
        );
        folder.open("f").unwrap().sync().unwrap();
        assert_eq!(content(&*below, "f"), b"abxyz\0\0\0tail");
    }

    #[test]
    fn names_that_are_not_synced_are_gone_too() {
        let lossy = DiskFaults {
            lose_unsynced: true,
            ..DiskFaults::default()
        };
        let (below, folder, _) = faulty(lossy);
        folder.create("new.tmp").unwrap();
        folder.create("old").unwrap();
        folder.rename("new.tmp", "new").unwrap();
        folder.remove("old").unwrap();
        assert_eq!(folder.list().unwrap(), ["new"]);
        folder.open("new").unwrap();
        for gone in ["new.tmp", "old"] {
            let error = folder.open(gone).expect_err("gone");
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
            folder.remove(gone).expect_err("gone");
        }
        folder.remove("none").expect_err("there was none");
        assert_eq!(below.list().unwrap(), ["new.tmp", "old"]);
        folder.create("new.tmp").unwrap();
        assert_eq!(folder.list().unwrap(), ["new", "new.tmp"]);
        folder.remove("new.tmp").unwrap();
        folder.sync().unwrap();
        assert_eq!(below.list().unwrap(), ["new"]);
    }

    #[test]
    fn full_and_read_only_disks_refuse_until_it_is_over() {
        let full = DiskFaults {
            full: true,
            ..DiskFaults::default()
        };
        let (_, folder, handle) = faulty(DiskFaults::default());
        let file = folder.create("f").unwrap();
        handle.set(full);
        let kind = |result: io::Result<()>| result.expect_err("refused").kind();
        assert_eq!(kind(file.write_at(b"a", 0)), io::ErrorKind::StorageFull);
        assert_eq!(kind(file.preallocate(1)), io::ErrorKind::StorageFull);
        assert_eq!(folder.free_bytes().unwrap(), 0);
        handle.set(DiskFaults {
            read_only: true,
            ..DiskFaults::default()
        });
        let read_only = io::ErrorKind::ReadOnlyFilesystem;
        assert_eq!(kind(file.write_at(b"a", 0)), read_only);
        assert_eq!(kind(folder.remove("f")), read_only);
        assert_eq!(kind(folder.rename("f", "g")), read_only);
        handle.set(DiskFaults::default());
        file.write_at(b"a", 0).unwrap();
        file.sync().unwrap();
        assert_eq!(content(&*folder, "f"), b"a");
    }

    #[test]
    fn a_sync_that_fails_loses_what_it_was_to_sync() {
        let (below, folder, handle) = faulty(DiskFaults {
            failing_syncs: true,
            ..DiskFaults::default()
        });
        let file = folder.create("f").unwrap();
        file.write_at(b"lost", 0).unwrap();
        file.sync().expect_err("it fails");
        handle.set(DiskFaults::default());
        file.sync().unwrap();
        assert_eq!(content(&*below, "f"), b"", "a second sync heals nothing");
        file.write_at(b"kept", 0).unwrap();
        file.sync().unwrap();
        assert_eq!(content(&*below, "f"), b"kept");
    }

    #[test]
    fn a_hung_sync_returns_when_it_is_over() {
        let (below, folder, handle) = faulty(DiskFaults {
            hung: true,
            lose_unsynced: true,
            ..DiskFaults::default()
        });
        let file = folder.create("f").unwrap();
        file.write_at(b"late", 0).unwrap();
        let syncing = std::thread::spawn(move || file.sync());
        std::thread::sleep(Duration::from_millis(50));
        assert!(!syncing.is_finished());
        assert_eq!(content(&*below, "f"), b"");
        handle.set(DiskFaults::default());
        syncing.join().unwrap().unwrap();
        assert_eq!(content(&*below, "f"), b"late");
    }
}
