//! twostep net
