//! Whether a node starts for the first time, and that it runs once at a time.
//!
//! A node that keeps nothing on disk has forgotten its promises when it starts again, so it may not vote any more
//! (PROTOCOL.md section 5.5). It knows from the file `started`, which is made durable before its first vote; and it
//! believes in a first start only when its launcher says so, because an emptied folder looks like a new one.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::replica::Standing;

/// The file that says that the node has run.
pub const STARTED_FILE: &str = "started";
/// The file that a running node holds locked.
pub const LOCK_FILE: &str = "lock";

/// Why a node may not run from its folder.
#[derive(Debug, Error)]
pub enum BirthError {
    /// It runs already.
    #[error(
        "{0}: another process runs this node; stop it first (two nodes with one identity are a Byzantine node)"
    )]
    Running(PathBuf),
    /// A file in the folder cannot be made.
    #[error("{path}: cannot {doing}: {source}", path = path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// Holds the folder's lock until it is dropped or the process ends.
#[derive(Debug)]
pub struct FolderLock(#[expect(dead_code, reason = "the lock is held by the open file")] File);

/// Locks a node's folder.
///
/// # Errors
/// [`BirthError::Running`] when another process holds it.
pub fn lock(folder: &Path) -> Result<FolderLock, BirthError> {
    let path = folder.join(LOCK_FILE);
    let cannot = |source| BirthError::Io {
        path: path.clone(),
        doing: "open",
        source,
    };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(cannot)?;
    match file.try_lock() {
        Ok(()) => Ok(FolderLock(file)),
        Err(TryLockError::WouldBlock) => Err(BirthError::Running(path)),
        Err(TryLockError::Error(source)) => Err(BirthError::Io {
            path,
            doing: "lock",
            source,
        }),
    }
}

/// The standing of a node that starts now. On a first start the file `started` is durable when this returns.
///
/// # Errors
/// [`BirthError::Io`] when that file cannot be made durable; the node must not vote then.
pub fn standing(folder: &Path, first_start: bool, words: &str) -> Result<Standing, BirthError> {
    let path = folder.join(STARTED_FILE);
    let cannot = |doing| {
        let path = path.clone();
        move |source| BirthError::Io {
            path,
            doing,
            source,
        }
    };
    if !first_start || fs::exists(&path).map_err(cannot("look for"))? {
        return Ok(Standing::LostDisk);
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(cannot("make"))?;
    let written = writeln!(file, "{words}").and_then(|()| file.sync_all());
    written.map_err(cannot("write"))?;
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(cannot("make durable"))?;
    Ok(Standing::Born)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_born_once_and_only_if_its_launcher_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let start = |first| standing(folder.path(), first, "node 0").unwrap();
        assert_eq!(
            start(false),
            Standing::LostDisk,
            "an empty folder may be a lost one"
        );
        assert_eq!(start(true), Standing::Born);
        assert_eq!(start(true), Standing::LostDisk, "it has run");
        assert_eq!(start(false), Standing::LostDisk);
        standing(&folder.path().join("none"), true, "")
            .expect_err("what cannot be made durable is no first start");
    }

    #[test]
    fn a_folder_runs_one_node_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).unwrap();
        let error = lock(folder.path()).expect_err("locked").to_string();
        assert!(error.contains("another process runs this node"), "{error}");
        drop(held);
        lock(folder.path()).unwrap();
    }
}
