#!/usr/bin/env bash
# Builds the fuzz targets with coverage and runs them, on stable Rust and without cargo-fuzz: libFuzzer comes with a crate, the
# instrumentation with rustc. What each target is fed and asks for: fuzz/src/lib.rs.
#
#   scripts/fuzz.sh run TIME [TARGET…]     so long for each (30, 5m, 2h); new inputs go to fuzz/corpus/TARGET
#   scripts/fuzz.sh short TIME [TARGET…]   the same, and nothing is kept: what CI runs
#   scripts/fuzz.sh merge [TARGET…]        leaves only inputs that reach something that no other one does, and those with a name
#   scripts/fuzz.sh repro TARGET FILE…     runs single inputs, for example one from fuzz/artifacts/TARGET
#
# Without TARGET all of them. Of these only `dns` needs the adapters, whose dependencies take minutes to build. Ends with the first input
# that breaks something; it is in fuzz/artifacts/TARGET.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds() {
    case "$1" in
        *h) echo $((${1%h} * 3600)) ;;
        *m) echo $((${1%m} * 60)) ;;
        *) echo "${1%s}" ;;
    esac
}

all="story manifest api facts messages routes prepared dns"
verb=${1-}
case "$verb" in
    run | short) seconds=$(seconds "${2:?for how long?}"); shift 2; wanted=${*:-$all} ;;
    merge) shift; wanted=${*:-$all} ;;
    repro) wanted=${2:?which target?}; shift 2 ;;
    *) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 2 ;;
esac

# One process of a small input; a story holds whole machines.
limits=(-rss_limit_mb=1024 -timeout=20 -print_funcs=0 -verbosity=0)
most() { case "$1" in story) echo 512 ;; dns) echo 600 ;; routes) echo 4096 ;; *) echo 16384 ;; esac; }

coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
 -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares"
# With a target named, the flags are not for build scripts and macros of the build itself.
host=$(rustc -vV | sed -n 's/^host: //p')
features=libfuzzer
bins=()
for target in $wanted; do
    bins+=(--bin "$target")
    if [ "$target" = dns ]; then features=libfuzzer,adapters; fi
done
RUSTFLAGS="${coverage//$'\n'/} ${RUSTFLAGS-}" ${CARGO:-cargo} build --quiet --locked -p fuzz --profile fuzz --target "$host" \
    --no-default-features --features "$features" "${bins[@]}"
built=${CARGO_TARGET_DIR:-target}/$host/fuzz

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for target in $wanted; do
    corpus=fuzz/corpus/$target
    mkdir -p "$corpus" "fuzz/artifacts/$target"
    flags=("${limits[@]}" "-max_len=$(most "$target")" "-artifact_prefix=fuzz/artifacts/$target/")
    case "$verb" in
        run)
            "$built/$target" "${flags[@]}" -max_total_time="$seconds" "$corpus"
            ;;
        short)
            mkdir "$work/$target"
            # Without the frames of the fuzzer: what a panic says is to be among the last lines.
            RUST_BACKTRACE=0 "$built/$target" "${flags[@]}" -max_total_time="$seconds" "$work/$target" "$corpus" 2>&1 | tail -n 30
            ;;
        merge)
            mkdir "$work/$target"
            # A set that covers every edge once: counts of how often would keep ten times as many.
            "$built/$target" "${flags[@]}" -set_cover_merge=1 -use_counters=0 "$work/$target" "$corpus"
            before=$(find "$corpus" -type f | wc -l)
            # What libFuzzer wrote is named by its digest, and what the corpus grew from `seed-…`; what was found once has another name.
            find "$corpus" -type f -regextype posix-extended -regex '.*/([0-9a-f]{40}|seed-.*)' -delete
            cp -n "$work/$target"/* "$corpus"
            echo "fuzz: $target: $before inputs became $(find "$corpus" -type f | wc -l)"
            ;;
        repro)
            "$built/$target" "${limits[@]}" "$@"
            ;;
    esac
    if [ "$verb" = short ] || [ "$verb" = run ]; then echo "fuzz: $target: $seconds s, nothing found"; fi
done
