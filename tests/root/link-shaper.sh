#!/usr/bin/env bash
# Runs tests/lab/shaper.rs, the shaper as the client uses it, inside a lab: one test at a time, since all
# share one network namespace.
# Runs alone: it measures rates.
. "$(dirname "$0")/../lib.sh"
needs_root
cd "$ROOT"
binary=$(cargo test --quiet --locked --test lab --no-run --message-format=json |
    jq -r 'select(.executable != null and .target.name == "lab") | .executable')
"$ROOT/netem/lab.sh" --servers none --exec "$binary" shaper:: --ignored --test-threads=1 | tee "$WORK/out"
expect "tests that ran" "$(sed -n 's/^test result: ok. \([0-9]*\) passed.*/\1/p' "$WORK/out")" -ge 2
