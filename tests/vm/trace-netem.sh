#!/usr/bin/env bash
# A trace of 20 s on the netem backend: each second carries what the trace says, by the ifb's bytes and
# by a capture there; packets that waited through the outage leave when it ends; its end is told.
. "$(dirname "$0")/../trace-play.sh"

modprobe sch_netem 2>/dev/null || true
# With a delay tbf has netem below it.
sed -i 's/^queue = .*/&\ndelay = "10ms"/; s/^rate = .*/rate = "3.2mbit"/' "$WORK/steps.toml"
# tbf's bucket of 3 000 bytes lasts 2.4 ms at 10 Mbit/s, and a virtual machine now and then wakes
# later than that, and then what the bucket cannot hold is lost: slower steps lose none of it.
awk '{ print $1, $2 * 0.4 }' "$WORK/steps.txt" >"$WORK/slower" && mv "$WORK/slower" "$WORK/steps.txt"
# Programs start slowly in a virtual machine, so that where a second begins is less certain too.
export OUTAGE_MBIT=0.12
WATCH=34 LEAD=6
play down netem twl-a-down /sys/class/net/twl-a-down/statistics/rx_bytes
check down 1 "the ifb's bytes"
check down 2 "a capture"
grep -q 'the trace steps.txt is over after 20 s' "$WORK/down.words" || fail "its end is not told"

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
