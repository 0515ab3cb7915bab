//! The first packet of each side: who dials whom, in which cluster, with which nonces.
//!
//! ```text
//! header (length, version, kind Hello, counter 0 on streams, magic in the place of the tag) | cluster [32] | epoch u32 | from [17] | to [17] | keys [64] | boot [16] | nonce [16]
//! ```
//!
//! A Hello is a claim; the proof that follows makes it true. The link key is derived from the digests of both Hellos, so nothing in them can be changed on the way without the
//! proofs failing. `boot` is drawn once per process and tells a restart from a reconnect; `nonce` is drawn per connection, so that no two connections share a key
//! and counters may begin anew.

use std::sync::Arc;

use twostep_crypto::{
    ClusterId, Context, Epoch, Identity, PROTOCOL_VERSION, Party, PublicIdentity, Scope,
    VerifyingKey,
};

use crate::packet::{HEADER_BYTES, Header, Kind, read_u32, read_u64, wire_u32};
use crate::refusal::LinkError;

/// Stands where a tag stands later, in every version: by it a Hello is known before anything else about it is.
pub const MAGIC: [u8; 16] = *b"twostep link v1+";
/// Bytes of a Hello packet.
pub const HELLO_BYTES: usize = HEADER_BYTES + 32 + 4 + 2 * Party::ENCODED_BYTES + 64 + 16 + 16;

/// What one side keeps for all its links.
pub(crate) struct Local {
    pub scope: Scope,
    pub identity: Arc<Identity>,
    pub me: Party,
    /// Random per process.
    pub boot: [u8; 16],
}

/// Says who may be at the other end of a link.
pub trait Directory {
    /// The public identity of `party`, if it is listed.
    fn public(&self, party: Party) -> Option<PublicIdentity>;

    /// Whether clients that are not listed may connect. They prove that they own the key from which their id is made.
    fn open_to_clients(&self) -> bool {
        false
    }
}

impl<F: Fn(Party) -> Option<PublicIdentity>> Directory for F {
    fn public(&self, party: Party) -> Option<PublicIdentity> {
        self(party)
    }
}

/// The fields of a Hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub cluster: ClusterId,
    pub epoch: Epoch,
    pub from: Party,
    pub to: Party,
    pub sign: [u8; 32],
    pub agree: [u8; 32],
    pub boot: [u8; 16],
    pub nonce: [u8; 16],
}

impl Hello {
    /// Our Hello to `to` for a new connection.
    pub fn new(local: &Local, to: Party, nonce: [u8; 16]) -> Self {
        let public = local.identity.public();
        Self {
            cluster: local.scope.cluster(),
            epoch: local.scope.epoch(),
            from: local.me,
            to,
            sign: *public.sign.as_bytes(),
            agree: public.agree,
            boot: local.boot,
            nonce,
        }
    }

    /// The whole packet, for a stream.
    pub fn to_packet(self) -> [u8; HELLO_BYTES] {
        self.to_packet_with(0)
    }

    /// The whole packet, with what datagrams say in the place of the counter.
    pub fn to_packet_with(self, counter: u64) -> [u8; HELLO_BYTES] {
        let header = Header {
            length: wire_u32(HELLO_BYTES),
            version: PROTOCOL_VERSION,
            kind: Kind::Hello as u16,
            counter,
            tag: MAGIC,
        };
        let mut packet = [0; HELLO_BYTES];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            packet[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&header.to_bytes());
        put(&self.cluster.0);
        put(&self.epoch.0.to_le_bytes());
        put(&self.from.encode());
        put(&self.to.encode());
        put(&self.sign);
        put(&self.agree);
        put(&self.boot);
        put(&self.nonce);
        assert_eq!(at, HELLO_BYTES, "the fields fill the packet");
        packet
    }

    /// Reads a packet whose header said Hello, in our version.
    pub fn read(packet: &[u8]) -> Result<Self, LinkError> {
        if packet.len() != HELLO_BYTES {
            return Err(LinkError::malformed("a Hello of another length"));
        }
        let mut at = HEADER_BYTES;
        let cluster = ClusterId(take(packet, &mut at));
        let epoch = Epoch(read_u32(packet, at));
        at += 4;
        let from = Party::decode(&take(packet, &mut at))
            .map_err(|error| LinkError::malformed(&error.to_string()))?;
        let to = Party::decode(&take(packet, &mut at))
            .map_err(|error| LinkError::malformed(&error.to_string()))?;
        let (sign, agree, boot, nonce) = (
            take(packet, &mut at),
            take(packet, &mut at),
            take(packet, &mut at),
            take(packet, &mut at),
        );
        Ok(Self {
            cluster,
            epoch,
            from,
            to,
            sign,
            agree,
            boot,
            nonce,
        })
    }

    /// The other side's identity, once cluster, epoch and key are what we know of `from`.
    pub fn admit(
        &self,
        local: &Local,
        directory: &dyn Directory,
    ) -> Result<PublicIdentity, LinkError> {
        if self.cluster != local.scope.cluster() {
            return Err(LinkError::cluster(self.cluster, local.scope.cluster()));
        }
        if self.epoch != local.scope.epoch() {
            return Err(LinkError::epoch(self.epoch, local.scope.epoch()));
        }
        if self.from == local.me {
            return Err(LinkError::same_party(local.me));
        }
        match directory.public(self.from) {
            Some(public) if *public.sign.as_bytes() == self.sign && public.agree == self.agree => {
                Ok(public)
            }
            Some(_) => Err(LinkError::unknown_key(self.from)),
            None if directory.open_to_clients() => self
                .stranger()
                .ok_or_else(|| LinkError::unknown_party(self.from)),
            None => Err(LinkError::unknown_party(self.from)),
        }
    }

    /// The identity of a client that nobody lists: its id must be the one that its keys make.
    fn stranger(&self) -> Option<PublicIdentity> {
        let id = self.from.client()?;
        let public = PublicIdentity {
            sign: VerifyingKey::from_bytes(&self.sign).ok()?,
            agree: self.agree,
        };
        (public.client_id() == id).then_some(public)
    }
}

/// What answers to a Hello datagram show: that they come from somebody who saw it. The front half of its nonce.
pub(crate) fn echo_of(packet: &[u8; HELLO_BYTES]) -> u64 {
    read_u64(packet, HELLO_BYTES - 16)
}

/// What a Hello packet adds to the link key.
pub(crate) fn key_nonce(scope: &Scope, packet: &[u8]) -> [u8; 16] {
    let mut nonce = [0; 16];
    nonce.copy_from_slice(&scope.digest(Context::Hello, packet).0[..16]);
    nonce
}

fn take<const N: usize>(packet: &[u8], at: &mut usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&packet[*at..*at + N]);
    *at += N;
    field
}
