//! The twostep command.

fn main() {}
