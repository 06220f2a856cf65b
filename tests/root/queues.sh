#!/usr/bin/env bash
# What queues do to real packets: beside a connection that fills the link, others meet the whole of a fifo, a
# short queue under CoDel, and none under fq_codel; and packets of senders that ask for ECN are marked, not dropped.
# Runs alone: it measures round trips.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/../link-lib.sh"

"$TWINLINK_BIN" segments "$WORK/data" --count 80 --mean-size 500KB --seed 1 >/dev/null
start_servers "$WORK/data"
start_sinks

declare -A queue=(
    [fifo]='"200ms"'
    [codel]='{ kind = "codel", limit = "200ms" }'
    [fq_codel]='{ kind = "fq_codel", limit = "200ms" }'
    [marks]='{ kind = "fq_codel", limit = "200ms", ecn = true }'
)
for kind in "${!queue[@]}"; do
    cat >"$WORK/$kind.toml" <<END2
description = "20 Mbit/s and 20 ms there and back"
[down]
rate = "20mbit"
delay = "10ms"
queue = ${queue[$kind]}
[up]
rate = "20mbit"
delay = "10ms"
queue = "200ms"
END2
done

# loaded NAME PROFILE OPTIONS...: a run over both links, with handshakes beside it on the link a; their median is in
# $WORK/NAME.rtt, and the run's samples of that link, while it was busy, in $WORK/NAME.samples.
loaded() {
    local run
    "$TWINLINK_BIN" client --backend userspace --link-a "$WORK/$2.toml" --link-b "$WORK/$2.toml" --schedule ratio=1:1 \
        --congestion reno --log "$WORK/$1.jsonl" "${@:3}" >"$WORK/$1.out" 2>&1 &
    run=$!
    eventually 60 bash -c "records sample '$WORK/$1.jsonl' | jq -es 'any(.[]; .down.queue_ms > 60)'"
    traffic rtt "${server[a]}" 20 >"$WORK/$1.rtt"
    wait "$run" || fail "$1: $(tail -n 2 "$WORK/$1.out")"
    records sample "$WORK/$1.jsonl" | jq -c 'select(.link == "a" and .goodput_kbit > 15000)' >"$WORK/$1.samples"
    expect "$1: samples of a busy link" "$(wc -l <"$WORK/$1.samples")" -ge 10
}
export -f records
rtt_of() { awk '{ print $1 }' "$WORK/$1.rtt"; }
# What is held, with the delay line, which is 20 ms of a busy link.
queue_of() { jq -s 'map(.down.queue_ms) | sort | .[length / 2 | floor]' "$WORK/$1.samples"; }
last() { jq -s "last | $2" "$WORK/$1.samples"; }

for kind in fifo codel fq_codel; do
    loaded "$kind" "$kind" server-a server-b
    echo "$kind: median of what is held $(queue_of "$kind") ms, of handshakes beside it $(rtt_of "$kind") ms"
done
expect "held with codel, ms" "$(queue_of codel)" -lt "$(jq -n "$(queue_of fifo) / 2")"
expect "held with fq_codel, ms" "$(queue_of fq_codel)" -lt "$(jq -n "$(queue_of fifo) / 2")"
expect "handshakes beside a fifo, ms" "$(rtt_of fifo)" -gt 50
expect "handshakes beside fq_codel, ms" "$(rtt_of fq_codel)" -lt 25
expect "drops of fq_codel" "$(last fq_codel .down.dropped_queue)" -gt 0
expect "marks without ECN" "$(last fq_codel .down.marked)" -eq 0

echo 1 >/proc/sys/net/ipv4/tcp_ecn || cannot_run "this kernel lets nobody ask for ECN here"
addresses=("")
[ ! -e /proc/net/if_inet6 ] || addresses+=(6)
for of in "${addresses[@]}"; do
    name=IPv${of:-4}
    loaded "$name" marks "server-a$of" "server-b$of"
    expect "$name: packets marked" "$(last "$name" .down.marked)" -gt 0
    expect "$name: packets dropped" "$(last "$name" .down.dropped_queue)" -eq 0
    expect "$name: exit" "$(records run_end "$WORK/$name.jsonl" | jq -r .exit)" = ok
    expect "$name: held, ms" "$(queue_of "$name")" -lt "$(jq -n "$(queue_of fifo) / 2")"
done
