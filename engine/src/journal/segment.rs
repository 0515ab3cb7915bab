//! The files of a journal: made ahead, named by number, removed whole.
//!
//! A segment is made under [`NEXT_FILE`], filled with zeros, synced, and only then renamed: one with a proper name has a header that
//! was durable, and room for everything that will be written into it.

use std::io;
use std::path::PathBuf;

use super::error::JournalError;
use super::folder::{File, Folder};
use super::format::{HEADER_BYTES, Header, HeaderError, Owner};

/// What a segment is called while it is made.
pub const NEXT_FILE: &str = "next";
/// The smallest segment: a new cluster on one machine must not fill the disk. Bytes.
pub const SEGMENT_BYTES_MIN: u64 = 1 << 20;
/// How long segments become if nothing else is said. Bytes.
pub const SEGMENT_BYTES_USUAL: u64 = 64 << 20;
/// The largest: one is read into memory as a whole. Bytes.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;

const PREFIX: &str = "segment-";

/// An open segment.
#[derive(Debug)]
pub struct Segment {
    /// What its header says.
    pub header: Header,
    /// Its file.
    pub file: Box<dyn File>,
}

/// The name of the segment with this number.
#[must_use]
pub fn file_name(number: u64) -> String {
    format!("{PREFIX}{number:010}")
}

/// The numbers of the segments in a folder, ascending.
///
/// # Errors
/// [`JournalError::Io`], or [`JournalError::Missing`] if one is missing in the middle.
pub fn numbers(folder: &dyn Folder) -> Result<Vec<u64>, JournalError> {
    let names = folder
        .list()
        .map_err(|source| failed(folder, "", "list", source))?;
    let number = |name: &String| {
        let number = name.strip_prefix(PREFIX)?.parse().ok()?;
        (*name == file_name(number)).then_some(number)
    };
    let mut numbers: Vec<u64> = names.iter().filter_map(number).collect();
    numbers.sort_unstable();
    for pair in numbers.windows(2) {
        if pair[0] + 1 < pair[1] {
            return Err(JournalError::Missing {
                path: folder.path().join(file_name(pair[0] + 1)),
            });
        }
    }
    Ok(numbers)
}

/// Makes a segment without entries; it is durable when this returns.
///
/// # Errors
/// [`JournalError::Io`]; what was begun is removed by the next attempt.
pub fn create(
    folder: &dyn Folder,
    owner: Owner,
    number: u64,
    length: u64,
) -> Result<Segment, JournalError> {
    let header = Header {
        owner,
        number,
        length,
    };
    let name = file_name(number);
    let make = || {
        match folder.remove(NEXT_FILE) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = folder.create(NEXT_FILE)?;
        file.preallocate(length)?;
        file.write_at(&header.encode(), 0)?;
        file.sync()?;
        folder.rename(NEXT_FILE, &name)?;
        folder.sync()?;
        Ok(file)
    };
    let file = make().map_err(|source| failed(folder, &name, "make", source))?;
    Ok(Segment { header, file })
}

/// Opens a segment and reads all of it into `bytes`, the header too.
///
/// # Errors
/// [`JournalError`], if it cannot be read, or its header is damaged, not this node's, or of a later program.
pub fn read(
    folder: &dyn Folder,
    owner: Owner,
    number: u64,
    bytes: &mut Vec<u8>,
) -> Result<Segment, JournalError> {
    let name = file_name(number);
    let path = || folder.path().join(&name);
    let damaged = |offset, what: String| JournalError::Damaged {
        path: path(),
        offset,
        what,
    };
    let io = |source| failed(folder, &name, "read", source);
    let file = folder.open(&name).map_err(io)?;
    let size = file.size().map_err(io)?;
    let mut head = [0; HEADER_BYTES];
    if size < HEADER_BYTES as u64 {
        let what = format!("a segment has at least {HEADER_BYTES} bytes");
        return Err(damaged(size, what));
    }
    file.read_at(&mut head, 0).map_err(io)?;
    let header = Header::decode(&head).map_err(|error| match error {
        HeaderError::Damaged => damaged(0, "the header does not match its check".to_owned()),
        HeaderError::Version(found) => JournalError::Version {
            path: path(),
            found,
        },
    })?;
    if header.owner != owner {
        return Err(JournalError::Foreign {
            path: path(),
            found: words(header.owner),
            expected: words(owner),
        });
    }
    if header.number != number {
        let what = format!(
            "the header is that of segment {}: the file was renamed",
            header.number
        );
        return Err(damaged(0, what));
    }
    if header.length != size || size > SEGMENT_BYTES_MAX {
        let what = format!(
            "the header says {} bytes, the file has {size}",
            header.length
        );
        return Err(damaged(size.min(header.length), what));
    }
    bytes.clear();
    bytes.resize(usize::try_from(size).expect("below the largest segment"), 0);
    file.read_at(bytes, 0).map_err(io)?;
    Ok(Segment { header, file })
}

/// An error of the system, with the file and what was tried.
pub(super) fn failed(
    folder: &dyn Folder,
    name: &str,
    doing: &'static str,
    source: io::Error,
) -> JournalError {
    let path: PathBuf = if name.is_empty() {
        folder.path().to_owned()
    } else {
        folder.path().join(name)
    };
    JournalError::Io {
        path,
        doing,
        source,
    }
}

fn words(owner: Owner) -> String {
    format!(
        "node {} of cluster {}, epoch {}",
        owner.node, owner.cluster, owner.epoch.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::memory::MemoryFolder;
    use crate::types::{ClusterId, Epoch, NodeId};

    const OWNER: Owner = Owner {
        cluster: ClusterId([1; 32]),
        epoch: Epoch(0),
        node: NodeId(4),
    };

    fn open(folder: &MemoryFolder, owner: Owner, number: u64) -> Result<Segment, JournalError> {
        read(folder, owner, number, &mut Vec::new())
    }

    #[test]
    fn segments_are_made_in_order_and_read_back() {
        let folder = MemoryFolder::new();
        assert!(numbers(&*folder).unwrap().is_empty());
        for number in 1..=3 {
            folder.create(NEXT_FILE).unwrap();
            create(&*folder, OWNER, number, 8192).unwrap();
        }
        assert_eq!(numbers(&*folder).unwrap(), [1, 2, 3]);
        assert_eq!(open(&folder, OWNER, 2).unwrap().header.number, 2);
        folder.remove(&file_name(2)).unwrap();
        let missing = numbers(&*folder).expect_err("2 is missing").to_string();
        assert!(
            missing.starts_with("memory/segment-0000000002: missing"),
            "{missing}"
        );
    }

    #[test]
    fn what_is_not_this_nodes_segment_is_refused_by_name() {
        let folder = MemoryFolder::new();
        create(&*folder, OWNER, 1, 8192).unwrap();
        let refused = |owner| open(&folder, owner, 1).expect_err("refused").to_string();
        let other = Owner {
            node: NodeId(5),
            ..OWNER
        };
        let foreign = refused(other);
        assert!(
            foreign.contains("the journal of node 4 of cluster"),
            "{foreign}"
        );
        assert!(foreign.contains("but this is node 5"), "{foreign}");
        folder.damage(&file_name(1), |bytes| bytes.truncate(8191));
        let cut = refused(OWNER);
        assert!(cut.contains("damaged at byte 8191"), "{cut}");
        folder.damage(&file_name(1), |bytes| bytes.truncate(100));
        assert!(refused(OWNER).contains("damaged at byte 100"));
        create(&*folder, OWNER, 2, 8192).unwrap();
        folder.rename(&file_name(2), &file_name(1)).unwrap();
        assert!(refused(OWNER).contains("that of segment 2"));
    }
}
