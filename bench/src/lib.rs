//! twostep bench
