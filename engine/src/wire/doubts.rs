//! What is said of bundles that some acceptors cannot verify (PROTOCOL.md section 5.1).

use super::cursor::Reader;
use super::{ACK_AUTH, BUNDLE_SIGNATURE, NACK_AUTH, WANT_SIGNATURE};
use crate::message::{Message, WireError};
use crate::types::{Decree, Regency};

/// Appends one of the four messages.
///
/// # Panics
/// If it is another one.
pub(super) fn write(message: &Message<'_>, out: &mut Vec<u8>) {
    match message {
        Message::NackAuth {
            regency,
            decree,
            client,
            bundle,
        } => {
            out.push(NACK_AUTH);
            out.extend_from_slice(&regency.0.to_le_bytes());
            out.extend_from_slice(&decree.0.to_le_bytes());
            out.extend_from_slice(&client.0);
            out.extend_from_slice(&bundle.0);
        }
        Message::AckAuth {
            regency,
            decree,
            bundle,
        } => {
            out.push(ACK_AUTH);
            out.extend_from_slice(&regency.0.to_le_bytes());
            out.extend_from_slice(&decree.0.to_le_bytes());
            out.extend_from_slice(&bundle.0);
        }
        Message::WantSignature { regency, bundle } => {
            out.push(WANT_SIGNATURE);
            out.extend_from_slice(&regency.0.to_le_bytes());
            out.extend_from_slice(&bundle.0);
        }
        Message::BundleSignature {
            client,
            bundle,
            signature,
        } => {
            out.push(BUNDLE_SIGNATURE);
            out.extend_from_slice(&client.0);
            out.extend_from_slice(&bundle.0);
            out.extend_from_slice(&signature.0);
        }
        other => unreachable!("written elsewhere: {other:?}"),
    }
}

/// Reads the rest of the message of this tag.
pub(super) fn read(tag: u8, reader: &mut Reader<'_>) -> Result<Message<'static>, WireError> {
    Ok(match tag {
        NACK_AUTH => Message::NackAuth {
            regency: Regency(reader.u64("NackAuth")?),
            decree: Decree(reader.u64("NackAuth")?),
            client: reader.client("NackAuth")?,
            bundle: reader.digest("NackAuth")?,
        },
        ACK_AUTH => Message::AckAuth {
            regency: Regency(reader.u64("AckAuth")?),
            decree: Decree(reader.u64("AckAuth")?),
            bundle: reader.digest("AckAuth")?,
        },
        WANT_SIGNATURE => Message::WantSignature {
            regency: Regency(reader.u64("WantSignature")?),
            bundle: reader.digest("WantSignature")?,
        },
        BUNDLE_SIGNATURE => Message::BundleSignature {
            client: reader.client("BundleSignature")?,
            bundle: reader.digest("BundleSignature")?,
            signature: reader.signature("BundleSignature")?,
        },
        tag => return Err(WireError::Tag(tag)),
    })
}
