//! What requests are called: in questions about them, their contents need not travel.

use crate::types::{ClientId, Decree, Seq, SessionId};

/// The bytes of one name. Little endian: decree and index of the session, number of the request.
pub const NAME_BYTES: usize = 8 + 4 + 8;

/// The names of some requests of one client, still in the receive buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestNames<'a> {
    /// Whose requests.
    pub client: ClientId,
    names: &'a [u8],
}

impl<'a> RequestNames<'a> {
    /// Takes bytes whose length is a multiple of [`NAME_BYTES`].
    #[must_use]
    pub fn new(client: ClientId, names: &'a [u8]) -> Option<RequestNames<'a>> {
        names
            .len()
            .is_multiple_of(NAME_BYTES)
            .then_some(RequestNames { client, names })
    }

    /// Appends a name: of an Open, [`SessionId::NONE`] and its nonce.
    pub fn write(session: SessionId, seq: Seq, out: &mut Vec<u8>) {
        out.extend_from_slice(&session.decree.0.to_le_bytes());
        out.extend_from_slice(&session.index.to_le_bytes());
        out.extend_from_slice(&seq.0.to_le_bytes());
    }

    /// How many names there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len() / NAME_BYTES
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The bytes as they travel.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.names
    }

    /// The names in order.
    pub fn iter(&self) -> impl Iterator<Item = (SessionId, Seq)> + use<'a> {
        let names = self.names.as_chunks::<NAME_BYTES>().0.iter();
        names.map(|name| {
            let (decree, rest) = name.split_first_chunk().expect("20 bytes");
            let (index, rest) = rest.split_first_chunk().expect("12 bytes");
            let (seq, _) = rest.split_first_chunk().expect("8 bytes");
            let session = SessionId {
                decree: Decree(u64::from_le_bytes(*decree)),
                index: u32::from_le_bytes(*index),
            };
            (session, Seq(u64::from_le_bytes(*seq)))
        })
    }
}
