//! One machine's node: its participant and the operations it coordinates, behind
//! one interface. `ployzd` and `sim` drive this and nothing else.

mod node;

pub use node::{
    Completion, Effect, EffectId, EffectKind, Input, NodeEvent, OperationHandle, ReplyToken,
    RoutesRequest,
};
