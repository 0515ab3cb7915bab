//! The file under the database: whatever comes back from it is what was written, or an error.
//!
//! A database trusts its pages once it is open; a byte that the disk changed would become a wrong answer, or a panic. This
//! file lives no longer than its process, so what it should hold is known: a checksum of every block is kept in memory, and
//! every block that is read is held against it. For the same reason nothing is ever synced, and a block that was never written
//! need not be read.
//!
//! *Cost.* Eight bytes of memory for each block of 4 KiB, 2 MiB for each GiB, and one fast hash (xxh3) of every block that is
//! read or written. The file does not shrink while the process runs; what the database gives up in it is used again.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use redb::StorageBackend;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::journal::folder::File;

/// The length of a block; pages of the database are one or more of them, so that no two share one. Bytes.
const BLOCK_BYTES: usize = 4096;
/// Stands for a block that was never written: it reads as zeros.
const NEVER: u64 = 0;

/// A file that notices damage.
#[derive(Debug)]
pub(super) struct CheckedFile {
    file: Box<dyn File>,
    blocks: RwLock<Blocks>,
}

#[derive(Debug, Default)]
struct Blocks {
    /// As long as the database takes the file to be. Bytes.
    len: u64,
    /// The checksum of each block.
    sums: Vec<AtomicU64>,
}

impl CheckedFile {
    /// Over a new, empty file.
    pub(super) fn new(file: Box<dyn File>) -> CheckedFile {
        CheckedFile {
            file,
            blocks: RwLock::default(),
        }
    }

    /// The blocks, which hold `bytes` from `offset` on.
    fn blocks_of(&self, offset: u64, bytes: usize) -> io::Result<RwLockReadGuard<'_, Blocks>> {
        // Nothing is left half done by a panic.
        let blocks = self.blocks.read().unwrap_or_else(PoisonError::into_inner);
        let end = offset.checked_add(bytes as u64);
        if end.is_none_or(|end| end > blocks.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(blocks)
    }

    /// Reads a whole block and holds it against its checksum.
    fn read_block(&self, blocks: &Blocks, number: usize, block: &mut [u8]) -> io::Result<()> {
        let sum = blocks.sums[number].load(Ordering::Acquire);
        if sum == NEVER {
            block.fill(0);
            return Ok(());
        }
        let offset = number as u64 * BLOCK_BYTES as u64;
        let read = self.file.read_at(block, offset);
        // A file that ends too early was cut by somebody else.
        let cut = matches!(&read, Err(why) if why.kind() == io::ErrorKind::UnexpectedEof);
        if cut || (read.is_ok() && checksum(number, block) != sum) {
            let what =
                format!("the {BLOCK_BYTES} bytes at byte {offset} are not those that were written");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        read
    }

    fn write_block(&self, blocks: &Blocks, number: usize, block: &[u8]) -> io::Result<()> {
        let offset = number as u64 * BLOCK_BYTES as u64;
        self.file.write_at(block, offset)?;
        blocks.sums[number].store(checksum(number, block), Ordering::Release);
        Ok(())
    }
}

impl StorageBackend for CheckedFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.blocks_of(0, 0)?.len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let blocks = self.blocks_of(offset, out.len())?;
        for (number, from, piece) in pieces(offset, out.len()) {
            let out = &mut out[piece];
            if out.len() == BLOCK_BYTES {
                self.read_block(&blocks, number, out)?;
            } else {
                let mut block = [0; BLOCK_BYTES];
                self.read_block(&blocks, number, &mut block)?;
                out.copy_from_slice(&block[from..][..out.len()]);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut blocks = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
        let count = usize::try_from(len.div_ceil(BLOCK_BYTES as u64));
        let count = count.map_err(|_| io::ErrorKind::FileTooLarge)?;
        let last_bytes = len % BLOCK_BYTES as u64;
        if len < blocks.len && last_bytes > 0 {
            // What is cut off reads as zeros, should the file grow again.
            let last_bytes = usize::try_from(last_bytes).expect("below a block");
            let mut block = [0; BLOCK_BYTES];
            self.read_block(&blocks, count - 1, &mut block)?;
            block[last_bytes..].fill(0);
            self.write_block(&blocks, count - 1, &block)?;
        }
        blocks.sums.resize_with(count, || AtomicU64::new(NEVER));
        blocks.len = len;
        Ok(())
    }

    /// Nothing in the file is needed once the process has ended.
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let blocks = self.blocks_of(offset, data.len())?;
        for (number, from, piece) in pieces(offset, data.len()) {
            let data = &data[piece];
            if data.len() == BLOCK_BYTES {
                self.write_block(&blocks, number, data)?;
            } else {
                let mut block = [0; BLOCK_BYTES];
                self.read_block(&blocks, number, &mut block)?;
                block[from..][..data.len()].copy_from_slice(data);
                self.write_block(&blocks, number, &block)?;
            }
        }
        Ok(())
    }
}

/// The blocks that `bytes` bytes from `offset` on touch: the number of each, where in it they begin, and which of them lie there.
fn pieces(
    offset: u64,
    bytes: usize,
) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let block_bytes = BLOCK_BYTES as u64;
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == bytes {
            return None;
        }
        let at = offset + done as u64;
        let number = usize::try_from(at / block_bytes).expect("below the number of blocks");
        let from = usize::try_from(at % block_bytes).expect("below a block");
        let piece = done..bytes.min(done + BLOCK_BYTES - from);
        done = piece.end;
        Some((number, from, piece))
    })
}

/// Bound to its place, so that a block that went elsewhere is noticed too.
fn checksum(number: usize, block: &[u8]) -> u64 {
    xxh3_64_with_seed(block, number as u64).max(NEVER + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::journal::folder::Folder;
    use crate::journal::memory::MemoryFolder;

    #[derive(Clone, Debug)]
    enum Step {
        SetLen(u64),
        Write(u64, usize, u8),
        Read(u64, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let (offset, len) = (0u64..40_000, 0usize..10_000);
        prop_oneof![
            1 => (0u64..40_000).prop_map(Step::SetLen),
            4 => (offset.clone(), len.clone(), 1u8..).prop_map(|(at, len, byte)| Step::Write(at, len, byte)),
            4 => (offset, len).prop_map(|(at, len)| Step::Read(at, len)),
        ]
    }

    proptest! {
        #[test]
        fn behaves_like_memory(steps in prop::collection::vec(step(), 0..60)) {
            let folder = MemoryFolder::new();
            let file = CheckedFile::new(folder.create("file").unwrap());
            let mut model = Vec::new();
            for step in steps {
                match step {
                    Step::SetLen(len) => {
                        file.set_len(len).unwrap();
                        model.resize(usize::try_from(len).unwrap(), 0);
                    }
                    Step::Write(at, len, byte) => {
                        let done = file.write(at, &vec![byte; len]);
                        let at = usize::try_from(at).unwrap();
                        let room = model.get_mut(at..at + len);
                        prop_assert_eq!(done.is_ok(), room.is_some());
                        if let Some(room) = room {
                            room.fill(byte);
                        }
                    }
                    Step::Read(at, len) => {
                        let mut found = vec![9; len];
                        let done = file.read(at, &mut found);
                        let at = usize::try_from(at).unwrap();
                        let expected = model.get(at..at + len);
                        prop_assert_eq!(done.is_ok(), expected.is_some());
                        if let Some(expected) = expected {
                            prop_assert_eq!(found, expected);
                        }
                    }
                }
                prop_assert_eq!(file.len().unwrap(), model.len() as u64);
            }
        }
    }

    #[test]
    fn a_changed_moved_or_missing_block_is_an_error() {
        let folder = MemoryFolder::new();
        let file = CheckedFile::new(folder.create("file").unwrap());
        file.set_len(5 * 4096).unwrap();
        for block in [0, 1, 3] {
            file.write(block * 4096, &[7; 4096]).unwrap();
        }
        let read = |block: u64| file.read(block * 4096 + 1, &mut [0; 9]);
        let below = folder.open("file").unwrap();
        below.write_at(&[6], 4096 + 4000).unwrap();
        let why = read(1).expect_err("a byte was changed");
        assert_eq!(why.kind(), io::ErrorKind::InvalidData);
        file.write(4096 + 4000, &[7])
            .expect_err("the rest of the block is not known");
        file.write(4096, &[8; 4096]).unwrap();
        read(1).unwrap();

        // Equal bytes at another place, and a block that nobody has written.
        let sums = |number| checksum(number, &[7; 4096]);
        assert_ne!(sums(0), sums(3));
        below.write_at(&[1; 4096], 4 * 4096).unwrap();
        read(4).expect("zeros, whatever stands there");

        folder.remove("file").unwrap();
        let cut = folder.create("file").unwrap();
        let file = CheckedFile { file: cut, ..file };
        let why = file.read(0, &mut [0; 9]).expect_err("nothing is there");
        assert_eq!(why.kind(), io::ErrorKind::InvalidData);
    }
}
