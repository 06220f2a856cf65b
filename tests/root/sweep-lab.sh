#!/usr/bin/env bash
# An experiment in network namespaces: links of every kind, set and cleared for each run; a sweep that
# is killed in the middle of a run goes on where it was; runs that fail are recorded, the others are
# done, and resuming repeats only those; Ctrl-C ends it with its records closed. What setting a cell up
# costs is printed.
. "$(dirname "$0")/../lib.sh"
needs_root
needs_binary

if [ -z "${TWINLINK_NS_CLIENT:-}" ]; then
    "$TWINLINK_BIN" segments "$WORK/data" --count 24 --mean-size 100KB >/dev/null
    code=0
    KEEP=$WORK "$ROOT/netem/lab.sh" --data "$WORK/data" --exec bash "$0" || code=$?
    exit "$code"
fi
cd "$WORK"

cat >links.toml <<'TOML'
repetitions = 2
probe = "off"
schedules = ["greedy", "ratio=1:2"]
throughput = "500ms"
[[condition]]
name = "wifi"
channel = "course-scenario-1-mid"
[[condition]]
name = "wifi"
channel = "course-scenario-1-mid"
independent = true
[[condition]]
name = "rates"
link_a = "rate-80"
link_b = { profile = "rate-20", rate = "30mbit" }
TOML

sweep() { timeout 120 "$TWINLINK_BIN" sweep "$@" --give-up 2s; }
cells() { records cell_end "$1" | jq -s 'length'; }
unshaped() { # WHAT: neither rules nor devices of a link are left
    expect "$1: rules" "$(iptables -t raw -S 2>/dev/null | grep -c TWINLINK || true)" -eq 0
    expect "$1: devices" "$(ip -o link show type ifb | wc -l)" -eq 0
}

echo "== every kind of link, one after another"
sweep links.toml --results kinds >kinds.out
log=$(echo kinds/*/sweep.jsonl)
# On stdout each record has its sentence too.
cmp <(jq -c . "$log") <(jq -c 'del(.say)' kinds.out)
expect "records on stdout without a sentence" "$(jq -s 'map(select(.say == null)) | length' kinds.out)" -eq 0
expect "cells" "$(cells "$log")" -eq 12
expect "cells that are not ok" "$(records cell_end "$log" | jq -s 'map(select(.exit != "ok")) | length')" -eq 0
expect "measurements" "$(records throughput "$log" | wc -l)" -eq 6
for end in $(records cell_end "$log" | jq -r '"\(.run):\(.cell.condition):\(.cell.channel)"'); do
    IFS=: read -r run condition channel <<<"$end"
    of=$(dirname "$log")/runs/$run/log.jsonl
    case $condition-$channel in
    wifi-shared) wanted=course-scenario-1-mid ;;
    wifi-independent) wanted="course-scenario-1-mid link b alone" ;;
    *) wanted="rate-20, rate 30mbit" ;;
    esac
    [ "$(records link "$of" | jq -r 'select(.link == "b" and .direction == "down") | .profile')" = "$wanted" ] ||
        fail "$of: link b is not $wanted"
    [ "$(records run_end "$of" | jq '[.exit == "ok", .files == 24, .efficiency <= 1] | all')" = true ] ||
        fail "$of: $(records run_end "$of")"
done
# On the shared channel the two together carry less than the sum of what each carries alone, and on
# channels of their own about as much.
share() { records throughput "$log" | jq -s "map(select(.condition == \"$1\" and .channel == \"$2\") |
    (.together_kbit.a + .together_kbit.b) / (.alone_kbit.a + .alone_kbit.b)) | add / length"; }
expect "together over alone, shared" "$(share wifi shared)" -lt 0.75
expect "together over alone, independent" "$(share wifi independent)" -gt 0.75
expect "together over alone, rates" "$(share rates independent)" -gt 0.75
setup=$(records cell_end "$log" | jq -s -c '[.[].setup_ms] | sort | {least: .[0], median: .[length / 2 | floor], most: .[-1]}')
echo "a cell beside its transfer, ms: $setup"
unshaped "after the experiment"

echo "== killed in the middle of a run"
"$TWINLINK_BIN" sweep links.toml --results killed >/dev/null &
pid=$!
at_exit "kill -KILL $pid 2>/dev/null || true"
in_a_run() { [ "$(cells killed/*/sweep.jsonl)" -ge 2 ] && [ "$(find killed/*/runs -mindepth 1 -maxdepth 1 | wc -l)" -gt "$(cells killed/*/sweep.jsonl)" ]; }
eventually 60 in_a_run
kill -KILL "$pid"
wait "$pid" || true
log=$(echo killed/*/sweep.jsonl)
before=$(cells "$log")
printf '{"schema":"twinlink/1","t_ns":12' >>"$log"
sweep links.toml --results killed --resume >resumed.out
expect "folders" "$(find killed -mindepth 1 -maxdepth 1 | wc -l)" -eq 1
expect "skipped" "$(records sweep_start resumed.out | jq .skipped)" -eq "$before"
expect "cells in all" "$(cells "$log")" -eq 12
expect "the same cell twice" "$(records cell_end "$log" | jq -s '[.[].cell.index] | unique | length')" -eq 12
expect "the end" "$(records sweep_end "$log" | jq -r .exit)" = ok
unshaped "after resuming"

echo "== a server that does not answer for a while"
server_b=$(ip netns pids "$TWINLINK_NS_B")
[ "$(wc -w <<<"$server_b")" -eq 1 ] || fail "these run beside server-b: $server_b"
sed 's/^throughput.*//; s/^repetitions.*/repetitions = 1/' links.toml >away.toml
kill -STOP "$server_b"
at_exit "kill -CONT $server_b 2>/dev/null || true"
code=0
sweep away.toml --results away >away.out 2>away.err || code=$?
expect "exit code" "$code" -eq 1
grep -q '6 of 6 runs of away failed' away.err || fail "the error does not say how many failed: $(cat away.err)"
expect "failed" "$(records sweep_end away.out | jq -c '[.exit, .failed]')" = '["failed",6]'
expect "reasons" "$(records cell_end away.out | jq -r .exit | sort -u | xargs)" = unreachable
kill -CONT "$server_b"
sweep away.toml --results away --resume >again.out
expect "skipped" "$(records sweep_start again.out | jq .skipped)" -eq 0
expect "done in the end" "$(records sweep_end again.out | jq -c '[.exit, .failed]')" = '["ok",0]'
unshaped "after the failures"

echo "== Ctrl-C"
"$TWINLINK_BIN" sweep links.toml --results stopped >stopped.out 2>stopped.err &
pid=$!
eventually 60 test -s stopped.out
kill -INT "$pid"
code=0
wait "$pid" || code=$?
expect "exit code" "$code" -eq 1
expect "the last record" "$(tail -n 1 stopped/*/sweep.jsonl | jq -r '[.event, .data.exit] | join(" ")')" = "sweep_end interrupted"
unshaped "after Ctrl-C"
