//! The receiving half of a link's packets: version, tag, and that no counter comes twice.

use twostep_crypto::{MacKey, PROTOCOL_VERSION, Tag};

use super::{
    ANSWER_CONTEXT, CONTROL_LINE, COVERED_BYTES, Frames, HEADER_BYTES, Header, Kind, PacketError,
    frames, gaps,
};
use crate::replay::Window;

/// Checks received packets of one direction of a link.
pub struct Opener {
    key: MacKey,
    line: Line,
}

/// Which counters are taken.
enum Line {
    /// Those above the newest one.
    Stream { newest: u64 },
    /// Those within the window that were not taken yet; and of the control line those above the newest one.
    Datagrams { window: Box<Window>, control: u64 },
}

impl Opener {
    /// An opener for a stream, that takes counters above `counter`.
    #[must_use]
    pub fn new(key: MacKey, counter: u64) -> Self {
        Self {
            key,
            line: Line::Stream { newest: counter },
        }
    }

    /// An opener for datagrams, that takes every counter once.
    #[must_use]
    pub fn of_datagrams(key: MacKey) -> Self {
        Self {
            key,
            line: Line::Datagrams {
                window: Box::default(),
                control: CONTROL_LINE,
            },
        }
    }

    /// Checks version, tag and counter of `packet` (as [`split`](super::split) cut it) and returns what stands behind its header.
    ///
    /// # Errors
    /// [`PacketError::Version`], [`PacketError::Gaps`], [`PacketError::BadTag`], [`PacketError::Replayed`].
    pub fn check<'a>(&mut self, packet: &'a [u8]) -> Result<&'a [u8], PacketError> {
        let body = self.verify(packet)?;
        let counter = Header::read(packet).counter;
        let (taken, last) = match &mut self.line {
            Line::Stream { newest } => ascend(newest, counter),
            Line::Datagrams { control, .. } if counter >= CONTROL_LINE => ascend(control, counter),
            Line::Datagrams { window, .. } => (window.take(counter), window.newest()),
        };
        if !taken {
            return Err(PacketError::Replayed { counter, last });
        }
        Ok(body)
    }

    /// Checks version and tag of `packet` alone, and takes no counter: it may be [checked](Self::check) again.
    ///
    /// # Errors
    /// [`PacketError::Version`], [`PacketError::Gaps`], [`PacketError::BadTag`].
    pub fn verify<'a>(&self, packet: &'a [u8]) -> Result<&'a [u8], PacketError> {
        let header = Header::read(packet);
        if header.version != PROTOCOL_VERSION {
            return Err(PacketError::Version(header.version));
        }
        let body = &packet[HEADER_BYTES..];
        let (body, tag) = if header.kind == Kind::Gapped as u16 {
            let (frames, _) = gaps::split_list(body).ok_or(PacketError::Gaps)?;
            (frames, gaps::tag(&self.key, packet))
        } else {
            (body, self.key.tag(&[&packet[..COVERED_BYTES], body]))
        };
        if tag != Tag(header.tag) {
            return Err(PacketError::BadTag);
        }
        Ok(body)
    }

    /// Whether who sent `hello` has the key, by the proof beside it.
    pub(crate) fn is_proof_of(&self, hello: &[u8], proof: [u8; 16]) -> bool {
        self.key.tag(&[ANSWER_CONTEXT, hello]) == Tag(proof)
    }

    /// Checks a data packet and the shape of all its frames, which then cannot fail to parse.
    ///
    /// # Errors
    /// Those of [`check`](Self::check), and [`PacketError::Frame`].
    pub fn open<'a>(&mut self, packet: &'a [u8]) -> Result<Frames<'a>, PacketError> {
        frames(self.check(packet)?)
    }
}

/// Takes `counter` if it is above the newest one, which it then is. Also returns the newest one before.
fn ascend(newest: &mut u64, counter: u64) -> (bool, u64) {
    let last = *newest;
    *newest = last.max(counter);
    (counter > last, last)
}
