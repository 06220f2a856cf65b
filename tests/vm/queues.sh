#!/usr/bin/env bash
# The kernel's own codel and fq_codel below netem: a short queue beside a connection that fills the link, marks in place
# of drops where ECN is asked for, and changes from one to the other.
. "$(dirname "$0")/../lib.sh"
. "$(dirname "$0")/../link-lib.sh"

modprobe -a sch_netem sch_codel sch_fq_codel 2>/dev/null || true
"$TWINLINK_BIN" segments "$WORK/data" --count 200 --mean-size 500KB --seed 1 >/dev/null
start_servers "$WORK/data"
start_sinks

profile() { # NAME QUEUE
    printf 'description = "test"\n[down]\nrate = "20mbit"\ndelay = "20ms"\nqueue = %s\n[up]\nrate = "20mbit"\nqueue = "200ms"\n' "$2" >"$WORK/$1.toml"
}
profile fifo '"200ms"'
profile codel '{ kind = "codel", limit = "200ms" }'
profile fq_codel '{ kind = "fq_codel", limit = "200ms" }'
profile marks '{ kind = "fq_codel", limit = "200ms", ecn = true }'

managed() { tc -s -j qdisc show dev twl-a-down | jq -c '.[] | select(.parent == "10:1")'; }

# loaded NAME: a run over both links; the median of handshakes beside it, once slow start is over, in ms, is then in $rtt.
loaded() {
    local run
    "$TWINLINK_BIN" client --backend netem --link-a "$WORK/$1.toml" --link-b "$WORK/$1.toml" --schedule ratio=1:1 \
        --congestion reno --log "$WORK/$1.jsonl" server-a server-b >"$WORK/$1.out" 2>&1 &
    run=$!
    eventually 60 bash -c "records sample '$WORK/$1.jsonl' | jq -es 'any(.[]; .link == \"a\" and .bytes > 4000000)'"
    read -r rtt _ <<<"$(traffic rtt "${server[a]}" 20)"
    managed >"$WORK/$1.qdisc"
    wait "$run" || fail "$1: $(tail -n 2 "$WORK/$1.out")"
    echo "$1: handshakes beside it $rtt ms; $(cat "$WORK/$1.qdisc")"
}
export -f records

loaded fifo
fifo=$rtt
expect "a fifo's handshakes, ms" "$fifo" -gt 50
loaded codel
expect "codel's handshakes, ms" "$rtt" -lt "$(jq -n "$fifo / 2")"
expect "codel's drops" "$(jq .drops "$WORK/codel.qdisc")" -gt 0
loaded fq_codel
expect "fq_codel's handshakes, ms" "$rtt" -lt "$(jq -n "$fifo / 2")"
expect "drops that the log has" "$(records sample "$WORK/fq_codel.jsonl" | jq -s 'map(select(.link == "a")) | last.down.dropped_queue')" -gt 0
echo 1 >/proc/sys/net/ipv4/tcp_ecn
loaded marks
expect "marks" "$(jq .ecn_mark "$WORK/marks.qdisc")" -gt 0
expect "marks that the log has" "$(records sample "$WORK/marks.jsonl" | jq -s 'map(select(.link == "a")) | last.down.marked')" -gt 0
expect "drops beside marks" "$(jq .drops "$WORK/marks.qdisc")" -eq 0

own_links --backend netem --link-a "$WORK/fifo.toml"
for kind in codel fq_codel codel fifo; do
    link set a "$WORK/$kind.toml" >/dev/null
    expect "the queue below netem" "$(managed | jq -r .kind)" = "${kind/fifo/}"
    traffic rtt "${server[a]}" 1 >/dev/null
done
