//! twostep crypto
