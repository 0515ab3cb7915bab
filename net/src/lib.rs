//! Event loops, authenticated links and pooled buffers of twostep.

pub mod pool;
