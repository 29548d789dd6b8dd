#!/usr/bin/env bash
# Runs a command with a Docker engine: the one that answers, or else, as root, a private one that is gone afterwards.
#
#   scripts/with-docker.sh COMMAND [ARGUMENT…]
#
# The private engine listens on the default socket, keeps everything in a temporary directory and leaves the firewall alone. The exit
# code is the command's. Without an engine and without root the command runs all the same; what needs Docker says so.
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: $0 COMMAND [ARGUMENT…]" >&2; exit 2; }
PATH=$PATH:/usr/sbin:/sbin

say() { echo "with-docker: $*" >&2; }
answers() { curl -sf --max-time 5 --unix-socket /var/run/docker.sock http://docker/_ping >/dev/null 2>&1; }

host=unix:///var/run/docker.sock
work= engine= child=
cleanup() {
    trap '' INT TERM HUP
    if [ -n "$child" ]; then kill -TERM -- "-$child" 2>/dev/null && wait "$child" 2>/dev/null || true; fi
    [ -n "$engine" ] || return 0
    # Others who use this engine hold the lock shared: it stays until they are done.
    flock -x 9
    # The bridges of its networks would outlive it.
    docker --host "$host" network ls --quiet --filter type=custom 2>/dev/null | while read -r network; do
        docker --host "$host" ps --all --quiet --filter "network=$network" | xargs -r docker --host "$host" rm --force
        docker --host "$host" network rm "$network"
    done >/dev/null || true
    kill -TERM "$engine" 2>/dev/null || true
    # It stops its containers first, then its containerd.
    for _ in $(seq 300); do kill -0 "$engine" 2>/dev/null || break; sleep 0.1; done
    if kill -0 "$engine" 2>/dev/null; then say "the engine hangs; killing it"; kill -KILL "$engine" || true; fi
    wait "$engine" 2>/dev/null || true
    # A containerd or shim that outlived it: by its working files in our directory, never by its name.
    for pid in $(grep -lsF -- "$work/" /proc/[0-9]*/cmdline | cut -d/ -f3); do kill -KILL "$pid" 2>/dev/null || true; done
    awk -v dir="$work/" 'index($5, dir) == 1 {print $5}' /proc/self/mountinfo | sort -r | xargs -r umount -l
    rm -rf --one-file-system "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

start_engine() {
    work=$(mktemp -d "${TMPDIR:-/tmp}/pd.XXXXXX")
    # 9<&-: the engine must not hold the lock. pdeathsig: it goes even if this script is killed.
    setsid setpriv --pdeathsig TERM dockerd \
        --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/pid" \
        --host "$host" \
        --bridge=none --iptables=false --ip-forward=false --ip-masq=false \
        >"$work/log" 2>&1 </dev/null 9<&- &
    engine=$!
    for _ in $(seq 300); do
        if answers; then say "started a private engine"; return; fi
        kill -0 "$engine" 2>/dev/null || break
        sleep 0.1
    done
    say "the engine did not come up:"
    tail -n 20 "$work/log" >&2
    exit 1
}

if [ "$(id -u)" = 0 ]; then
    lock=/run/lock/ployz-with-docker
    mkdir -p /run/lock
    # One starts an engine at a time; everyone holds the other lock shared while using it.
    exec 8>"$lock.start" 9>"$lock"
    flock -x 8
    flock -s 9
    if answers; then
        say "using the engine that runs"
    elif command -v dockerd >/dev/null; then
        start_engine
    else
        say "no engine runs and dockerd is not installed"
    fi
    flock -u 8
elif answers; then
    say "using the engine that runs"
else
    say "no engine answers, and only root can start one"
fi

# In a process group of its own, so that ending this script ends all of it.
set -m
"$@" 8>&- 9<&- &
child=$!
set +m
code=0
wait "$child" || code=$?
child=
exit "$code"
