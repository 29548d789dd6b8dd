//! The file of `deploy apply-prepared`. The command takes only a plan that nobody changed; the daemon, which is handed the plan over
//! its API, must live with any.

use proto_core::api::prepared::{Prepared, PreparedError};
use proto_core::api::{OperationRequest, Submission};
use proto_core::coordination::Plan;
use proto_core::digest::Digest;
use serde::Deserialize;
use sim::invariants::Invariants;

use crate::asked;

/// The file without the question whether it is what it says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Loose {
    v: u32,
    digest: Digest,
    request: OperationRequest,
    plan: Box<Plan>,
    #[serde(default, rename = "manifest")]
    _manifest: Option<String>,
}

/// Reads the file, and applies its plan.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let parsed = Prepared::parse(text.as_bytes());
    let Ok(loose) = serde_json::from_str::<Loose>(text) else {
        assert!(matches!(parsed, Err(PreparedError::Unreadable(_))), "{parsed:?}");
        return;
    };
    let whole = loose.v == 1 && loose.plan.digest() == loose.digest;
    assert_eq!(parsed.is_ok(), whole, "{parsed:?}");
    if let Ok(prepared) = parsed {
        assert_eq!(Prepared::parse(prepared.text().as_bytes()), Ok(prepared.clone()));
        let again = Prepared::new(
            prepared.request.clone(),
            prepared.plan.clone(),
            prepared.manifest.clone(),
        );
        assert_eq!(again, prepared);
    }
    let Loose { request, plan, .. } = loose;
    let apply = Submission::ApplyPrepared { request, plan: plan.clone() };
    let abort = Submission::Abort { operation: plan.operation.clone() };
    asked::ask(asked::founded(), [apply, abort], Invariants::none());
}
