//! ployzctl
fn main() {}
