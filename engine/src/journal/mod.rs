//! The journal of a node: what it must remember when it starts again (PROTOCOL.md section 5.5, DESIGN section 5).
//!
//! ```text
//!   replica ── store ──► Recorder ── a chunk per turn ──► Writer ── one write, one sync ──► segment, segment, segment …
//!           ◄─ Stored ──          ◄── durable, state ──                                      made ahead, removed whole
//!
//!   start:  scan (all of it, before anything is used) ─► records ─► Replica::restore, executed again
//! ```
//!
//! *Rules.*
//!
//! - What is told durable was covered by a sync that returned. What was written and not synced when the process ended is synced before
//!   it is used by the next one.
//! - Nothing damaged is ever applied. Only what was being written when the power failed may be missing at the end, and it is told from
//!   damage by what later entries know to be durable ([`scan`]).
//! - A body is written once, however many records hold it ([`bodies`]).
//! - What only the newest record counts of is repeated in every segment, so segments are removed whole, from the oldest on, when nobody needs their
//!   decrees any more ([`preamble`]).
//! - The loop never waits for the disk, and what waits for the disk is bounded ([`recorder`]).
//!
//! *Cost.* Nothing per record but its copy and its check; per group one write and one sync. At the start everything is read twice: once to
//! check it, once to use it.
//!
//! | module | what |
//! |---|---|
//! | [`folder`] | what is asked of a folder, and the folder of the operating system |
//! | [`memory`] | a folder in memory |
//! | [`faults`] | a folder with faults around another one |
//! | [`mod@format`] | the bytes of a segment |
//! | [`segment`] | the files |
//! | [`record`] | bytes ↔ record |
//! | [`preamble`] | what every segment repeats |
//! | [`scan`] | what is found when it is opened: the end, a torn tail, or damage |
//! | [`records`] | what is read back |
//! | [`opened`] | a journal that is open |
//! | [`appender`] | writes entries behind those that are there, without threads and time |
//! | [`snapshots`] | a store of snapshots in a folder |
//! | [`archive`] | reads what was learned back while it is written |
//! | [`writer`] | the thread that makes records durable, in groups |
//! | [`recorder`] | what the node's loop has of it |

#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the journal is a host: files, threads and clocks are its business"
)]

pub mod appender;
pub mod archive;
pub mod bodies;
mod error;
pub mod faults;
pub mod folder;
pub mod format;
mod maker;
pub mod memory;
pub mod opened;
pub mod preamble;
pub mod record;
pub mod recorder;
pub mod records;
pub mod scan;
pub mod segment;
mod shared;
pub mod snapshots;
pub mod writer;

pub use error::JournalError;
pub use opened::{Journal, Shape};
pub use recorder::Recorder;
pub use shared::{Figures, HUNG_AFTER, SLOW_AFTER};
