#!/usr/bin/env bash
# proto-core must stay pure: no runtime, clock, randomness or socket among all that it depends on, directly or not.
# clippy.toml beside it keeps the standard library's out; this keeps out the libraries'.
set -euo pipefail
cd "$(dirname "$0")/.."

forbidden='tokio|tokio-.*|async-std|async-io|smol|futures-timer|mio|polling|socket2|rustix|libc|nix'
forbidden+='|rand|rand_core|rand_chacha|getrandom|fastrand|uuid|ahash'
forbidden+='|chrono|time|jiff|hyper|hyper-util|reqwest|axum|async-nats|bollard|tracing|log|tempfile|io-adapters'

tree=$(cargo tree --locked -p proto-core -e normal --prefix none --format '{p}')
names=$(awk '{print $1}' <<<"$tree" | sort -u)
[ -n "$names" ] || { echo "check-core-dependencies: cargo tree names no package" >&2; exit 1; }
if found=$(grep -xE "$forbidden" <<<"$names"); then
    for name in $found; do
        echo "proto-core depends on $name, by this path:" >&2
        cargo tree --locked -p proto-core -e normal -i "$name" >&2
    done
    exit 1
fi
echo "proto-core: $(wc -l <<<"$names") packages, none of which does I/O, tells time or draws randomness"
