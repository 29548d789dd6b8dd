#!/usr/bin/env bash
# Runs every scenario of the simulator with COUNT seeds from SEED on, up to three crashes and three faults each. The
# seed is printed: the same one gives the same runs.
set -euo pipefail
cd "$(dirname "$0")/.."
seed=$1 count=$2

sim=(cargo run --quiet --release --locked -p sim --bin ployz-sim --)
echo "sim-sweep: seed $seed, $count runs for each scenario"
scenarios=$("${sim[@]}" scenarios | awk '{print $1}')
[ -n "$scenarios" ] || { echo "sim-sweep: the simulator names no scenario" >&2; exit 1; }
failed=0
for scenario in $scenarios; do
    "${sim[@]}" run --op "$scenario" --seed "$seed" --count "$count" --crashes 3 --faults 3 || { failed=1; echo "sim-sweep: $scenario failed with seed $seed" >&2; }
done
exit "$failed"
