//! The bytes are the choices of a small story: whatever they say, no invariant breaks and nothing panics.

use sim::choice::Choices;
use sim::play::play;
use sim::story::{Profile, Shape, draw};

/// Draws the story, plays it.
pub fn run(data: &[u8]) {
    let mut choices = Choices::bytes(data.to_vec());
    let nodes = 1 + choices.choose(5, String::new);
    let operations = choices.choose(9, String::new);
    let seed = choices.choose(256, String::new) as u64;
    let shape = Shape { nodes, operations, length: 60_000, profile: Profile::Swarm };
    let story = draw(&mut choices, seed, shape);
    let report = play(&story, false);
    if !report.violations.is_empty() {
        let story = serde_json::to_string(&story).expect("a story can be written");
        panic!("{:?}\n{story}", report.violations);
    }
}
