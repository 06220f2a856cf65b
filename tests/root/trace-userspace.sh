#!/usr/bin/env bash
# A trace of 20 s on the userspace backend: each second carries what the trace says, both ways, by the
# kernel's counters behind the hold; a capture of what goes up agrees; its end is told.
# Runs alone: it measures rates.
. "$(dirname "$0")/../trace-play.sh"

"$PYTHON" "$ROOT/netem/traces/make.py" --check

traffic sink "$CLIENT" &
sink=$!
# What plays waits for all of this shell's children, and the sink ends only when it is told.
disown "$sink"
at_exit "kill $sink"
play up userspace eth0 /sys/class/net/eth0/statistics/tx_bytes
check up 1 "the interface's bytes"
check up 2 "a capture"
grep -q 'the trace steps.txt is over after 20 s' "$WORK/up.words" || fail "its end is not told"
play down userspace eth0 delivers
check down 1 "the packets that the kernel delivered"
