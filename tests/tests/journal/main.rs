//! The journal over a folder in memory: what it gives back after damage, torn writes and power cuts, and its bytes, pinned.

mod archive;
mod damage;
mod golden;
mod growth;
mod samples;
mod torn;
mod trouble;
