//! The engine on its own: each test hands it completions and compares the effects and events that come out.
//!
//! | file | holds |
//! |---|---|
//! | `given` | what is there when an operation begins, and what it is asked for |
//! | `bench` | an operation, the effects that are out, their answers |
//! | `course` | the order of things when nothing goes wrong, steps, undo |
//! | `commit` | a commit batch that is lost, torn or refused |
//! | `rivals` | two namespaces that are planned at the same time, and want the same room or address |
//! | `stop` | cancel, shutdown, fences |
//! | `adopt` | operations that somebody left behind |
//! | `beside` | two unfinished operations of a namespace |
//! | `lives` | how long what is written lives, in whole lives of operations with troubles |

mod adopt;
mod bench;
mod beside;
mod commit;
mod course;
mod given;
mod lives;
mod rivals;
mod stop;

use super::{later, store_failed};
use crate::coordination::record::Phase;
use crate::store::StoreError;

#[test]
fn a_cancel_promises_to_undo_only_what_can_be_undone() {
    assert!(later(None).contains("as soon as it safely can"));
    assert!(later(Some(Phase::Executing)).contains("as soon as it safely can"));
    assert!(later(Some(Phase::Aborting)).contains("undone already"));
    assert!(later(Some(Phase::CleanupPending)).contains("the commit stands"));
}

#[test]
fn a_store_that_refuses_is_not_said_to_be_away() {
    let refused = store_failed(&StoreError::Refused("no room (10176)".to_owned()));
    assert_eq!(refused.code, "STORE_REFUSED");
    assert!(refused.message.contains("no room (10176). A full disk"), "{}", refused.message);
    assert_eq!(refused.next.as_deref(), Some("ployzctl doctor"));
    let away = store_failed(&StoreError::Unavailable("nobody answers".to_owned()));
    assert_eq!(away.code, "STORE_AWAY");
}
