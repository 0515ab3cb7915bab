//! The image of an executor as one stream of bytes, and back.

use std::fmt;
use std::io;

use super::CHUNK_BYTES_MAX;
use crate::session::SessionImage;
use crate::state_machine::{ChunkSource, SnapshotReader};
use crate::types::Decree;

/// Sessions are put together to frames of at least so many bytes.
const SESSION_FRAME_BYTES: usize = 64 << 10;
/// The parts of an image: sessions, state. Each ends with an empty frame.
const PARTS: usize = 2;

/// State and session table as they were after one decree, read chunk by chunk while execution goes on.
pub struct Image {
    decree: Decree,
    chunk_bytes: usize,
    sessions: SessionImage,
    state: Box<dyn SnapshotReader>,
    stage: Stage,
    /// The frame that is being cut into chunks, its length in front, and how much of it was.
    frame: Vec<u8>,
    cut: usize,
    chunk: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Sessions,
    State,
    End,
}

impl Image {
    /// An image of what stands after `decree`, to be cut into chunks of `chunk_bytes`.
    #[must_use]
    pub fn new(
        decree: Decree,
        chunk_bytes: usize,
        sessions: SessionImage,
        state: Box<dyn SnapshotReader>,
    ) -> Image {
        Image {
            decree,
            chunk_bytes,
            sessions,
            state,
            stage: Stage::Sessions,
            frame: Vec::new(),
            cut: 0,
            chunk: Vec::new(),
        }
    }

    /// After which decree it was taken.
    #[must_use]
    pub fn decree(&self) -> Decree {
        self.decree
    }

    /// Writes the next chunk of the stream to `chunk`, which is empty when called; false at the end.
    ///
    /// # Errors
    /// When the state machine cannot read its image, or writes more at once than it may.
    pub fn next(&mut self, chunk: &mut Vec<u8>) -> io::Result<bool> {
        while chunk.len() < self.chunk_bytes {
            if self.cut == self.frame.len() && !self.next_frame()? {
                break;
            }
            let rest = &self.frame[self.cut..];
            let fits = rest.len().min(self.chunk_bytes - chunk.len());
            chunk.extend_from_slice(&rest[..fits]);
            self.cut += fits;
        }
        Ok(!chunk.is_empty())
    }

    /// Puts the next frame together; false if there is none.
    fn next_frame(&mut self) -> io::Result<bool> {
        self.chunk.clear();
        match self.stage {
            Stage::Sessions => {
                while self.chunk.len() < SESSION_FRAME_BYTES && self.sessions.next(&mut self.chunk)
                {
                }
                if self.chunk.is_empty() {
                    self.stage = Stage::State;
                }
            }
            Stage::State => {
                // A chunk of no bytes would look like the end.
                while self.state.next(&mut self.chunk)? && self.chunk.is_empty() {}
                if self.chunk.len() > CHUNK_BYTES_MAX {
                    let len = self.chunk.len();
                    return Err(io::Error::other(format!(
                        "the state machine wrote a chunk of {len} bytes, above {CHUNK_BYTES_MAX}"
                    )));
                }
                if self.chunk.is_empty() {
                    self.stage = Stage::End;
                }
            }
            Stage::End => return Ok(false),
        }
        let len = u32::try_from(self.chunk.len()).expect("a frame has a few megabytes at most");
        self.frame.clear();
        self.frame.extend_from_slice(&len.to_le_bytes());
        self.frame.extend_from_slice(&self.chunk);
        self.cut = 0;
        Ok(true)
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image")
            .field("decree", &self.decree)
            .finish_non_exhaustive()
    }
}

/// The frames of an image, from its chunks.
pub struct ImageReader<'a> {
    chunks: &'a mut dyn ChunkSource,
    chunk: Vec<u8>,
    read: usize,
    frame_bytes_max: usize,
    /// Parts that were read to their end: sessions, state.
    ended: usize,
}

impl ImageReader<'_> {
    /// Reads an image whose sessions have at most `session_bytes_max` bytes each.
    #[must_use]
    pub fn new(chunks: &mut dyn ChunkSource, session_bytes_max: usize) -> ImageReader<'_> {
        ImageReader {
            chunks,
            chunk: Vec::new(),
            read: 0,
            frame_bytes_max: CHUNK_BYTES_MAX.max(SESSION_FRAME_BYTES + session_bytes_max),
            ended: 0,
        }
    }

    /// Writes the next frame of a part to `frame`, which is emptied first; false at the end of the part.
    ///
    /// # Errors
    /// When a chunk cannot be had, or the chunks are no image.
    pub fn next_frame(&mut self, frame: &mut Vec<u8>) -> io::Result<bool> {
        frame.clear();
        if self.ended == PARTS {
            return Ok(false);
        }
        self.read_to(frame, 4)?;
        let len = frame.as_slice().try_into().map(u32::from_le_bytes);
        let len = len.expect("four bytes were read") as usize;
        if len > self.frame_bytes_max {
            return Err(broken("a frame is longer than any can be"));
        }
        frame.clear();
        self.read_to(frame, len)?;
        self.ended += usize::from(len == 0);
        Ok(len > 0)
    }

    /// Reads what nobody wanted, and refuses bytes behind the image.
    ///
    /// # Errors
    /// If there are any, or the image ends too early.
    pub fn finish(mut self) -> io::Result<()> {
        let mut frame = Vec::new();
        while self.ended < PARTS {
            self.next_frame(&mut frame)?;
        }
        if self.read < self.chunk.len() || self.chunks.next(&mut self.chunk)? {
            return Err(broken("something stands behind it"));
        }
        Ok(())
    }

    fn read_to(&mut self, out: &mut Vec<u8>, len: usize) -> io::Result<()> {
        while out.len() < len {
            if self.read == self.chunk.len() {
                self.read = 0;
                if !self.chunks.next(&mut self.chunk)? || self.chunk.is_empty() {
                    return Err(broken("it ends too early"));
                }
            }
            let rest = &self.chunk[self.read..];
            let fits = rest.len().min(len - out.len());
            out.extend_from_slice(&rest[..fits]);
            self.read += fits;
        }
        Ok(())
    }
}

/// The state machine's part.
impl ChunkSource for ImageReader<'_> {
    fn next(&mut self, chunk: &mut Vec<u8>) -> io::Result<bool> {
        self.next_frame(chunk)
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the chunks are no image of state and sessions: {what}"),
    )
}
