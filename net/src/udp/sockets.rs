//! The sockets of links: how they are made, and what it means when one cannot be made.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use socket2::{Domain, SockRef, Socket, Type};

/// What is asked for as receive and send buffer of a link; the system's limits may give less.
pub(super) const BUFFER_BYTES: usize = 4 << 20;

/// A socket with large buffers, as far as the system allows.
pub(super) fn new_socket(family: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(family), Type::DGRAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(BUFFER_BYTES)?;
    socket.set_send_buffer_size(BUFFER_BYTES)?;
    Ok(socket)
}

/// A socket at the address `addr` of the listening socket, connected to `peer`.
pub(super) fn join(
    listening: &UdpSocket,
    addr: SocketAddr,
    peer: SocketAddr,
) -> io::Result<UdpSocket> {
    let link = new_socket(addr)?;
    link.set_reuse_address(true)?;
    // Only while another socket of ours joins the address may it be shared, so that a second node there is told that it is in use. What others
    // send before the new socket is connected may end in it: it does not verify there, and they send again.
    let shared = SockRef::from(listening);
    shared.set_reuse_address(true)?;
    let bound = link.bind(&addr.into());
    shared.set_reuse_address(false)?;
    bound?;
    link.connect(&peer.into())?;
    Ok(link.into())
}

/// An error of accepting as the loop shall see it. Only a lack of our own resources makes it pause; anything else comes from the address that the
/// stranger's datagram names (no route to it, a broadcast address, a firewall), which anybody can choose: the next stranger must not wait for it.
pub(super) fn unless_shortage(error: io::Error) -> io::Error {
    let codes = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    match error.raw_os_error() {
        Some(code) if codes.contains(&code) => error,
        _ => io::Error::new(io::ErrorKind::Interrupted, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_whose_address_cannot_be_reached_holds_up_nobody() {
        let listening = new_socket("0.0.0.0:0".parse().unwrap()).unwrap();
        listening
            .bind(&"0.0.0.0:0".parse::<SocketAddr>().unwrap().into())
            .unwrap();
        let listening = UdpSocket::from(listening);
        let addr = listening.local_addr().unwrap();
        // Connecting to it is forbidden without the option for broadcasts; without any network there is no route to it.
        let nobody = "255.255.255.255:9".parse().unwrap();
        let error = join(&listening, addr, nobody).unwrap_err();
        assert_ne!(error.kind(), io::ErrorKind::Interrupted);
        assert_eq!(unless_shortage(error).kind(), io::ErrorKind::Interrupted);
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            let error = unless_shortage(io::Error::from_raw_os_error(code));
            assert_ne!(error.kind(), io::ErrorKind::Interrupted);
        }
        join(&listening, addr, "127.0.0.1:9".parse().unwrap()).unwrap();
    }
}
