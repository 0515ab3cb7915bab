//! The first packet of each side: who dials whom, in which cluster, with which nonces.
//!
//! ```text
//! header (length, version, kind Hello, counter 0 on streams, magic in the place of the tag) | cluster [32] | epoch u32 | from [17] | to [17] | keys [64] | boot [16] | nonce [16]
//! ```
//!
//! A Hello is a claim; the proof that follows makes it true. The link key is derived from the digests of both Hellos, so nothing in them can be changed on the way without the
//! proofs failing. `boot` is drawn once per process and tells a restart from a reconnect; `nonce` is drawn per connection, so that no two connections share a key
//! and counters may begin anew.

//!
//! ```text
//! by datagrams   question   Hello, counter: largest datagram   | cookie [16]; zeros while there is none
//!                answer     Hello, counter: echo               | proof [16]: keyed blake3 with the link's key over "twostep answers " and the Hello
//!                cookie     header of kind Cookie, counter: echo, magic in the place of the tag | cookie [16]
//! ```
//!
//! The echo is the front half of the question's nonce: it shows that who answers has seen the question. The last 16 bytes do not belong to what
//! the link key is derived from: the cookie may change while the question stays the same. See `cookie` and `link/greeting.rs`.

use std::sync::Arc;

use twostep_crypto::{
    ClusterId, Context, Epoch, Identity, PROTOCOL_VERSION, Party, PublicIdentity, Scope,
    VerifyingKey,
};

use crate::cookie::COOKIE_BYTES;
use crate::packet::{HEADER_BYTES, Header, Kind, read_u32, read_u64, wire_u32};
use crate::refusal::LinkError;

/// Stands where a tag stands later, in every version: by it a Hello is known before anything else about it is.
pub const MAGIC: [u8; 16] = *b"twostep link v1+";
/// Bytes of a Hello packet.
pub const HELLO_BYTES: usize = HEADER_BYTES + 32 + 4 + 2 * Party::ENCODED_BYTES + 64 + 16 + 16;

/// Bytes of a Hello by datagram: a cookie or a proof stands behind it.
pub const DATAGRAM_HELLO_BYTES: usize = HELLO_BYTES + COOKIE_BYTES;

/// Bytes of the packet that brings a cookie.
const COOKIE_PACKET_BYTES: usize = HEADER_BYTES + COOKIE_BYTES;
/// Where the nonce stands in a Hello.
const NONCE_AT: usize = HELLO_BYTES - 16;

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
        self.write(HELLO_BYTES, 0)
    }

    /// What goes into a datagram in front of the cookie or proof, with what stands there in the place of the counter.
    pub fn to_datagram(self, counter: u64) -> [u8; HELLO_BYTES] {
        self.write(DATAGRAM_HELLO_BYTES, counter)
    }

    fn write(self, length: usize, counter: u64) -> [u8; HELLO_BYTES] {
        let header = Header {
            length: wire_u32(length),
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
        assert_eq!(at, HELLO_BYTES, "the fields fill the Hello");
        packet
    }

    /// Reads a packet whose header said Hello, in our version; without what follows it in a datagram.
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
pub(crate) fn echo_of(hello: &[u8; HELLO_BYTES]) -> u64 {
    read_u64(hello, NONCE_AT)
}

/// The two parts of a Hello datagram: the Hello, and the cookie or proof behind it. None for packets of another length.
pub(crate) fn split_datagram(packet: &[u8]) -> Option<(&[u8; HELLO_BYTES], [u8; COOKIE_BYTES])> {
    let (hello, tail) = packet.split_first_chunk()?;
    Some((hello, tail.try_into().ok()?))
}

/// The nonce and the cookie of whatever came as the first datagram of a stranger, which is at least as long as a Hello of ours.
pub(crate) fn nonce_and_cookie(packet: &[u8]) -> ([u8; 16], [u8; COOKIE_BYTES]) {
    let mut at = NONCE_AT;
    (take(packet, &mut at), take(packet, &mut at))
}

/// The packet that brings a stranger its cookie.
pub(crate) fn cookie_packet(
    nonce: &[u8; 16],
    cookie: [u8; COOKIE_BYTES],
) -> [u8; COOKIE_PACKET_BYTES] {
    let header = Header {
        length: wire_u32(COOKIE_PACKET_BYTES),
        version: PROTOCOL_VERSION,
        kind: Kind::Cookie as u16,
        counter: read_u64(nonce, 0),
        tag: MAGIC,
    };
    let mut packet = [0; COOKIE_PACKET_BYTES];
    packet[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
    packet[HEADER_BYTES..].copy_from_slice(&cookie);
    packet
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

#[cfg(test)]
mod tests {
    use twostep_crypto::NodeId;

    use super::*;

    /// Changing what travels is a decision: whoever makes it changes these bytes and tells of it in the changelog.
    #[test]
    fn the_bytes_of_question_and_cookie_are_pinned() {
        let local = Local {
            scope: Scope::new(ClusterId([1; 32]), Epoch(2)),
            identity: Identity::from_seed([3; 32]).into(),
            me: Party::Node(NodeId(4)),
            boot: [5; 16],
        };
        let hello = Hello::new(&local, Party::Node(NodeId(6)), [7; 16]).to_datagram(1472);
        let public = local.identity.public();
        let expected = [
            &[214, 0, 0, 0, 2, 0, 1, 0, 0xc0, 5, 0, 0, 0, 0, 0, 0][..],
            b"twostep link v1+",
            &[1; 32],
            &[2, 0, 0, 0],
            &Party::Node(NodeId(4)).encode(),
            &Party::Node(NodeId(6)).encode(),
            public.sign.as_bytes(),
            &public.agree,
            &[5; 16],
            &[7; 16],
        ]
        .concat();
        assert_eq!(hello[..], expected);
        assert_eq!((HELLO_BYTES, DATAGRAM_HELLO_BYTES), (198, 214));
        let cookie = [
            &[48, 0, 0, 0, 2, 0, 7, 0, 7, 7, 7, 7, 7, 7, 7, 7][..],
            b"twostep link v1+",
            &[9; 16],
        ]
        .concat();
        assert_eq!(cookie_packet(&[7; 16], [9; 16])[..], cookie);
        let question = [&hello[..], &[8; 16]].concat();
        assert_eq!(nonce_and_cookie(&question), ([7; 16], [8; 16]));
        assert!(
            cookie.len() < question.len(),
            "nobody is flooded through us"
        );
    }
}
