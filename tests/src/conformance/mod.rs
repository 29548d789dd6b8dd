//! Whether a model does as its real part does: counting what was compared, and the shortest sequence on which they differ.

mod shortest;
mod tally;

pub use shortest::{Simpler, shortest};
pub use tally::{ENOUGH, Tally, wanted};
