//! Where something panics, that is what broke: it is a violation like any other.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What broke where something panics.
pub(crate) const PANIC: &str = "panic";

/// What it came to, or what the panic said. What a panic leaves half done may only be told, never gone on with.
pub(crate) fn survive<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(body)).map_err(|panic| said(&*panic))
}

fn said(panic: &(dyn Any + Send)) -> String {
    let said = panic.downcast_ref::<String>().map(String::as_str);
    let said = said.or_else(|| panic.downcast_ref::<&str>().copied());
    said.unwrap_or("without a word").to_owned()
}
