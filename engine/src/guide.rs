//! Pages to read, beside the modules that they speak of.

#[doc = include_str!("../docs/leader_change.md")]
pub mod leader_change {}

#[doc = include_str!("../docs/deviations.md")]
pub mod deviations {}
