//! The `snap` program.

fn main() {}
