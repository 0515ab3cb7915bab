//! Snapshots in a folder: the store of a node that keeps things on disk.
//!
//! | file | what |
//! |---|---|
//! | `snapshot-D.part` | chunks, each at its place, of one that is made or received |
//! | `snapshot-D.chunks` | the same, whole and sealed |
//! | `snapshot-D.manifest` | the digests of the chunks |
//! | `snapshot-D.certificate` | under which it is received, or sealed |
//!
//! Sealing syncs the files, then renames, then syncs the folder: after a power cut a snapshot is there or not. No file is believed:
//! chunks are checked against the manifest, that against the certificate's root, and the certificate by its
//! signatures ([`crate::snapshot::Keeper`]), so a damaged byte anywhere makes a snapshot useless and never wrong.
//!
//! *Cost.* One write for each chunk, two files more and four syncs for each snapshot, all on the keeper's thread.

use std::fmt::{self, Debug};
use std::io;
use std::sync::Arc;

use twostep_net::pool::Body;

use super::folder::{File, Folder};
use crate::snapshot::{Stock, Store};
use crate::state_machine::ChunkSource;
use crate::types::Decree;

/// The largest manifest or certificate that is read back. Bytes.
const HEAD_BYTES_MAX: u64 = 1 << 26;

/// Snapshots in a folder, which may hold other files too.
#[derive(Debug)]
pub struct FolderStore {
    folder: Arc<dyn Folder>,
    chunk_bytes: usize,
    /// The file that chunks were written to or read from last.
    open: Option<(Decree, Box<dyn File>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Part,
    Chunks,
    Manifest,
    Certificate,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Part, Kind::Chunks, Kind::Manifest, Kind::Certificate];

    fn ending(self) -> &'static str {
        match self {
            Kind::Part => "part",
            Kind::Chunks => "chunks",
            Kind::Manifest => "manifest",
            Kind::Certificate => "certificate",
        }
    }

    fn name(self, decree: Decree) -> String {
        // Of one length, so that names stand in the order of the decrees.
        format!("snapshot-{:020}.{}", decree.0, self.ending())
    }

    /// Which snapshot a file belongs to, and what it is of it.
    fn of(name: &str) -> Option<(Decree, Kind)> {
        let (decree, ending) = name.strip_prefix("snapshot-")?.split_once('.')?;
        let kind = Kind::ALL.into_iter().find(|kind| kind.ending() == ending)?;
        Some((Decree(decree.parse().ok()?), kind))
    }
}

impl FolderStore {
    /// A store in `folder` for a cluster whose chunks have this length.
    #[must_use]
    pub fn new(folder: Arc<dyn Folder>, chunk_bytes: usize) -> FolderStore {
        FolderStore {
            folder,
            chunk_bytes,
            open: None,
        }
    }

    /// The file with the chunks, sealed or not; made if there is none.
    fn chunks(&mut self, decree: Decree) -> io::Result<&dyn File> {
        let known = self.open.take().filter(|(open, _)| *open == decree);
        let file = match known {
            Some((_, file)) => file,
            None => match self.open_chunks(decree) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.folder.create(&Kind::Part.name(decree))?
                }
                opened => opened?,
            },
        };
        let (_, file) = self.open.insert((decree, file));
        Ok(&**file)
    }

    fn open_chunks(&self, decree: Decree) -> io::Result<Box<dyn File>> {
        match self.folder.open(&Kind::Chunks.name(decree)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.folder.open(&Kind::Part.name(decree))
            }
            opened => opened,
        }
    }

    /// Writes a small file anew, and makes its bytes durable.
    fn write(&self, decree: Decree, kind: Kind, bytes: &[u8]) -> io::Result<()> {
        let name = kind.name(decree);
        match self.folder.remove(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = self.folder.create(&name)?;
        file.write_at(bytes, 0)?;
        file.sync()
    }

    fn read(&self, decree: Decree, kind: Kind) -> io::Result<Vec<u8>> {
        let file = self.folder.open(&kind.name(decree))?;
        let size = file.size()?;
        if size > HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
        file.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

impl Store for FolderStore {
    fn put(&mut self, decree: Decree, place: u32, piece: Body) -> io::Result<()> {
        let Some(chunk) = place.checked_sub(1) else {
            return self.write(decree, Kind::Manifest, &piece);
        };
        let offset = u64::from(chunk) * self.chunk_bytes as u64;
        self.chunks(decree)?.write_at(&piece, offset)
    }

    fn get(&mut self, decree: Decree, place: u32) -> io::Result<Body> {
        let Some(chunk) = place.checked_sub(1) else {
            return Ok(Body::from_vec(self.read(decree, Kind::Manifest)?));
        };
        let chunk_bytes = self.chunk_bytes;
        let file = self.chunks(decree)?;
        let bytes = read_chunk(file, u64::from(chunk), chunk_bytes)?;
        Ok(Body::from_vec(bytes))
    }

    fn begin(&mut self, decree: Decree, certificate: &[u8]) -> io::Result<()> {
        self.write(decree, Kind::Certificate, certificate)?;
        self.folder.sync()
    }

    fn seal(&mut self, decree: Decree, certificate: &[u8]) -> io::Result<()> {
        self.chunks(decree)?.sync()?;
        self.write(decree, Kind::Certificate, certificate)?;
        let (part, chunks) = (Kind::Part.name(decree), Kind::Chunks.name(decree));
        // One that is sealed again has its name already.
        match self.folder.rename(&part, &chunks) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.folder.sync()
    }

    fn remove(&mut self, decree: Decree) {
        self.open.take_if(|(open, _)| *open == decree);
        for kind in Kind::ALL {
            // What stays is of no decree that counts, or is overwritten.
            let _ = self.folder.remove(&kind.name(decree));
        }
    }

    fn source(&mut self, decree: Decree) -> io::Result<Box<dyn ChunkSource + Send>> {
        Ok(Box::new(FileChunks {
            file: self.folder.open(&Kind::Chunks.name(decree))?,
            chunk_bytes: self.chunk_bytes,
            next: 0,
        }))
    }

    fn stock(&mut self) -> Vec<Stock> {
        let names = self.folder.list().unwrap_or_default();
        let of: Vec<(Decree, Kind)> = names.iter().filter_map(|name| Kind::of(name)).collect();
        let mut decrees: Vec<Decree> = of.iter().map(|(decree, _)| *decree).collect();
        decrees.sort_unstable();
        decrees.dedup();
        let mut stock = Vec::new();
        for decree in decrees {
            match self.read(decree, Kind::Certificate) {
                Ok(certificate) => stock.push(Stock {
                    decree,
                    certificate,
                    sealed: of.contains(&(decree, Kind::Chunks)),
                }),
                // What nobody certified is made again.
                Err(_) => self.remove(decree),
            }
        }
        stock
    }
}

/// The chunks of a sealed file in order.
struct FileChunks {
    file: Box<dyn File>,
    chunk_bytes: usize,
    next: u64,
}

impl ChunkSource for FileChunks {
    fn next(&mut self, chunk: &mut Vec<u8>) -> io::Result<bool> {
        chunk.clear();
        if self.next * self.chunk_bytes as u64 >= self.file.size()? {
            return Ok(false);
        }
        *chunk = read_chunk(&*self.file, self.next, self.chunk_bytes)?;
        self.next += 1;
        Ok(true)
    }
}

impl Debug for FileChunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FileChunks at {}", self.next)
    }
}

/// A chunk, the last one as short as the file ends.
fn read_chunk(file: &dyn File, chunk: u64, chunk_bytes: usize) -> io::Result<Vec<u8>> {
    let offset = chunk * chunk_bytes as u64;
    let left = file.size()?.checked_sub(offset).filter(|left| *left > 0);
    let left = usize::try_from(left.ok_or(io::ErrorKind::NotFound)?).unwrap_or(usize::MAX);
    let mut bytes = vec![0; left.min(chunk_bytes)];
    file.read_at(&mut bytes, offset)?;
    Ok(bytes)
}

#[cfg(test)]
pub(crate) mod tests;
