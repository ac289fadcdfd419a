//! The `wayspan` command: reads its arguments, hands over to the library.
fn main() {}
