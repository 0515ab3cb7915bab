//! twostep engine
