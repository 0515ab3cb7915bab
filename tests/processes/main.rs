//! End to end: the `twostep` command as its users run it, real processes over loopback.
//!
//! Every wait has a bound, every child ends with its test, every test has ports and a folder of its own.

mod bench;
mod chaos;
mod command;
mod dev;
mod drivers;
mod durable;
mod faults;
mod full_disks;
mod lanes;
mod lies;
mod links;
mod nodes;
mod snapshots;
mod states;
mod support;
mod udp;
