# Sourced by the tests that play a trace on a backend, in place of lib.sh and link-lib.sh: 20 s in ten steps with an
# outage, while more is offered than they take; each second by kernel bytes and by a capture.
# shellcheck shell=bash

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$(dirname "${BASH_SOURCE[0]}")/link-lib.sh"

i=0
for mbit in 8 4 12 2 0 6 10 3 5 8; do
    echo "$((i * 2)) $mbit"
    i=$((i + 1))
done >"$WORK/steps.txt"
printf 'description = "steps"\n[down]\n%s[up]\n%s[trace]\nfile = "steps.txt"\ndirection = "both"\nloop = false\n' \
    $'rate = "8mbit"\nqueue = "100ms"\n' $'rate = "8mbit"\nqueue = "100ms"\n' >"$WORK/steps.toml"

# play WAY BACKEND INTERFACE COUNTER...: leaves what was read in $WORK/WAY, and when the trace began.
play() {
    local way=$1 backend=$2 meter
    "$PYTHON" "$ROOT/tests/trace-meter.py" watch "$WORK/$way" "${WATCH:-26}" "${@:3}" &
    meter=$!
    if [ "$way" = down ]; then
        in_server a "$PYTHON" "$ROOT/tests/link-traffic.py" flood "$CLIENT" 16 "${WATCH:-26}" &
    else
        traffic flood "${server[a]}" 16 "${WATCH:-26}" &
    fi
    # The flood is on its way, and the meter has read something.
    sleep "${LEAD:-1.5}"
    # The trace begins just before the command does, whose start the kernel has noted in ticks.
    # shellcheck disable=SC2016
    "$TWINLINK_BIN" link hold --link-a "$WORK/steps.toml" --backend "$backend" -- \
        bash -c 'cut -d" " -f22 "/proc/$$/stat" >"$0"; sleep 21.5' "$WORK/$way.began" 2>&1 | tee "$WORK/$way.words"
    wait "$meter"
    wait
    # Ticks are cut off, so that it was half of one later on average.
    began=$(jq -n "($(cat "$WORK/$way.began") + 0.5) / $(getconf CLK_TCK)")
}

check() { # WAY COLUMN WHAT
    echo "== $1, by $3"
    "$PYTHON" "$ROOT/tests/trace-meter.py" compare "$WORK/$1" "$began" "$WORK/steps.txt" "$2"
}
