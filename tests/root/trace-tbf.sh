#!/usr/bin/env bash
# A trace of 20 s on tbf alone, which every kernel has: each second by the ifb's bytes and by a capture
# there; what waited through the outage leaves when it ends; the end of the trace is told.
# Runs alone: it measures rates.
. "$(dirname "$0")/../trace-play.sh"

play down netem twl-a-down /sys/class/net/twl-a-down/statistics/rx_bytes
check down 1 "the ifb's bytes"
check down 2 "a capture"
grep -q 'the trace steps.txt is over after 20 s' "$WORK/down.words" || fail "its end is not told"
