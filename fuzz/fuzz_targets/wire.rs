//! What comes over the bus, the API and the store: read or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proto_core::api::Submission;
use proto_core::coordination::{Command, CommandReply, FenceFile, OperationRecord};
use proto_core::store::facts::{Commit, Head, Lease};

fuzz_target!(|data: &[u8]| {
    macro_rules! read {
        ($($kind:ty),*) => {
            $(if let Ok(value) = serde_json::from_slice::<$kind>(data) {
                let text = serde_json::to_vec(&value).expect("what was read can be written");
                let again: $kind = serde_json::from_slice(&text).expect("what was written can be read");
                assert_eq!(value, again);
            })*
        };
    }
    read!(Submission, Command, CommandReply, FenceFile, OperationRecord, Commit, Head, Lease);
});
