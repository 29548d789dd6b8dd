//! What is read can be written, and reads back as the same.

use std::fmt::Debug;

use proto_core::digest::Digest;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Reads the bytes as this type; if that goes, writing and reading once more changes neither the value nor its digest.
pub(crate) fn read<T: Serialize + DeserializeOwned + PartialEq + Debug>(text: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(text).ok()?;
    let written = serde_json::to_vec(&value).expect("what was read can be written");
    let again: T = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(value, again);
    assert_eq!(Digest::of(&value), Digest::of(&again));
    // The store hands out values, not text: both ways of reading agree.
    let tree = serde_json::from_slice(&written).expect("what was written is JSON");
    let of_tree: T = serde_json::from_value(tree).expect("what was written can be read as a value");
    assert_eq!(value, of_tree);
    Some(value)
}

/// [`read`] as each of these types.
macro_rules! read_as {
    ($text:expr; $($kind:ty),* $(,)?) => {{
        let text: &[u8] = $text;
        $(let _ = $crate::stable::read::<$kind>(text);)*
    }};
}
pub(crate) use read_as;
