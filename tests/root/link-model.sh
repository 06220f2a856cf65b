#!/usr/bin/env bash
# The link model on real packets, held in userspace and measured by stamped datagrams: bursts of loss
# last a time, reordering overtakes, a trace's peak is carried, small packets fill the queue by their
# bytes, and jitter has its mean and spread on a busy link. Only counts and ratios are compared.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/../link-lib.sh"

profile() { # NAME DOWN UP [REST]
    printf 'description = "test"\n[down]\n%s\n[up]\n%s\n%s\n' "$2" "$3" "${4:-}" >"$WORK/$1.toml"
}
clean='rate = "50mbit"
queue = "10s"'

profile reorder 'rate = "50mbit"
queue = "10s"
delay = "40ms"
reorder = "10%"' "$clean
delay = \"10ms\""
printf '0 4\n1 40\n2 40\n' >"$WORK/peak.txt"
profile peak 'rate = "4mbit"
queue = "200ms"
delay = "50ms"' "$clean" '[trace]
file = "peak.txt"
loop = false'
profile small 'rate = "1mbit"
queue = "400ms"
delay = "250ms"' "$clean"
profile jitter 'rate = "10mbit"
queue = "10s"
delay = "40ms"
jitter = "9ms"
distribution = "normal"' "$clean"
profile bursts 'rate = "2mbit"
queue = "10s"
delay = "1ms"
loss = { p = "2%", r = "20%" }' "$clean"

# measured PROFILE MBIT NUMBER BYTES: what the sink saw of datagrams down link a.
measured() {
    echo "== $1: $3 frames of $4 bytes at $2 Mbit/s"
    "$TWINLINK_BIN" link hold --link-a "$WORK/$1.toml" --backend userspace -- \
        ip netns exec "${ns[a]}" "$PYTHON" "$ROOT/tests/link-traffic.py" delays "$CLIENT" "$2" "$3" "$4" >"$WORK/seen.json"
    cat "$WORK/seen.json"
}
seen() { jq "$1" "$WORK/seen.json"; }

start_sinks

measured reorder 4 4000 500
expect "reorder 10 %: that came of 4000" "$(seen .came)" -eq 4000
within "reorder 10 %: overtakers" "$(seen .overtakers)" 400 30

# A queue for 4 Mbit/s holds 66 full frames; 50 ms at 40 Mbit/s hold 165.
measured peak 30 6000 1514
expect "peak of 40 over 4 Mbit/s: that came of 6000" "$(seen .came)" -ge 3000

# 23 % of the rate; counted as packets 61 % of them had no room.
measured small 0.23 1500 60
expect "small frames: that came of 1500" "$(seen .came)" -eq 1500

measured jitter 9 6000 1514
within "jitter 40 ± 9 ms, busy: median in ms" "$(seen .median_ms)" 40 15
within "jitter 40 ± 9 ms, busy: spread in ms" "$(seen .sd_ms)" 9 40

# A full frame takes 6 ms, so a burst lasts 30 ms whatever is sent. Bursts of five packets would be ten
# where a frame comes every 2 ms and less than two where one comes every 40 ms.
measured bursts 0.4 4000 100
expect "often: lost in a burst" "$(seen '.lost_in_bursts / .bursts')" -ge 7
measured bursts 0.02 300 100
expect "seldom: lost in a burst" "$(seen '.lost_in_bursts / .bursts')" -le 3
