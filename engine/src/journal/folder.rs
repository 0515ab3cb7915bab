//! What the journal and the store of snapshots ask of a folder, and the folder of the operating system.
//!
//! | call | durable when it returns |
//! |---|---|
//! | [`File::write_at`] | nothing |
//! | [`File::sync`] | every byte written to the file before |
//! | [`File::preallocate`] | the zeros, so that writing over them later changes no metadata |
//! | [`Folder::create`], [`Folder::rename`], [`Folder::remove`] | nothing |
//! | [`Folder::sync`] | the names of the folder, as they were before |
//!
//! It is small so that it can stand over anything: files ([`DiskFolder`]), memory ([`super::memory`]), or either
//! of them with faults that are steered while it runs ([`super::faults`]). A power cut may keep or lose whatever was
//! not synced, in any order.
//!
//! *Cost.* Overwriting preallocated bytes and syncing them is one write of data to the disk; growing a file costs twice that,
//! because its size must be made durable too (DESIGN section 3). [`File::let_go`] keeps a journal from filling the machine's memory with
//! pages that only laggards would read: the kernel writes into pages that it has at hand instead of new ones. On the virtual machine of
//! `bench/measurements.md`, where a new page is dear, that was worth a fifth of the throughput under load.

use std::fmt::Debug;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate, fstatvfs};
use rustix::io::Errno;

/// Zeros are written in pieces of so many bytes, each synced: whoever syncs other files meanwhile waits for one of them.
const ZEROED_BYTES: usize = 1 << 20;

/// A flat folder of files. Handles may be used from any thread.
pub trait Folder: Debug + Send + Sync {
    /// Makes a new, empty file.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`], or what the system says.
    fn create(&self, name: &str) -> io::Result<Box<dyn File>>;
    /// Opens a file to read and to write over.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`], or what the system says.
    fn open(&self, name: &str) -> io::Result<Box<dyn File>>;
    /// Gives a file another name, in place of what has that name.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// The names of all files, ascending.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes the names durable.
    ///
    /// # Errors
    /// What the system says; which names are durable is unknown then.
    fn sync(&self) -> io::Result<()>;
    /// Bytes that can still be written to the disk.
    ///
    /// # Errors
    /// What the system says.
    fn free_bytes(&self) -> io::Result<u64>;
    /// Where it is, for messages.
    fn path(&self) -> &Path;
}

/// An open file of a [`Folder`].
pub trait File: Debug + Send + Sync {
    /// Its length. Bytes.
    ///
    /// # Errors
    /// What the system says.
    fn size(&self) -> io::Result<u64>;
    /// Makes it `bytes` long, all of them zero, durable, and its own: later writes below need no more room.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`], or what the system says; the file is useless then.
    fn preallocate(&self, bytes: u64) -> io::Result<()>;
    /// Fills `bytes` from `offset` on.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] beyond the end, or what the system says.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes `bytes` from `offset` on.
    ///
    /// # Errors
    /// What the system says; any part of `bytes` may have been written then.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes everything that was written durable, and the length.
    ///
    /// # Errors
    /// What the system says; which of the bytes are durable is unknown then, and a second call may falsely succeed: they
    /// must be written again.
    fn sync(&self) -> io::Result<()>;
    /// A hint: nothing of it will be read or written soon, so what the system keeps of it in memory may go.
    fn let_go(&self);
}

/// A folder of the operating system.
#[derive(Debug)]
pub struct DiskFolder {
    path: PathBuf,
    /// Open, to sync it.
    handle: fs::File,
}

impl DiskFolder {
    /// Opens the folder at `path`.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &Path) -> io::Result<Arc<dyn Folder>> {
        let handle = fs::File::open(path)?;
        if !handle.metadata()?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Arc::new(DiskFolder {
            path: path.to_owned(),
            handle,
        }))
    }

    /// Makes the folder at `path` durable in its parent, which must exist, and opens it. One that exists is taken as it is.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(path: &Path) -> io::Result<Arc<dyn Folder>> {
        match fs::create_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let parent = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        fs::File::open(parent)?.sync_all()?;
        DiskFolder::open(path)
    }
}

impl Folder for DiskFolder {
    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        let mut options = fs::OpenOptions::new();
        let options = options.read(true).write(true).create_new(true);
        Ok(Box::new(DiskFile(options.open(self.path.join(name))?)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let mut options = fs::OpenOptions::new();
        let options = options.read(true).write(true);
        Ok(Box::new(DiskFile(options.open(self.path.join(name))?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                // A name that is no text is none of ours.
                names.extend(entry.file_name().into_string());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn sync(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let disk = fstatvfs(&self.handle)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

#[derive(Debug)]
struct DiskFile(fs::File);

impl File for DiskFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        // One stretch of the disk, if the file system knows how; the zeros below do the rest.
        match fallocate(&self.0, FallocateFlags::empty(), 0, bytes) {
            Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
        let zeros = vec![0; ZEROED_BYTES];
        let mut offset = 0;
        while offset < bytes {
            let left = usize::try_from(bytes - offset).unwrap_or(usize::MAX);
            let piece = &zeros[..left.min(ZEROED_BYTES)];
            self.0.write_all_at(piece, offset)?;
            self.0.sync_data()?;
            offset += piece.len() as u64;
        }
        self.0.sync_all()
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(bytes, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn let_go(&self) {
        // Where the hint is not taken nothing is lost.
        let _ = fadvise(&self.0, 0, None, Advice::DontNeed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::memory::MemoryFolder;

    fn try_out(folder: &dyn Folder) {
        let file = folder.create("b").unwrap();
        assert_eq!(
            folder.create("b").unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        file.preallocate(5_000).unwrap();
        file.write_at(b"word", 4_090).unwrap();
        file.sync().unwrap();
        let mut found = [1; 6];
        file.read_at(&mut found, 4_089).unwrap();
        assert_eq!(&found, b"\0word\0");
        assert_eq!(file.size().unwrap(), 5_000);
        assert_eq!(
            file.read_at(&mut found, 4_999).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );
        file.write_at(b"more", 5_000).unwrap();
        assert_eq!(file.size().unwrap(), 5_004, "a file may grow");

        folder.create("c").unwrap();
        folder.rename("b", "a").unwrap();
        folder.sync().unwrap();
        assert_eq!(folder.list().unwrap(), ["a", "c"]);
        folder.remove("c").unwrap();
        assert_eq!(folder.list().unwrap(), ["a"]);
        assert_eq!(
            folder.open("b").unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        assert_eq!(folder.open("a").unwrap().size().unwrap(), 5_004);
        assert!(folder.free_bytes().unwrap() > 0);
    }

    #[test]
    fn a_folder_of_the_system_and_one_in_memory_do_the_same() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("folder");
        DiskFolder::open(&path).expect_err("there is none yet");
        try_out(&*DiskFolder::create(&path).unwrap());
        assert_eq!(DiskFolder::create(&path).unwrap().list().unwrap(), ["a"]);
        try_out(&*MemoryFolder::new());
    }
}
