//! Links over real sockets on loopback: what works, and what strangers send.

mod common;
mod hostile;
mod lanes;
mod loopback;
