//! Whole packets to and from one socket, many per system call: runs of them on the way out, joined receipts on the way in.

use std::io;
use std::net::UdpSocket;

use super::mmsg::{self, Got, RUNS_MAX, Run};
use crate::packet::{HEADER_BYTES, read_u32};

/// Most bytes that the kernel joins to one receipt.
const JOINED_BYTES_MAX: usize = 64 << 10;
/// Most bytes of one run: what fits into an IP packet of either version, headers left out.
const RUN_BYTES_MAX: usize = 65_000;
/// Most datagrams of one run, by the kernel's rule.
const RUN_PACKETS_MAX: usize = 64;
/// Most receive calls per read, should they bring little.
const CALLS_PER_READ: usize = 16;

/// Fills `into` with whole packets. Returns their bytes, the calls made, and whether more may wait.
pub(super) fn read_packets(socket: &UdpSocket, into: &mut [u8]) -> io::Result<(usize, u64, bool)> {
    let slot = into.len().min(JOINED_BYTES_MAX);
    let mut got = [Got::default(); RUNS_MAX];
    let (mut count, mut calls) = (0, 0);
    while into.len() - count >= slot {
        if calls == CALLS_PER_READ as u64 {
            return Ok((count, calls, true));
        }
        calls += 1;
        let free = &mut into[count..];
        let slots = (free.len() / slot).min(RUNS_MAX);
        let filled = match mmsg::receive(socket, free, slot, &mut got) {
            Ok(filled) => filled,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok((count, calls, false));
            }
            // What came before it is delivered first; the error is met again only if it lasts.
            Err(_) if count > 0 => return Ok((count, calls, true)),
            Err(error) => return Err(error),
        };
        count += compact(free, slot, &got[..filled]);
        if filled < slots {
            return Ok((count, calls, false));
        }
    }
    Ok((count, calls, true))
}

/// Moves the packets of all slots to the front of `bytes`, one behind the other, and drops what is none. Returns their bytes.
fn compact(bytes: &mut [u8], slot: usize, got: &[Got]) -> usize {
    let mut end = 0;
    for (at, got) in got.iter().enumerate().filter(|(_, got)| !got.cut) {
        let mut from = at * slot;
        let slot_end = from + got.bytes;
        while from < slot_end {
            let to = slot_end.min(from + got.segment);
            if is_packet(&bytes[from..to]) {
                if from != end {
                    bytes.copy_within(from..to, end);
                }
                end += to - from;
            }
            from = to;
        }
    }
    end
}

/// Cuts the front of `bytes`, which are whole packets, into runs. Returns how many.
pub(super) fn plan(bytes: &[u8], segments: bool, runs: &mut [Run; RUNS_MAX]) -> usize {
    let (mut at, mut count) = (0, 0);
    while at < bytes.len() && count < RUNS_MAX {
        let segment = packet_bytes(&bytes[at..]);
        let (mut end, mut packets, mut last) = (at + segment, 1, segment);
        while segments && last == segment && packets < RUN_PACKETS_MAX && end < bytes.len() {
            last = packet_bytes(&bytes[end..]);
            if last > segment || end + last - at > RUN_BYTES_MAX {
                break;
            }
            end += last;
            packets += 1;
        }
        runs[count] = Run {
            bytes: end - at,
            segment,
        };
        count += 1;
        at = end;
    }
    count
}

/// Whether the kernel or the device says that it does not cut runs.
pub(super) fn cannot_cut(error: &io::Error) -> bool {
    let codes = [libc::EINVAL, libc::EIO, libc::EMSGSIZE, libc::EOPNOTSUPP];
    error
        .raw_os_error()
        .is_some_and(|code| codes.contains(&code))
}

/// The length of the packet at the front of our own bytes.
fn packet_bytes(bytes: &[u8]) -> usize {
    let length = read_u32(bytes, 0) as usize;
    assert!(
        (HEADER_BYTES..=bytes.len()).contains(&length),
        "whole packets are written"
    );
    length
}

/// Whether a datagram is one packet by its length. Whose it is shows later.
pub(super) fn is_packet(datagram: &[u8]) -> bool {
    datagram.len() >= HEADER_BYTES && read_u32(datagram, 0) as usize == datagram.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(length: usize, fill: u8) -> Vec<u8> {
        let mut bytes = vec![fill; length];
        bytes[..4].copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
        bytes
    }

    fn packets(lengths: &[usize]) -> Vec<u8> {
        lengths
            .iter()
            .flat_map(|&length| packet(length, 7))
            .collect()
    }

    fn planned(lengths: &[usize], segments: bool) -> Vec<(usize, usize)> {
        let mut runs = [Run::default(); RUNS_MAX];
        let count = plan(&packets(lengths), segments, &mut runs);
        runs[..count]
            .iter()
            .map(|run| (run.bytes, run.segment))
            .collect()
    }

    #[test]
    fn runs_are_equal_packets_and_a_shorter_one() {
        assert_eq!(planned(&[100, 100, 60], true), [(260, 100)]);
        assert_eq!(
            planned(&[100, 60, 60, 100], true),
            [(160, 100), (60, 60), (100, 100)]
        );
        assert_eq!(planned(&[60, 100], true), [(60, 60), (100, 100)]);
        assert_eq!(planned(&[100, 100], false), [(100, 100), (100, 100)]);
        assert_eq!(planned(&[100; 65], true), [(6400, 100), (100, 100)]);
        assert_eq!(
            planned(&[1400; 50], true),
            [(46 * 1400, 1400), (4 * 1400, 1400)]
        );
        assert_eq!(planned(&[60_000; 20], true).len(), RUNS_MAX);
    }

    #[test]
    fn what_is_no_packet_is_dropped_and_the_rest_closes_up() {
        let mut bytes = vec![0; 3 * 1000];
        let slots = [
            [packet(100, 1), packet(100, 2), packet(40, 3)].concat(),
            vec![9; 500],
            [packet(32, 4), vec![0; 31]].concat(),
        ];
        for (at, slot) in slots.iter().enumerate() {
            bytes[at * 1000..at * 1000 + slot.len()].copy_from_slice(slot);
        }
        let got = |bytes, segment| Got {
            bytes,
            segment,
            cut: false,
        };
        let count = compact(
            &mut bytes,
            1000,
            &[got(240, 100), got(500, 500), got(63, 32)],
        );
        let expected = [packet(100, 1), packet(100, 2), packet(40, 3), packet(32, 4)].concat();
        assert_eq!(&bytes[..count], expected);
        let mut cut = packet(100, 1);
        assert_eq!(
            compact(
                &mut cut,
                100,
                &[Got {
                    cut: true,
                    ..got(100, 100)
                }]
            ),
            0
        );
    }
}
