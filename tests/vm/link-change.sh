#!/usr/bin/env bash
# A change on netem takes effect in place: nothing of the old profile stays, nothing that is queued
# is lost, and the order is kept.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/../link-lib.sh"

modprobe sch_netem 2>/dev/null || true
start_sinks
own_links --backend netem

profile() { # NAME LINES: both ways alike
    printf 'description = "test"\n[down]\n%s\n[up]\n%s\n' "$2" "$2" >"$WORK/$1.toml"
}
profile everything 'rate = "40mbit"
queue = "100ms"
delay = "20ms"
jitter = "5ms"
distribution = "pareto"
loss = { p = "1%", r = "30%", bad = "80%", good = "0.5%" }
reorder = "5%"
duplicate = "2%"
corrupt = "1%"'
profile plain 'rate = "20mbit"
queue = "100ms"'
profile slow 'rate = "10mbit"
queue = "20s"
delay = "100ms"'
profile fast 'rate = "10mbit"
queue = "20s"
delay = "10ms"'
profile uniform 'rate = "20mbit"
queue = "100ms"
delay = "200ms"
jitter = "100ms"'
profile pareto 'rate = "20mbit"
queue = "100ms"
delay = "200ms"
jitter = "100ms"
distribution = "pareto"'

options() { tc -j qdisc show dev "twl-a-$1" | jq -c '.[] | select(.kind == "netem") | .options | del(.seed)'; }

echo "== nothing of the old profile stays"
link set a "$WORK/everything.toml" >/dev/null
options down
for key in loss-gemodel reorder duplicate corrupt delay; do
    expect "$key is in force" "$(options down | jq -c --arg k "$key" '.[$k] != null')" = true
done
link set a "$WORK/plain.toml" >/dev/null
options down
expect "netem's options after the change" "$(options down | jq -c 'keys - ["ecn", "gap", "limit", "rate"]')" = '[]'
expect "netem's gap after the change" "$(options down | jq .gap)" -eq 0
expect "netem's limit after the change" "$(options down | jq .limit)" -eq 166
expect "tbf's rate after the change" "$(tc -j qdisc show dev twl-a-down | jq '.[0].options.rate')" -eq 2500000
read -r rtt _ <<<"$(traffic rtt "${server[a]}" 11)"
# It was 40 before; a virtual machine adds some of its own.
expect "idle round trip in ms after the change" "$rtt" -le 20

echo "== a uniform jitter takes the place of another distribution"
link set a "$WORK/pareto.toml" >/dev/null
link set a "$WORK/uniform.toml" >/dev/null
read -r median least most <<<"$(traffic rtt "${server[a]}" 21)"
# Twice 200 ± 100 ms; one in ten of the pareto table's values is beyond 300 each way.
expect "median round trip in ms" "$median" -ge 300
expect "median round trip in ms" "$median" -le 500
expect "least round trip in ms" "$least" -ge 200
expect "greatest round trip in ms" "$most" -le 620

echo "== a live drop of the delay keeps what is queued, and its order"
link set a "$WORK/slow.toml" >/dev/null
dropped=$(shown a down .counters.dropped_queue)
in_server a "$PYTHON" "$ROOT/tests/link-traffic.py" count "$CLIENT" 9.5 4000 >"$WORK/count" &
counting=$!
changes=0
while kill -0 "$counting" 2>/dev/null && [ "$changes" -lt 6 ]; do
    for each in fast slow; do
        link set a "$WORK/$each.toml" >/dev/null
        changes=$((changes + 1))
    done
done
wait "$counting"
expect "changes meanwhile" "$changes" -ge 1
read -r came overtaken <"$WORK/count"
expect "datagrams that came of 4000" "$came" -eq 4000
expect "datagrams that overtook" "$overtaken" -eq 0
expect "drops" "$(shown a down .counters.dropped_queue)" -eq "$dropped"

echo "== reordering where it is asked for, and jitter without it keeps the order"
profile jittery 'rate = "20mbit"
queue = "20s"
delay = "20ms"
jitter = "10ms"'
profile reordering 'rate = "20mbit"
queue = "20s"
delay = "20ms"
reorder = "5%"'
for each in jittery reordering; do
    link set a "$WORK/$each.toml" >/dev/null
    in_server a "$PYTHON" "$ROOT/tests/link-traffic.py" count "$CLIENT" 8 1000 >"$WORK/count"
    read -r came overtaken <"$WORK/count"
    expect "$each: datagrams that came of 1000" "$came" -eq 1000
    [ "$each" = jittery ] || break
    expect "$each: datagrams that overtook" "$overtaken" -eq 0
done
expect "reordering: datagrams that were overtaken" "$overtaken" -ge 25
