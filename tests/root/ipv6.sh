#!/usr/bin/env bash
# IPv6 servers are shaped as IPv4 ones are, each way and by both backends: what the links carry is
# measured, and a run over them agrees with its shaper's counters.
. "$(dirname "$0")/../lib.sh"
[ -e /proc/net/if_inet6 ] || cannot_run "this kernel has no IPv6"
. "$(dirname "$0")/../link-lib.sh"

"$TWINLINK_BIN" segments "$WORK/data" --count 12 --mean-size 500KB --seed 1 >/dev/null
start_servers "$WORK/data"
cat >"$WORK/uneven.toml" <<'END'
description = "each way its own rate"
[down]
rate = "30mbit"
queue = "100ms"
[up]
rate = "6mbit"
queue = "100ms"
END

measured() { # WHAT MBITS OPTIONS...: all four directions are what their profiles say, each its own
    link probe --json "${@:3}" server-a6 server-b6 >"$WORK/probe" || fail "$1: $(jq -c 'map(.verdict)' "$WORK/probe")"
    expect "$1: directions that are what their profiles say" "$(jq '[.[] | select(.ok)] | length' "$WORK/probe")" -eq 4
    expect "$1: Mbit/s that each was held to" "$(jq -c 'map(.rate_expected_kbit / 1e3)' "$WORK/probe")" = "$2"
}
measured "the kernel's tbf" "[30,6,20,20]" --link-a "$WORK/uneven.toml" --link-b rate-20
measured "userspace" "[5,1,30,6]" --backend userspace --link-a cable --link-b "$WORK/uneven.toml"

for backend in auto userspace; do
    "$TWINLINK_BIN" client --backend "$backend" --link-a "$WORK/uneven.toml" --link-b rate-20 \
        --log "$WORK/$backend.jsonl" server-a6 server-b6 >"$WORK/out" 2>&1 || fail "$backend: $(tail -n 2 "$WORK/out")"
    expect "$backend: exit" "$(records run_end "$WORK/$backend.jsonl" | jq -r .exit)" = ok
    expect "$backend: bytes that agree" "$(records run_end "$WORK/$backend.jsonl" | jq -c '[.links[].reconciled.ok]')" = "[true,true]"
    expect "$backend: efficiency" "$(records run_end "$WORK/$backend.jsonl" | jq .efficiency)" -le 1
    expect "$backend: efficiency" "$(records run_end "$WORK/$backend.jsonl" | jq .efficiency)" -ge 0.8
done

echo "== one server of each kind"
"$TWINLINK_BIN" client --link-a rate-20 --link-b rate-20 --log "$WORK/mixed.jsonl" server-a6 server-b >"$WORK/out" 2>&1
expect "both kinds: bytes that agree" "$(records run_end "$WORK/mixed.jsonl" | jq -c '[.links[].reconciled.ok]')" = "[true,true]"
