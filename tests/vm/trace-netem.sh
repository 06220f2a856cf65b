#!/usr/bin/env bash
# A trace of 20 s on the netem backend: each second carries what the trace says, by the ifb's bytes and
# by a capture there; packets that waited through the outage leave when it ends; its end is told.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/../link-lib.sh"

modprobe sch_netem 2>/dev/null || true
# With a delay tbf has netem below it. Its bucket of 3 000 bytes lasts 2.4 ms at 10 Mbit/s, and a virtual machine now
# and then wakes later than that, and then what the bucket cannot hold is lost: slower steps lose none of it.
at=0
for mbit in 3.2 1.6 4.8 0.8 0 2.4 4 1.2 2 3.2; do
    echo "$at $mbit"
    at=$((at + 2))
done >"$WORK/steps.txt"
plain=$'rate = "3.2mbit"\nqueue = "100ms"\ndelay = "10ms"\n'
printf 'description = "steps"\n[down]\n%s[up]\n%s[trace]\nfile = "steps.txt"\ndirection = "both"\nloop = false\n' \
    "$plain" "$plain" >"$WORK/steps.toml"

# Programs start slowly in a virtual machine, so that where a second begins is less certain too.
export OUTAGE_MBIT=0.12
"$PYTHON" "$ROOT/tests/trace-meter.py" watch "$WORK/down" 34 twl-a-down /sys/class/net/twl-a-down/statistics/rx_bytes &
in_server a "$PYTHON" "$ROOT/tests/link-traffic.py" flood "$CLIENT" 16 34 &
# The flood is on its way, and the meter has read something.
sleep 6
# The trace begins just before the command does, whose start the kernel has noted in ticks.
# shellcheck disable=SC2016
"$TWINLINK_BIN" link hold --link-a "$WORK/steps.toml" --backend netem -- \
    bash -c 'cut -d" " -f22 "/proc/$$/stat" >"$0"; sleep 21.5' "$WORK/began" 2>&1 | tee "$WORK/words"
wait
# Ticks are cut off, so that it was half of one later on average.
began=$(jq -n "($(cat "$WORK/began") + 0.5) / $(getconf CLK_TCK)")
for column in 1 2; do
    echo "== by $([ "$column" = 1 ] && echo "the ifb's bytes" || echo "a capture")"
    "$PYTHON" "$ROOT/tests/trace-meter.py" compare "$WORK/down" "$began" "$WORK/steps.txt" "$column"
done
grep -q 'the trace steps.txt is over after 20 s' "$WORK/words" || fail "its end is not told"

echo "== a trace with delays and losses: both are shown as they are, and what netem drops is not told apart"
export TWINLINK_CONTROL=$WORK/control.sock
printf 'time,rate,delay,loss\n0,3.2mbit,10ms,0%%\n1,3.2mbit,30ms,5%%\n' >"$WORK/lossy.csv"
sed 's/steps.txt/lossy.csv/; s/direction = .*/direction = "down"/' "$WORK/steps.toml" >"$WORK/lossy.toml"
"$TWINLINK_BIN" link hold --link-a "$WORK/lossy.toml" --backend netem -- \
    bash -c 'sleep 2 && "$TWINLINK_BIN" link show --json' >"$WORK/rows"
of_row() { jq -c --arg d "$1" ".links[] | select(.direction == \$d) | $2" "$WORK/rows"; }
expect "delay and loss of the step" "$(of_row down '[.shape.delay, .shape.loss]')" = '["30ms","5%"]'
expect "losses among the drops, down" "$(of_row down .counters.dropped_loss)" = null
expect "losses among the drops, up" "$(of_row up .counters.dropped_loss)" -eq 0
