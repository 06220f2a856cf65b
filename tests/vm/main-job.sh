#!/usr/bin/env bash
# The main job over two netem links, wifi-mid and lte-medium: all files arrive, the idle round trip
# is the profiles', no link carries more than its rate or the run would beat its bound, and nothing
# stays shaped. The figures are printed; how fast a run is in a virtual machine depends on what
# else the machine does, so only what no machine may break is held: nothing beats the bound.
. "$(dirname "$0")/../lib.sh"
needs_root
needs_binary

run() { # SCHEDULE LOG FILES
    "$ROOT/netem/lab.sh" -- --backend netem --link-a wifi-mid --link-b lte-medium --schedule "$1" --log "$2" \
        --files "s{001..$3}.m4s" >"$WORK/out.jsonl"
    expect "$1: exit" "$(records run_end "$2" | jq -r .exit)" = ok
    expect "$1: files" "$(records run_end "$2" | jq .files)" -eq "$3"
    expect "$1: verified" "$(records segment "$2" | jq -s '[.[] | select(.digest_ok)] | length')" -eq "$3"
    expect "$1: directions on netem" "$(records link "$2" | jq -s '[.[] | select(.backend == "netem" and .action == "set")] | length')" -eq 4
    # Jitter never shortens the way below delay - jitter, and one sample is one draw of it.
    for link in a b; do
        records link "$2" | jq -s --arg link "$link" '[.[] | select(.link == $link) | .asked] |
            {low: (map(.delay_ms - .jitter_ms * 3) | add), high: (map(.delay_ms + .jitter_ms * 3) | add)}' >"$WORK/rtt.json"
        expect "$1: idle RTT of link $link in ms" "$(records run_start "$2" | jq ".servers.$link.rtt_ms")" -ge "$(jq .low "$WORK/rtt.json")"
        expect "$1: idle RTT of link $link in ms" "$(records run_start "$2" | jq ".servers.$link.rtt_ms")" -le "$(jq '.high + 25' "$WORK/rtt.json")"
        # For people: what the link carried in half of the samples.
        records sample "$2" | jq -s -r --arg link "$link" '[.[] | select(.link == $link and .down != null)] |
            "link \($link): \(.[0].down.rate_kbit) kbit/s asked, goodput p50 \(map(.goodput_kbit) | sort | .[length / 2 | floor] | floor) kbit/s, \(.[-1].down.dropped_queue) drops"'
    done
    expect "$1: efficiency" "$(records run_end "$2" | jq .efficiency)" -gt 0
    expect "$1: efficiency" "$(records run_end "$2" | jq .efficiency)" -le 1
    records run_end "$2" | jq -r .summary
}

run greedy "$WORK/greedy.jsonl" 080
run ratio=2:1 "$WORK/ratio.jsonl" 020
