#!/usr/bin/env bash
# `make demo`: from a fresh machine to a running cluster. Sets up, builds, and shows each step with its result; a result that is not the
# expected one ends the demo with exit code 1. Everything it starts is gone afterwards.
#
# As root with a Docker engine (it brings its own if none runs) instances are containers, otherwise processes.
# The ports can be moved: DEMO_HTTP, DEMO_DNS, DEMO_NATS.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ "${1-}" != run ]; then
    scripts/setup.sh
    export PATH="$PWD/.tools/bin:$PATH:/usr/sbin:/sbin"
    echo "demo: building ployzd and ployzctl (the first time takes some minutes)"
    cargo build --release --locked --quiet -p ployzd -p ployzctl
    exec scripts/with-docker.sh "$0" run
fi

bin=${CARGO_TARGET_DIR:-target}/release
http=127.0.0.1:${DEMO_HTTP:-18080}
dns=${DEMO_DNS:-15353}
nats=${DEMO_NATS:-14222}
dir=$(mktemp -d "${TMPDIR:-/tmp}/ployz-demo.XXXXXX")
export PLOYZ_DATA_DIR=$dir/data PLOYZ_SOCKET=$dir/ployzd.sock
# Two addresses of one host name: none of them is a proxy's.
export no_proxy='*'

passed=0 failed=0
ployzctl() { "$bin/ployzctl" --plain "$@"; }
step() { printf '\n\033[1m%s\033[0m\n' "$*"; }
shown() { printf '  $ %s\n' "$*"; "$@" 2>&1 | sed 's/^/    /'; }

# expect WHAT PATTERN COMMAND…: the command succeeds and what it prints matches.
expect() {
    local what=$1 pattern=$2 output code=0
    shift 2
    printf '  $ %s\n' "$*"
    output=$("$@" 2>&1) || code=$?
    [ -z "$output" ] || sed 's/^/    /' <<<"$output"
    if [ "$code" = 0 ] && grep -qE -- "$pattern" <<<"$output"; then
        passed=$((passed + 1))
        printf '  \033[32mok\033[0m: %s\n' "$what"
    else
        failed=$((failed + 1))
        printf '  \033[31mFAILED\033[0m: %s (exit code %s, wanted: %s)\n' "$what" "$code" "$pattern"
        exit 1
    fi
}

finish() {
    local code=$?
    trap '' INT TERM HUP
    if [ -e "$PLOYZ_DATA_DIR/ployzd.toml" ]; then
        [ "$failed" = 0 ] || { echo "  the daemon's last lines:"; tail -n 15 "$PLOYZ_DATA_DIR/ployzd.log" 2>/dev/null | sed 's/^/    /'; }
        ployzctl -q --yes dev destroy || echo "demo: what runs from $PLOYZ_DATA_DIR could not be stopped; it is left there"
    fi
    [ -e "$PLOYZ_DATA_DIR" ] || rm -rf "$dir"
    [ "$runtime" != docker ] || docker image rm --force ployz-demo:v1 ployz-demo:v2 >/dev/null 2>&1 || true
    [ "$code" = 0 ] || [ "$failed" != 0 ] || failed=1
    printf '\ndemo: %d passed, %d failed\n' "$passed" "$failed"
    exit "$code"
}
runtime=process
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

page() { curl -sS --max-time 5 -H 'Host: hello.localhost' "http://$http/"; }
lookup() { dig +short +tries=1 +time=3 "@127.0.0.1" -p "$dns" "$@"; }
# By port and name: processes share one address.
ports_in_dns() { lookup SRV _http._tcp.web.hello.ployz.internal | tee /dev/stderr | grep -c '\.web\.hello\.'; }
manifest() { sed "s/v1\"/$1\"/" "$example" >"$dir/ployz-$1.toml"; }
daemon() { ployzctl --json status | jq .pid; }
adopted() { ployzctl events | grep -c SIDECAR_ADOPTED; }
away() { ! ployzctl status; }
nobody_serves() { ! page; }
same() { [ "$(workloads)" = "$before" ] && echo "the same"; }
workloads() { ployzctl --json ps | jq -c '[.rows[].instance | [.spec.name, .pid]] | sort'; }

if [ "$(id -u)" = 0 ] && docker info >/dev/null 2>&1; then
    runtime=docker
    example=docs/examples/hello/ployz.toml
else
    example=docs/examples/hello/ployz.process.toml
fi

step "A cluster of this machine: daemon, store, gateway and DNS, with the $runtime runtime"
expect "everything runs" 'gateway +running' ployzctl dev up --runtime "$runtime" \
    --gateway-listen "$http" --dns-listen "127.0.0.1:$dns" --nats-port "$nats"

if [ "$runtime" = docker ]; then
    step "Two versions of the example's image, made here: no registry is asked"
    expect "the images are there" 'built ployz-demo:v2' docs/examples/hello/build-image.sh v1 v2
fi
manifest v1
manifest v2

step "What a deploy would do, before it does anything"
expect "the plan makes commit 1" '^commit 1 of hello: 1 service' ployzctl deploy preview -f "$dir/ployz-v1.toml"
expect "nothing was changed by it" '^\[\]$' workloads

step "Deploy v1"
expect "the deploy committed" '^committed 1 by' ployzctl deploy -f "$dir/ployz-v1.toml"
expect "the gateway routes hello.localhost to it" '^hello from v1$' page
expect "DNS names both instances" '^2$' ports_in_dns
expect "the same manifest again changes nothing" '^nothing to do: commit 1' ployzctl deploy -f "$dir/ployz-v1.toml"

step "Deploy v2: new instances start beside the old ones, then one commit moves every route"
expect "the deploy committed" '^committed 2 by' ployzctl deploy -f "$dir/ployz-v2.toml"
expect "the gateway serves the new version" '^hello from v2$' page
expect "the history has both commits" '^ *2 ' ployzctl deploy history hello

step "Roll back: a new commit that restores the previous one"
expect "the rollback committed" '^committed 3 by' ployzctl rollback hello
expect "the gateway serves v1 again" '^hello from v1$' page
shown ployzctl ps
shown ployzctl op ls

step "kill -9 of the daemon: what serves does not depend on it"
pid=$(daemon)
before=$(workloads)
kill -KILL "$pid"
# Gone, or a zombie where nobody collects it; by then its sockets are closed.
while grep -qs '^State:[[:space:]]*[^Z]' "/proc/$pid/status"; do sleep 0.05; done
expect "the daemon is gone" 'DAEMON_AWAY' away
expect "the gateway still serves" '^hello from v1$' page
expect "DNS still answers" '^[0-9.]+$' lookup web.hello.ployz.internal

step "A new daemon adopts all that runs"
expect "it runs" 'gateway +running' ployzctl dev up
expect "store, gateway and DNS were adopted, not restarted" '^3$' adopted
expect "no instance was replaced" '^the same$' same
expect "the gateway serves" '^hello from v1$' page

step "Remove everything"
expect "the cluster is gone" 'is removed' ployzctl --yes dev destroy
expect "nobody listens at the gateway's address" '[Cc]onnect' nobody_serves
