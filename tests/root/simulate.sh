#!/usr/bin/env bash
# What a simulation predicts of a run is what the lab then measures, within 3 %, where the links are
# steady; and `twinlink simulate` says beforehand what the run's last record says of itself. Whatever holds
# the machine up only adds to the time of a run, so one run may be longer, but not the median of all.
# Runs alone: it measures the time of runs.
. "$(dirname "$0")/../lib.sh"
needs_root
needs_binary

"$TWINLINK_BIN" segments "$WORK/data" --count 100 --mean-size 500KB >/dev/null

one() { # LOG LINK_A LINK_B SCHEDULE
    "$ROOT/netem/lab.sh" --data "$WORK/data" -- --link-a "$2" --link-b "$3" --schedule "$4" --log "$1" >"$WORK/out" 2>"$WORK/err" ||
        fail "the run ended badly: $(tail -n 3 "$WORK/err")"
}

check() { # LINK_A LINK_B SCHEDULE
    local log off before
    before=$("$TWINLINK_BIN" simulate --link-a "$1" --link-b "$2" --schedule "$3" --data "$WORK/data" --json | jq .elapsed_ms)
    log=$WORK/$1-$2-$3.jsonl
    one "$log" "$1" "$2" "$3"
    off=$(records run_end "$log" | jq '(.predicted_ms / .elapsed_ms - 1) * 100')
    records run_end "$log" | jq -r --arg what "$1 and $2, $3" '"\($what): predicted \(.predicted_ms | round) ms, measured \(.elapsed_ms | round) ms"'
    expect "$1 and $2, $3: predicted against measured, %" "$off" -ge -20
    expect "$1 and $2, $3: predicted against measured, %" "$off" -le 3
    echo "$off" >>"$WORK/off"
    # Beforehand the senders' congestion control is not known, which the run's own prediction uses.
    expect "$1 and $2, $3: simulated beforehand, ms" "$before" -ge "$(records run_end "$log" | jq '.predicted_ms * 0.97')"
    expect "$1 and $2, $3: simulated beforehand, ms" "$before" -le "$(records run_end "$log" | jq '.predicted_ms * 1.03')"
}

check rate-20 rate-80 ratio=1:4
check rate-20 rate-80 greedy
check rate-20 rate-80 rates=20000:80000
check rate-20 rate-80 adaptive
check wifi-near lte-medium greedy
check wifi-near lte-medium adaptive
check wifi-near lte-medium ratio=4:1
expect "median of all, predicted against measured, %" "$(jq -s 'sort | .[length / 2 | floor]' "$WORK/off")" -ge -3
