//! One machine's node: its participant and the operations it coordinates, behind
//! one interface. `ployzd` and `sim` drive this and nothing else.

mod effect;
mod node;

pub use effect::{
    Completion, Effect, EffectId, EffectKind, Input, NodeEvent, OperationHandle, ReplyToken,
    RoutesRequest,
};
pub use node::{Node, NodeConfig, TimerKind};
