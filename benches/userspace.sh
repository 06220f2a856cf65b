#!/usr/bin/env bash
# How far the userspace backend goes: both links together at 10, 100, 500 and 1000 Mbit/s, TCP down on
# one connection each, beside tbf alone at the same rates. Prints a Markdown table: throughput, what
# share of a processor the thread took, and how late packets left. Root; needs iperf3 for its rows.
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/.." && pwd)
export TWINLINK_BIN=${TWINLINK_BIN:-$ROOT/target/release/twinlink}
if [ -z "${TWINLINK_NS_CLIENT:-}" ]; then
    exec "$ROOT/netem/lab.sh" --servers none --exec bash "$0" "$@"
fi

WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
PYTHON=$(python3 -c 'import sys; print(sys.executable)')
SECONDS_EACH=${SECONDS_EACH:-10}

profile() { # MBIT: a rate and a queue, so that tbf can do the same
    printf 'description = "%s Mbit/s"\n[down]\nrate = "%smbit"\nqueue = "20ms"\n[up]\nrate = "%smbit"\nqueue = "20ms"\n' \
        "$1" "$1" "$1"
}

row() { # TOOL MBIT BACKEND
    local counters=$WORK/counters.json
    rm -f "$counters"
    "$TWINLINK_BIN" link hold --link-a "$WORK/$2.toml" --link-b "$WORK/$2.toml" --backend "$3" \
        --counters "$counters" -- "$PYTHON" "$ROOT/benches/userspace.py" "$1" "$SECONDS_EACH" \
        >"$WORK/row" 2>"$WORK/words" || { cat "$WORK/words" >&2; exit 1; }
    local late=–
    if [ "$3" = userspace ]; then
        late=$(jq -r '[.lateness[] | select(.direction == "down")] |
            [([.[].p50_ms] | max), ([.[].p99_ms] | max), ([.[].max_ms] | max)] |
            map(. * 100 | round / 100 | tostring) | join(" / ")' "$counters")
    fi
    printf '| %s, %s | 2 × %s | %s | %s | %s |\n' "$3" "$1" "$2" "$(cat "$WORK/row")" "$late" \
        "$(grep -c overload "$WORK/words" || true)"
}

echo "| backend, by | asked, Mbit/s | payload, Mbit/s | thread, % of a processor | machine busy, % | late in the worst second: p50 / p99 / max, ms | overloads |"
echo "|---|---|---|---|---|---|---|"
for mbit in ${RATES:-10 100 500 1000}; do
    profile "$mbit" >"$WORK/$mbit.toml"
    row sockets "$mbit" userspace
    row sockets "$mbit" netem
    if command -v iperf3 >/dev/null; then
        row iperf3 "$mbit" userspace
    fi
done

# What holding packets adds where no delay is asked for: handshakes on an idle link, unshaped and held.
profile 1000 >"$WORK/idle.toml"
read -r bare bare99 <<<"$("$PYTHON" "$ROOT/benches/userspace.py" idle 300)"
read -r held held99 <<<"$("$TWINLINK_BIN" link hold --link-a "$WORK/idle.toml" --backend userspace -- \
    "$PYTHON" "$ROOT/benches/userspace.py" idle 300 2>/dev/null)"
echo
echo "idle round trip, ms: $bare unshaped (99 % within $bare99), $held held in userspace (99 % within $held99)"
