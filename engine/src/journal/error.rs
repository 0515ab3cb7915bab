//! Why a journal cannot be used: which file, where in it, and what to do.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::format::VERSION;

/// Why a journal cannot be used.
#[derive(Debug, Error)]
pub enum JournalError {
    /// A file or the folder cannot be made, read or written.
    #[error("{path}: cannot {doing}: {source}", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Bytes that were durable are not what they were.
    #[error(
        "{path}: damaged at byte {offset}: {what}. Nothing of the journal was used. Put back an undamaged copy of the file; if \
         there is none, remove the journal's folder: the node then counts as one that has lost its disk, and \
         comes back with the help of the others", path = path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where in it. Bytes from its beginning.
        offset: u64,
        /// What was expected and what was found.
        what: String,
    },
    /// Files are missing in the middle.
    #[error(
        "{path}: missing, though later parts of the journal are there. Put it back; if it is lost, remove the journal's folder: \
         the node then counts as one that has lost its disk", path = path.display()
    )]
    Missing {
        /// Which file.
        path: PathBuf,
    },
    /// The journal belongs to another node or cluster.
    #[error(
        "{path}: the journal of {found}, but this is {expected}; move each journal with its node's folder", path = path.display()
    )]
    Foreign {
        /// Which file.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        expected: String,
    },
    /// A program of another version wrote it.
    #[error(
        "{path}: format {found}, but this program reads format {VERSION}; run a program of the version that wrote it", path = path.display()
    )]
    Version {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// There is one already.
    #[error("{path}: holds a journal already", path = path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread for the journal: {0}")]
    Thread(io::Error),
}
