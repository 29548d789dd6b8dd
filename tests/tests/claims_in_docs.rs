//! What the models claim is in the documentation.

use sim::claims::{RuntimeClaim, StoreClaim};

#[test]
fn every_claim_of_a_model_is_in_the_documentation() {
    let docs = include_str!("../../docs/simulation.md");
    let store = StoreClaim::ALL.iter().map(|claim| claim.says());
    let runtime = RuntimeClaim::ALL.iter().map(|claim| claim.says());
    for says in store.chain(runtime) {
        assert!(docs.contains(&format!("- {says}\n")), "docs/simulation.md lacks: {says}");
    }
}
