use curve25519_dalek::constants::{ED25519_BASEPOINT_TABLE, EIGHT_TORSION};

use super::*;
use crate::ids::{ClientId, ClusterId, Epoch, NodeId};

#[derive(Clone, Debug, PartialEq, Eq)]
struct Ballot(u64);

impl Signable for Ballot {
    const CONTEXT: Context = Context::Vote;
    fn write_signable(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_le_bytes());
    }
}

/// The same bytes as a [`Ballot`], about something else.
struct Statement(u64);

impl Signable for Statement {
    const CONTEXT: Context = Context::Report;
    fn write_signable(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_le_bytes());
    }
}

const ME: Party = Party::Node(NodeId(1));

fn scope() -> Scope {
    Scope::new(ClusterId([3; 32]), Epoch(0))
}

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32])
}

fn unhex<const N: usize>(text: &str) -> [u8; N] {
    hex_text::read("vector", text).unwrap()
}

#[test]
fn agrees_with_rfc_8032() {
    // Section 7.1, tests 1 and 2.
    let vectors = [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            &b""[..],
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155\
             5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            &b"\x72"[..],
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
    ];
    for (seed, public, message, signature) in vectors {
        let key = SigningKey::from_seed(&unhex(seed));
        assert_eq!(key.verifying_key().to_string(), public);
        let signature = Signature(unhex(signature));
        assert_eq!(key.0.sign(message).to_bytes(), signature.0);
        assert_eq!(
            equation_holds(&key.verifying_key(), message, &signature),
            Some(true)
        );
        assert_eq!(
            equation_holds(&key.verifying_key(), b"other", &signature),
            Some(false)
        );
    }
}

#[test]
fn a_good_signature_verifies_and_says_who_and_what() {
    let signed = key(1).sign(&scope(), ME, Ballot(7)).into_signed();
    let verified = signed.verify(&scope(), &key(1).verifying_key()).unwrap();
    assert_eq!((verified.signer(), verified.content()), (ME, &Ballot(7)));
}

#[test]
fn signer_context_cluster_epoch_content_and_key_are_covered() {
    let good = key(1).sign(&scope(), ME, Ballot(7)).into_signed();
    let public = key(1).verifying_key();
    let bad = Err(BadSignature {
        signer: ME,
        context: Context::Vote,
    });

    assert_eq!(good.check(&scope(), &public), Ok(()));
    assert_eq!(good.check(&scope(), &key(2).verifying_key()), bad);
    assert_eq!(
        good.check(&Scope::new(ClusterId([4; 32]), Epoch(0)), &public),
        bad
    );
    assert_eq!(
        good.check(&Scope::new(ClusterId([3; 32]), Epoch(1)), &public),
        bad
    );
    let other = Signed {
        content: Ballot(8),
        ..good.clone()
    };
    assert_eq!(other.verify(&scope(), &public).map(|_| ()), bad);
    for signer in [Party::Node(NodeId(2)), Party::Client(ClientId([0; 16]))] {
        let other = Signed {
            signer,
            ..good.clone()
        };
        assert_eq!(
            other.check(&scope(), &public),
            Err(BadSignature {
                signer,
                context: Context::Vote
            })
        );
    }
    let other = Signed {
        signer: ME,
        content: Statement(7),
        signature: good.signature,
    };
    assert!(other.check(&scope(), &public).is_err());
}

#[test]
fn every_flipped_bit_of_a_signature_is_refused() {
    let good = key(1).sign(&scope(), ME, Ballot(7)).into_signed();
    for bit in 0..512 {
        let mut bad = good.clone();
        bad.signature.0[bit / 8] ^= 1 << (bit % 8);
        assert!(
            bad.verify(&scope(), &key(1).verifying_key()).is_err(),
            "bit {bit}"
        );
    }
}

#[test]
fn a_second_encoding_of_s_is_refused() {
    let good = key(1).sign(&scope(), ME, Ballot(7)).into_signed();
    // The group order L in little endian; s + L satisfies the equation but is out of range.
    let order: [u8; 32] = unhex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
    let mut bad = good;
    let mut carry = 0;
    for (byte, add) in bad.signature.0[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        *byte = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    assert!(bad.check(&scope(), &key(1).verifying_key()).is_err());
}

#[test]
fn a_batch_names_the_bad_ones() {
    for count in [0_u8, 1, 2, 5, 64, 65, 130] {
        let items = |bad: &[u8]| -> Vec<_> {
            (0..count)
                .map(|n| {
                    let me = Party::Node(NodeId(u16::from(n)));
                    let mut signed = key(n)
                        .sign(&scope(), me, Ballot(u64::from(n)))
                        .into_signed();
                    if bad.contains(&n) {
                        signed.content.0 += 1;
                    }
                    (signed, key(n).verifying_key())
                })
                .collect()
        };
        for bad in [&[][..], &[0], &[1], &[3, 64], &[4, 129]] {
            let answers = verify_batch(&scope(), items(bad));
            assert_eq!(answers.len(), usize::from(count));
            for (n, answer) in (0..count).zip(answers) {
                let signer = Party::Node(NodeId(u16::from(n)));
                match answer {
                    Ok(verified) => {
                        assert!(!bad.contains(&n), "{n} of {count} passed");
                        assert_eq!(verified.signer(), signer);
                        assert_eq!(verified.content(), &Ballot(u64::from(n)));
                    }
                    Err(error) => {
                        assert!(bad.contains(&n), "{n} of {count} refused");
                        assert_eq!(error.signer, signer);
                    }
                }
            }
        }
    }
}

/// A signature whose signer added a point of small order to `R`: strict checks refuse it, bare batches answer by luck.
fn signature_with_torsion(
    torsion: EdwardsPoint,
    content: Ballot,
) -> (Signed<Ballot>, VerifyingKey) {
    let digest = signed_digest(&scope(), ME, &content);
    let secret = Scalar::from(1_234_567_u64);
    let nonce = Scalar::from(7_654_321_u64 + content.0);
    let public = (&secret * ED25519_BASEPOINT_TABLE).compress();
    let r = (&nonce * ED25519_BASEPOINT_TABLE + torsion).compress();
    let hash = Sha512::new()
        .chain_update(r.as_bytes())
        .chain_update(public.as_bytes())
        .chain_update(digest.0)
        .finalize();
    let s = nonce + Scalar::from_bytes_mod_order_wide(hash.as_ref()) * secret;
    let mut signature = Signature([0; 64]);
    signature.0[..32].copy_from_slice(r.as_bytes());
    signature.0[32..].copy_from_slice(s.as_bytes());
    let key = VerifyingKey::from_bytes(public.as_bytes()).unwrap();
    (
        Signed {
            signer: ME,
            content,
            signature,
        },
        key,
    )
}

#[test]
fn one_and_many_agree_on_ambiguous_signatures() {
    let mut refused_by_strict = 0;
    let mut passed_by_bare_batch = 0;
    for (n, torsion) in (0_u64..).zip(EIGHT_TORSION.iter().cycle().take(64)) {
        let item = signature_with_torsion(*torsion, Ballot(n));
        let digest = signed_digest(&scope(), ME, &item.0.content);
        let dalek = ed25519_dalek::Signature::from_bytes(&item.0.signature.0);
        let strict = item.1.0.verify_strict(&digest.0, &dalek).is_ok();
        let honest = (
            key(9).sign(&scope(), ME, Ballot(n)).into_signed(),
            key(9).verifying_key(),
        );
        let group = [item.clone(), honest.clone()];
        let digests = [digest, signed_digest(&scope(), ME, &Ballot(n))];
        refused_by_strict += u32::from(!strict);
        passed_by_bare_batch += u32::from(!strict && group_passes(&group, &digests));

        assert_eq!(item.0.check(&scope(), &item.1), Ok(()));
        let answers = verify_batch(&scope(), vec![item, honest]);
        assert!(answers.iter().all(Result::is_ok), "torsion point {n}");
    }
    // The ambiguity is real: without it this test would prove nothing.
    assert_eq!(refused_by_strict, 56);
    assert!(
        0 < passed_by_bare_batch && passed_by_bare_batch < 56,
        "{passed_by_bare_batch}"
    );
}

#[test]
fn unusable_keys_are_refused() {
    for point in EIGHT_TORSION {
        assert_eq!(
            VerifyingKey::from_bytes(point.compress().as_bytes()),
            Err(BadKey::Weak)
        );
    }
    // For y below 19, p + y is a second encoding of the same point.
    let mut seen = 0;
    for y in 2..19_u8 {
        let (mut first, mut second) = ([0; 32], [0xff; 32]);
        first[0] = y;
        (second[0], second[31]) = (0xed + y, 0x7f);
        seen += u32::from(VerifyingKey::from_bytes(&first).is_ok());
        assert_eq!(VerifyingKey::from_bytes(&second), Err(BadKey::NotAKey));
    }
    assert!(
        seen > 0,
        "no key had a second encoding, so nothing was tested"
    );
    let mut nothing = [0; 32];
    nothing[0] = 2; // No point of the curve has y = 2.
    assert_eq!(VerifyingKey::from_bytes(&nothing), Err(BadKey::NotAKey));
    assert!(matches!("00".parse::<VerifyingKey>(), Err(BadKey::Hex(_))));
}

#[test]
fn keys_have_text_forms_and_secrets_none() {
    let public = key(1).verifying_key();
    assert_eq!(public.to_string().parse(), Ok(public));
    assert_eq!(format!("{:?}", key(1)), "SigningKey(secret)");
}
