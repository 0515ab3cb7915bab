//! The journal of a node: what it must remember when it starts again (PROTOCOL.md section 5.5, DESIGN section 5).
//!
//! | module | what |
//! |---|---|
//! | [`folder`] | what is asked of a folder, and the folder of the operating system |
//! | [`memory`] | a folder in memory |
//! | [`faults`] | a folder with faults around another one |

#![expect(
    clippy::disallowed_methods,
    reason = "the journal is a host: files, threads and clocks are its business"
)]

pub mod faults;
pub mod folder;
pub mod memory;
