#!/usr/bin/env bash
# What runs leave in their logs: a trace's steps when they were planned, on both backends; links that were
# measured first; a shared channel; a fault; each line as the published schema says. And what a person at
# a terminal sees instead.
. "$(dirname "$0")/../lib.sh"
if [ -z "${TWINLINK_NS_CLIENT:-}" ]; then
    needs_root
    needs_binary
    # Built outside, where cargo finds what it needs.
    schema_test=$(cd "$ROOT" && cargo test --quiet --locked --test loopback --no-run --message-format=json |
        jq -r 'select(.executable != null and .target.name == "loopback") | .executable')
    export SCHEMA_TEST=$schema_test
fi
. "$(dirname "$0")/../link-lib.sh"

"$TWINLINK_BIN" segments "$WORK/data" --count 40 --mean-size 200KB --seed 1 >/dev/null
start_servers "$WORK/data"
logs=$WORK/logs
mkdir "$logs"
client() { # NAME OPTIONS...
    "$TWINLINK_BIN" client --log "$logs/$1.jsonl" "${@:2}" "${server[a]}" "${server[b]}" >"$WORK/$1.out" 2>&1 ||
        fail "$1: $(tail -n 3 "$WORK/$1.out")"
}

printf 'time,rate\n0,20mbit\n0.5,6mbit\n1.2,16mbit\n' >"$WORK/three.csv"
printf 'description = "three steps"\n[down]\n%s[up]\n%s[trace]\nfile = "three.csv"\nloop = false\n' \
    $'rate = "20mbit"\nqueue = "100ms"\n' $'rate = "20mbit"\nqueue = "100ms"\n' >"$WORK/three.toml"
for backend in userspace netem; do
    echo "== a trace on $backend"
    client "trace-$backend" --backend "$backend" --link-a "$WORK/three.toml" --link-b rate-20
    log=$logs/trace-$backend.jsonl
    steps=$(records link "$log" | jq -s -c '[.[] | select(.link == "a" and .direction == "down" and .action == "step")]')
    expect "steps that are logged, Mbit/s" "$(jq -c '[.[].asked.rate_kbit / 1000]' <<<"$steps")" = "[20,6,16]"
    expect "planned ms of the steps after the first" \
        "$(jq -c '.[0].planned_ms as $began | [.[].planned_ms - $began | round]' <<<"$steps")" = "[0,500,1200]"
    # A busy machine makes a step late, but the next one is planned 500 ms later.
    expect "the latest step, ms late" "$(jq '[.[].late_ms] | max' <<<"$steps")" -lt 500
    expect "rates in force in the samples, Mbit/s" \
        "$(records sample "$log" | jq -s -c '[.[] | select(.link == "a") | .down.rate_kbit / 1000] | unique')" = "[6,16,20]"
    expect "efficiency" "$(records run_end "$log" | jq .efficiency)" -le 1
    # Whatever holds the machine up makes the run longer, never shorter.
    expect "efficiency" "$(records run_end "$log" | jq .efficiency)" -ge 0.6
    expect "prediction over time" "$(records run_end "$log" | jq '.predicted_ms / .elapsed_ms')" -ge 0.6
    expect "prediction over time" "$(records run_end "$log" | jq '.predicted_ms / .elapsed_ms')" -le 1.05
done

echo "== measured first, lossy, and with a server that cannot be told what to send with"
client probed --probe warn --link-a wifi-mid --link-b lte-medium --files 's{001..010}.m4s'
# TCP need not keep a lossy link busy; then the probe says that it knows no rate.
expect "probes with a goodput, and a rate or why there is none" "$(records probe "$logs/probed.jsonl" |
    jq -s -c 'map(.goodput_kbit > 0 and (.rate_kbit > 0 or (.verdict | contains("its rate is not known")))) | unique')" = "[true]"
client channel --channel course-scenario-1-mid --files 's{001..010}.m4s'
expect "stations on the channel" "$(records sample "$logs/channel.jsonl" | jq -s '[.[].air // [] | .[].station] | unique | length')" -ge 2
"$PYTHON" -m http.server 4480 --bind "$CLIENT" --directory "$WORK/data" >"$WORK/python.log" 2>&1 &
at_exit "kill $!"
eventually 20 curl -sf -o /dev/null "http://$CLIENT:4480/SHA256SUMS"
"$TWINLINK_BIN" client --log "$logs/other.jsonl" --congestion reno --files 's{001..004}.m4s' "${server[a]}" "$CLIENT:4480" >"$WORK/other.out"
expect "faults about a server that takes no congestion control" "$(records fault "$logs/other.jsonl" | grep -c 'cannot be told')" -eq 1

echo "== the published schema"
LOGS=$logs "$SCHEMA_TEST" --ignored --exact client::logs_of_a_lab_are_what_the_published_schema_says | tee "$WORK/schema.out"
grep -q '1 passed' "$WORK/schema.out" || fail "the schema was not tried"

echo "== at a terminal"
# A terminal that can move its cursor, whatever this machine takes itself for.
TERM=xterm script -qec "$TWINLINK_BIN client --link-a rate-20 --link-b wifi-near --backend userspace ${server[a]} ${server[b]}" "$WORK/screen" >/dev/null </dev/null
seen=$(tr '\r' '\n' <"$WORK/screen" | sed 's/\x1b\[[0-9;?]*[A-Za-z]//g')
for words in 'link a: rate-20, carried by userspace: ' 'link b: wifi-near, carried by userspace: ' \
    "a ${server[a]} (rate-20) .*files" "b ${server[b]} (wifi-near) .*files" 'goodput Mbit/s' 'adaptive fetched 40 files'; do
    grep -q "$words" <<<"$seen" || fail "a terminal does not show '$words': $seen"
    echo "shown: $(grep -m 1 "$words" <<<"$seen")"
done
expect "JSON lines on a terminal" "$(grep -c '^{' <<<"$seen" || true)" -eq 0
