//! The store's host: the model of the bucket, asked over the simulated network.

use std::sync::Arc;

use proto_core::id::OperationId;
use proto_core::store::{Revision, StoreError, StoreReply, StoreRequest, Write};
use sim::world::feed;

use crate::net::Stream;
use crate::shared::{Shared, State, on_behalf};
use crate::wire;

/// The host's name.
pub(crate) const HOST: &str = "store";
/// Where it listens.
pub(crate) const PORT: u16 = 4222;

/// The host.
pub(crate) async fn run(shared: Shared) -> turmoil::Result {
    let mut listener = shared.net.bind(HOST, PORT).await?;
    loop {
        let stream = listener.accept().await?;
        tokio::spawn(answer(stream, shared.clone()));
    }
}

/// A client that goes away in the middle gets no answer; what it asked for has happened all the same.
async fn answer(mut stream: Stream, shared: Shared) {
    let Ok(request) = wire::read::<StoreRequest>(&mut stream).await else { return };
    let result = shared.lock().apply(&request);
    let _ = wire::write(&mut stream, &result).await;
}

impl State {
    fn apply(&mut self, request: &StoreRequest) -> Result<StoreReply, StoreError> {
        let now = self.world.now;
        let result = self.world.kv.apply(now, request);
        if let (StoreRequest::Commit { writes }, Ok(StoreReply::Committed(last))) =
            (request, &result)
        {
            let operation = on_behalf(writes);
            self.stored(writes, *last, operation.as_ref());
        }
        result
    }

    fn stored(&mut self, writes: &[Write], last: Revision, operation: Option<&OperationId>) {
        self.invariants.stored(writes, operation, &self.world);
        let said = feed::of_writes(writes, last);
        if !said.is_empty() {
            self.said.push(Arc::new(said));
        }
    }
}
