//! ployzd
fn main() {}
