#!/usr/bin/env bash
# A trace of 20 s on the netem backend: each second carries what the trace says, by the ifb's bytes and
# by a capture there; packets that waited through the outage leave when it ends; its end is told.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/../link-lib.sh"
. "$(dirname "$0")/../trace-play.sh"

modprobe sch_netem 2>/dev/null || true
# With a delay tbf has netem below it.
sed -i 's/^queue = .*/&\ndelay = "10ms"/' "$WORK/steps.toml"
# Programs start slowly on an emulated processor.
WATCH=34 LEAD=6
play down netem twl-a-down /sys/class/net/twl-a-down/statistics/rx_bytes
check down 1 "the ifb's bytes"
check down 2 "a capture"
grep -q 'the trace steps.txt is over after 20 s' "$WORK/down.words" || fail "its end is not told"
if grep -q 'came .* late\|left out' "$WORK/down.words"; then fail "a step was late: $(cat "$WORK/down.words")"; fi
