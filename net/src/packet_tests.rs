//! What is sealed opens, and nothing else does.

use std::ops::Range;

use proptest::prelude::*;
use twostep_crypto::MacKey;

use super::*;
use crate::reassembly::Reassembly;

const LIMITS: PacketLimits = PacketLimits {
    packet_bytes_max: 2048,
    message_bytes_max: 20_000,
};

fn key() -> MacKey {
    MacKey::from_bytes([7; 32])
}

fn sealed(messages: &[Vec<u8>]) -> Vec<u8> {
    let messages: Vec<_> = messages
        .iter()
        .map(|message| (message.clone(), vec![]))
        .collect();
    sealed_gapped(&messages)
}

fn sealed_gapped(messages: &[(Vec<u8>, Vec<Range<usize>>)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut sealer = Sealer::new(key(), LIMITS, 0);
    for (message, gaps) in messages {
        let (front, back) = message.split_at(message.len() / 3);
        sealer.push(&mut out, &[front, &[], back], gaps);
    }
    sealer.seal(&mut out);
    out
}

fn opened(mut bytes: &[u8]) -> Result<Vec<Vec<u8>>, PacketError> {
    let mut opener = Opener::new(key(), 0);
    let mut reassembly = Reassembly::default();
    let mut messages = Vec::new();
    while let Some(packet) = split(bytes, LIMITS.packet_bytes_max)? {
        for frame in opener.open(packet)? {
            match frame {
                Frame::Whole(message) => messages.push(message.to_vec()),
                Frame::Fragment(fragment) => {
                    if reassembly.add(&fragment, LIMITS.message_bytes_max)? {
                        let message = reassembly.take();
                        messages.push(message.clone());
                        reassembly.give_back(message);
                    }
                }
            }
        }
        bytes = &bytes[packet.len()..];
    }
    assert!(bytes.is_empty(), "sealed bytes are whole packets");
    Ok(messages)
}

#[test]
fn small_messages_share_a_packet_and_its_tag() {
    let out = sealed(&[b"one".to_vec(), Vec::new(), b"three".to_vec()]);
    assert_eq!(out.len(), HEADER_BYTES + 3 * FRAME_HEADER_BYTES + 8);
    assert_eq!(
        opened(&out).unwrap(),
        [b"one".to_vec(), Vec::new(), b"three".to_vec()]
    );
}

#[test]
fn every_flipped_bit_is_refused() {
    let out = sealed(&[b"message".to_vec()]);
    for bit in 0..out.len() * 8 {
        let mut bad = out.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let outcome = split(&bad, LIMITS.packet_bytes_max).map(|packet| {
            packet.map(|packet| Opener::new(key(), 0).open(packet).map(Iterator::count))
        });
        assert!(
            !matches!(outcome, Ok(Some(Ok(_)))),
            "bit {bit} went unnoticed"
        );
    }
}

#[test]
fn a_gap_is_all_that_a_tag_leaves_out() {
    let message: Vec<u8> = (0..100).collect();
    let gap = 30..70;
    let out = sealed_gapped(&[(b"first".to_vec(), vec![]), (message, vec![gap.clone()])]);
    let gap_at = HEADER_BYTES + 2 * FRAME_HEADER_BYTES + 5 + gap.start;
    for bit in 0..out.len() * 8 {
        let mut bad = out.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let left_out = (gap_at..gap_at + gap.len()).contains(&(bit / 8));
        let packet = split(&bad, LIMITS.packet_bytes_max).ok().flatten();
        let frames = packet.and_then(|packet| Opener::new(key(), 0).open(packet).ok());
        assert_eq!(frames.is_some(), left_out, "bit {bit}");
        if let Some(Frame::Whole(message)) = frames.and_then(|mut frames| frames.nth(1)) {
            assert_eq!(message[bit / 8 - gap_at + gap.start], bad[bit / 8]);
        }
    }
}

#[test]
fn a_packet_takes_a_bounded_list_of_gaps() {
    let gaps: Vec<Range<usize>> = (0..200).map(|at| 5 * at..5 * at + 4).collect();
    let message = vec![1; 1000];
    let mut out = sealed_gapped(&[(message.clone(), gaps)]);
    assert_eq!(opened(&out).unwrap(), [message]);
    let count = out.len() - 2;
    assert_eq!(usize::from(read_u16(&out, count)), gaps::GAPS_MAX);
    out[count] -= 1;
    assert_eq!(opened(&out), Err(PacketError::BadTag), "one entry less");
    out[count + 1] = 0xff;
    assert_eq!(
        opened(&out),
        Err(PacketError::Gaps),
        "more than there is room for"
    );
}

#[test]
fn a_packet_played_back_is_refused() {
    let out = sealed(&[b"message".to_vec()]);
    let mut opener = Opener::new(key(), 0);
    assert_eq!(opener.open(&out).unwrap().count(), 1);
    assert_eq!(
        opener.open(&out).unwrap_err(),
        PacketError::Replayed {
            counter: 1,
            last: 1
        }
    );
}

#[test]
fn a_length_is_judged_before_its_packet_is_there() {
    assert_eq!(split(&[1, 0, 0], 2048), Ok(None));
    assert_eq!(
        split(&31u32.to_le_bytes(), 2048),
        Err(PacketError::TooShort(31))
    );
    assert_eq!(
        split(&2049u32.to_le_bytes(), 2048),
        Err(PacketError::TooLong {
            length: 2049,
            max: 2048
        })
    );
    assert_eq!(split(&2048u32.to_le_bytes(), 2048), Ok(None));
}

#[test]
fn frames_that_leave_their_packet_are_refused() {
    assert_eq!(frames(&[1, 0, 0]).unwrap_err(), PacketError::Frame(0));
    assert_eq!(
        frames(&[0, 0, 0, 0, 2, 0, 0, 0, 9]).unwrap_err(),
        PacketError::Frame(4)
    );
    let short_fragment = (FRAGMENT_FLAG | 15).to_le_bytes();
    assert_eq!(
        frames(&[&short_fragment[..], &[0; 15]].concat()).unwrap_err(),
        PacketError::Frame(0)
    );
}

proptest! {
    #[test]
    fn what_is_sealed_opens_as_it_was(lengths in prop::collection::vec(prop_oneof![0usize..100, 1900..2100usize, 0..20_000usize], 0..12)) {
        let messages: Vec<Vec<u8>> = lengths.iter().enumerate().map(|(i, &len)| (0..len).map(|at| u8::try_from((at * 7 + i) % 251).unwrap()).collect()).collect();
        let bytes = sealed(&messages);
        prop_assert!(bytes.len() <= lengths.iter().map(|&len| LIMITS.wire_bytes_max(len)).sum());
        prop_assert_eq!(opened(&bytes).unwrap(), messages);
    }

    #[test]
    fn what_is_sealed_with_gaps_opens_as_it_was(lengths in prop::collection::vec(prop_oneof![0usize..100, 1900..2100usize, 0..20_000usize], 0..12), step in 1usize..900, gap in 1usize..900) {
        let message = |len: usize| (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect::<Vec<u8>>();
        let gaps = |len: usize| (step..len).step_by(step + gap).map(|at| at..len.min(at + gap)).collect::<Vec<_>>();
        let messages: Vec<_> = lengths.iter().map(|&len| (message(len), gaps(len))).collect();
        let bytes = sealed_gapped(&messages);
        prop_assert!(bytes.len() <= lengths.iter().map(|&len| LIMITS.wire_bytes_max(len)).sum());
        let messages: Vec<_> = messages.into_iter().map(|(message, _)| message).collect();
        prop_assert_eq!(opened(&bytes).unwrap(), messages);
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_incomplete(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(Some(packet)) = split(&bytes, LIMITS.packet_bytes_max) {
            prop_assert!(Opener::new(key(), 0).open(packet).is_err());
        }
    }

    #[test]
    fn arbitrary_frames_never_panic_nor_exceed_the_limit(body in prop::collection::vec(prop_oneof![Just(0u8), Just(128), any::<u8>()], 0..200)) {
        if let Ok(parsed) = frames(&body) {
            let mut reassembly = Reassembly::default();
            for frame in parsed {
                if let Frame::Fragment(fragment) = frame
                    && reassembly.add(&fragment, 64).unwrap_or(false)
                {
                    prop_assert!(reassembly.take().len() <= 64);
                }
            }
        }
    }
}
