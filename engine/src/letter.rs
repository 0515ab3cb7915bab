//! A message on its way to links: encoded once, however many peers it is for.

use std::ops::Range;

use twostep_net::packet::GAP_BYTES_MIN;
use twostep_net::{LinkId, Net, SendOutcome};

use crate::message::Message;
use crate::wire;

/// Memory for one encoded message at a time.
#[derive(Debug, Default)]
pub(crate) struct Letter {
    head: Vec<u8>,
    gaps: Vec<Range<usize>>,
}

/// An encoded message. Its bundle or body stands where it stood before.
pub(crate) struct Written<'a> {
    parts: [&'a [u8]; 2],
    gaps: &'a [Range<usize>],
}

impl Letter {
    /// Encodes `message`; what it wrote before is gone.
    pub(crate) fn write<'a>(&'a mut self, message: &'a Message<'_>) -> Written<'a> {
        self.head.clear();
        self.gaps.clear();
        let rest = wire::encode_head(message, &mut self.head);
        wire::gaps(message, self.head.len(), GAP_BYTES_MIN, &mut self.gaps);
        Written {
            parts: [&self.head, rest],
            gaps: &self.gaps,
        }
    }
}

impl Written<'_> {
    /// Queues it on a link.
    pub(crate) fn send(&self, net: &mut Net, link: LinkId) -> SendOutcome {
        net.send_gapped(link, &self.parts, self.gaps)
    }
}
