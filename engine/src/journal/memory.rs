//! A folder in memory: for tests, whose disks must be fast, small, and open to damage.
//!
//! Everything counts as durable at once; what a power cut takes is the business of [`super::faults`].

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::folder::{File, Folder};

/// How much it says that it can still hold. Bytes.
const FREE_BYTES: u64 = 1 << 40;

type Content = Arc<Mutex<Vec<u8>>>;

/// Files in memory. Clones are one folder.
#[derive(Clone, Debug, Default)]
pub struct MemoryFolder {
    files: Arc<Mutex<BTreeMap<String, Content>>>,
}

impl MemoryFolder {
    /// An empty folder.
    #[must_use]
    pub fn new() -> Arc<MemoryFolder> {
        Arc::default()
    }

    /// A folder with the same files, which lives on its own.
    #[must_use]
    pub fn copy(&self) -> Arc<MemoryFolder> {
        let files = held(&self.files);
        let copy = files.iter().map(|(name, content)| {
            let content = Arc::new(Mutex::new(held(content).clone()));
            (name.clone(), content)
        });
        Arc::new(MemoryFolder {
            files: Arc::new(Mutex::new(copy.collect())),
        })
    }

    /// Does something to the bytes of a file behind everybody's back.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn damage(&self, name: &str, harm: impl FnOnce(&mut Vec<u8>)) {
        let content = self.content(name).expect("a file that is there");
        harm(&mut held(&content));
    }

    fn content(&self, name: &str) -> io::Result<Content> {
        let files = held(&self.files);
        files
            .get(name)
            .cloned()
            .ok_or(io::ErrorKind::NotFound.into())
    }
}

/// Nothing here is left half done by a panic.
fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Folder for MemoryFolder {
    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        let mut files = held(&self.files);
        if files.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let content = Content::default();
        files.insert(name.to_owned(), Arc::clone(&content));
        Ok(Box::new(MemoryFile(content)))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        Ok(Box::new(MemoryFile(self.content(name)?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let content = self.content(from)?;
        let mut files = held(&self.files);
        files.remove(from);
        files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let removed = held(&self.files).remove(name);
        removed.map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(held(&self.files).keys().cloned().collect())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(FREE_BYTES)
    }

    fn path(&self) -> &Path {
        Path::new("memory")
    }
}

#[derive(Debug)]
struct MemoryFile(Content);

impl File for MemoryFile {
    fn size(&self) -> io::Result<u64> {
        Ok(held(&self.0).len() as u64)
    }

    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        let bytes = usize::try_from(bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        *held(&self.0) = vec![0; bytes];
        Ok(())
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let content = held(&self.0);
        let from = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let found = content
            .get(from..)
            .and_then(|rest| rest.get(..bytes.len()))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(found);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let to = from
            .checked_add(bytes.len())
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let mut content = held(&self.0);
        if content.len() < to {
            content.resize(to, 0);
        }
        content[from..to].copy_from_slice(bytes);
        Ok(())
    }

    fn let_go(&self) {}

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}
