//! twostep tests
