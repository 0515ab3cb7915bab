//! The batched datagram calls of Linux, `sendmmsg` and `recvmmsg`, with segmentation by the kernel (`UDP_SEGMENT`, `UDP_GRO`).
//!
//! One call moves several runs, and a run is up to 64 datagrams of one size that cross the network stack as one. Nothing here keeps a pointer
//! between calls: the kernel is done with all memory when a call returns.

#![expect(
    unsafe_code,
    reason = "neither call has a safe form in the libraries used"
)]

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};

/// Most runs of one call.
pub(super) const RUNS_MAX: usize = 16;
/// Room for one control message with a segment size. Twice what Linux needs.
const CONTROL_WORDS: usize = 8;

/// Consecutive datagrams of equal size, of which the last may be shorter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Run {
    /// Bytes of all of them.
    pub bytes: usize,
    /// Bytes of each.
    pub segment: usize,
}

/// What one slot of a receive call holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Got {
    /// Bytes of all datagrams in the slot.
    pub bytes: usize,
    /// Bytes of each of them but perhaps the last; all bytes where the kernel joined nothing.
    pub segment: usize,
    /// The slot was too small and the rest is lost.
    pub cut: bool,
}

/// Aligned as the kernel wants control messages.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u64; CONTROL_WORDS]);

const NO_CONTROL: Control = Control([0; CONTROL_WORDS]);

/// Lets the kernel join datagrams of equal size on arrival; [`receive`] tells their size.
pub(super) fn join_on_arrival(socket: impl AsFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option takes an int; pointer and length describe one that lives through the call.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_GRO,
            (&raw const on).cast(),
            length_of::<libc::c_int>(),
        )
    };
    if outcome == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sends `runs`, which lie one behind the other in `from`, to the peer of a connected socket. Returns how many left; one at least.
///
/// # Errors
/// Those of the operating system, when not even the first one left.
pub(super) fn send(socket: impl AsFd, from: &[u8], runs: &[Run]) -> io::Result<usize> {
    let count = runs.len().min(RUNS_MAX);
    let mut controls = [NO_CONTROL; RUNS_MAX];
    // SAFETY: both are plain C structs of integers and pointers, for which all zeros are a value.
    let (mut parts, mut headers): ([libc::iovec; RUNS_MAX], [libc::mmsghdr; RUNS_MAX]) =
        unsafe { (mem::zeroed(), mem::zeroed()) };
    let mut rest = from;
    for (at, run) in runs[..count].iter().enumerate() {
        let (now, later) = rest.split_at(run.bytes);
        rest = later;
        parts[at].iov_base = now.as_ptr().cast_mut().cast();
        parts[at].iov_len = now.len();
        let header = &mut headers[at].msg_hdr;
        header.msg_iov = &raw mut parts[at];
        header.msg_iovlen = 1;
        if run.segment < run.bytes {
            let segment = u16::try_from(run.segment).expect("a datagram is below 64 KiB");
            header.msg_control = (&raw mut controls[at]).cast();
            // SAFETY: the macros compute sizes and positions only; `controls[at]` is aligned for a header and larger than the
            // space that `CMSG_SPACE` asks for, so the header and the two bytes behind it lie within it.
            unsafe {
                header.msg_controllen = libc::CMSG_SPACE(2) as _;
                let control = libc::CMSG_FIRSTHDR(header);
                (*control).cmsg_level = libc::SOL_UDP;
                (*control).cmsg_type = libc::UDP_SEGMENT;
                (*control).cmsg_len = libc::CMSG_LEN(2) as _;
                libc::CMSG_DATA(control)
                    .cast::<u16>()
                    .write_unaligned(segment);
            }
        }
    }
    // SAFETY: the first `count` headers point to parts, controls and bytes that live through the call; the kernel only reads the bytes.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_fd().as_raw_fd(),
            headers.as_mut_ptr(),
            u32::try_from(count).expect("a handful"),
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Receives into slots of `slot` bytes each, one behind the other in `into`, and says in `got` what each holds. Returns how many were
/// filled; one at least. Fewer than there is room for mean that nothing more waits.
///
/// # Errors
/// Those of the operating system, when not even the first slot was filled; `WouldBlock` when nothing waits.
pub(super) fn receive(
    socket: impl AsFd,
    into: &mut [u8],
    slot: usize,
    got: &mut [Got; RUNS_MAX],
) -> io::Result<usize> {
    let mut controls = [NO_CONTROL; RUNS_MAX];
    // SAFETY: both are plain C structs of integers and pointers, for which all zeros are a value.
    let (mut parts, mut headers): ([libc::iovec; RUNS_MAX], [libc::mmsghdr; RUNS_MAX]) =
        unsafe { (mem::zeroed(), mem::zeroed()) };
    let mut count = 0;
    for (at, part) in into.chunks_exact_mut(slot).take(RUNS_MAX).enumerate() {
        parts[at].iov_base = part.as_mut_ptr().cast();
        parts[at].iov_len = part.len();
        let header = &mut headers[at].msg_hdr;
        header.msg_iov = &raw mut parts[at];
        header.msg_iovlen = 1;
        header.msg_control = (&raw mut controls[at]).cast();
        header.msg_controllen = mem::size_of::<Control>() as _;
        count = at + 1;
    }
    // SAFETY: the first `count` headers point to disjoint parts of `into` and to controls, which live through the call and which nobody
    // else uses meanwhile; without a time-out the last pointer may be null.
    let filled = unsafe {
        libc::recvmmsg(
            socket.as_fd().as_raw_fd(),
            headers.as_mut_ptr(),
            u32::try_from(count).expect("a handful"),
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
        )
    };
    let filled = usize::try_from(filled).map_err(|_| io::Error::last_os_error())?;
    for (got, filled) in got.iter_mut().zip(&headers[..filled]) {
        let bytes = filled.msg_len as usize;
        *got = Got {
            bytes,
            segment: segment_of(&filled.msg_hdr).unwrap_or(bytes),
            cut: filled.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        };
    }
    Ok(filled)
}

/// The size of the datagrams that the kernel joined, if it did.
fn segment_of(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: `receive` calls this with a header whose control buffer is still alive and which the kernel has just filled, so its control
    // messages are well formed within `msg_controllen`; the value of this message is an int.
    let segment = unsafe {
        let control = libc::CMSG_FIRSTHDR(header);
        if control.is_null()
            || (*control).cmsg_level != libc::SOL_UDP
            || (*control).cmsg_type != libc::UDP_GRO
        {
            return None;
        }
        libc::CMSG_DATA(control)
            .cast::<libc::c_int>()
            .read_unaligned()
    };
    usize::try_from(segment).ok().filter(|&segment| segment > 0)
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(mem::size_of::<T>()).expect("options are small")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::{Duration, Instant};

    fn pair() -> (UdpSocket, UdpSocket) {
        let (a, b) = (
            UdpSocket::bind("127.0.0.1:0").unwrap(),
            UdpSocket::bind("127.0.0.1:0").unwrap(),
        );
        a.connect(b.local_addr().unwrap()).unwrap();
        b.connect(a.local_addr().unwrap()).unwrap();
        (a, b)
    }

    /// Everything that comes, datagram by datagram, until `count` bytes are there.
    fn receive_all(socket: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        let mut buffer = vec![0; 8 * 4096];
        let mut got = [Got::default(); RUNS_MAX];
        let end = Instant::now() + Duration::from_secs(10);
        while all.iter().map(Vec::len).sum::<usize>() < count {
            assert!(Instant::now() < end, "{} datagrams came", all.len());
            match receive(socket, &mut buffer, 4096, &mut got) {
                Ok(filled) => {
                    for (slot, got) in buffer.chunks(4096).zip(&got[..filled]) {
                        assert!(!got.cut);
                        all.extend(
                            slot[..got.bytes]
                                .chunks(got.segment.max(1))
                                .map(<[u8]>::to_vec),
                        );
                    }
                }
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        all
    }

    #[test]
    fn runs_arrive_as_the_datagrams_that_they_are() {
        for joins in [false, true] {
            let (a, b) = pair();
            if joins && join_on_arrival(&b).is_err() {
                continue;
            }
            let bytes: Vec<u8> = (0..=255).cycle().take(2 * 700 + 300 + 1000 + 5).collect();
            let runs = [(2 * 700 + 300, 700), (1000, 1000), (5, 5)];
            let runs = runs.map(|(bytes, segment)| Run { bytes, segment });
            assert_eq!(send(&a, &bytes, &runs).unwrap(), 3);
            let came = receive_all(&b, bytes.len());
            let sizes: Vec<usize> = came.iter().map(Vec::len).collect();
            assert_eq!(sizes, [700, 700, 300, 1000, 5]);
            assert_eq!(came.concat(), bytes);
        }
    }

    #[test]
    fn a_datagram_above_its_slot_is_marked() {
        let (a, b) = pair();
        let run = Run {
            bytes: 100,
            segment: 100,
        };
        assert_eq!(send(&a, &[7; 100], &[run]).unwrap(), 1);
        let (mut buffer, mut got) = (vec![0; 64], [Got::default(); RUNS_MAX]);
        let end = Instant::now() + Duration::from_secs(10);
        while receive(&b, &mut buffer, 64, &mut got).is_err() {
            assert!(Instant::now() < end, "it comes in time");
        }
        assert!(got[0].cut && got[0].bytes <= 64);
    }
}
