#!/usr/bin/env bash
# Compares two builds in one run, so that what else the machine does falls on both alike: BEFORE, a path, and
# TWINLINK_BIN. In each round both do the same jobs, each with servers of its own build, in turn: the main job
# over links of 80 and 20 Mbit/s, and raw transfers over links that nothing shapes. Prints the medians and the
# median of the rounds' ratios, after over before; below 1 is faster. Needs root.
#
#   benches/paired.sh BEFORE [--rounds N]      5 rounds unless given
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# The lab's servers are for nobody: each build has its own, on a port of its own.
program() { if [ "$1" = before ]; then echo "$BEFORE"; else echo "$TWINLINK_BIN"; fi; }
port() { if [ "$1" = before ]; then echo "$((4400 + $2))"; else echo "$((4500 + $2))"; fi; }

start_servers() {
    local build letter namespace
    for build in before after; do
        for letter in a b; do
            namespace=TWINLINK_NS_${letter^^}
            ip netns exec "${!namespace}" "$(program $build)" server --data "$MEMORY/small" \
                --listen "0.0.0.0:$(port $build 1)" >/dev/null 2>&1 &
            ip netns exec "${!namespace}" "$(program $build)" server --data "$MEMORY/large" \
                --listen "0.0.0.0:$(port $build 2)" >/dev/null 2>&1 &
            for set in 1 2; do
                until (exec 3<>"/dev/tcp/server-$letter/$(port $build $set)") 2>/dev/null; do sleep 0.05; done
            done
        done
    done
}

one() { # ROUND JOB SET OPTIONS...
    local round=$1 job=$2 set=$3 build builds=(before after)
    shift 3
    [ $((round % 2)) -eq 0 ] || builds=(after before)
    for build in "${builds[@]}"; do
        rm -rf "$BENCH/log.jsonl" "$MEMORY/files"
        "$(program "$build")" client "$@" --out "$MEMORY/files" --log "$BENCH/log.jsonl" \
            "server-a:$(port "$build" "$set")" "server-b:$(port "$build" "$set")" >"$BENCH/output" 2>&1 </dev/null ||
            die "$job of $build failed: $(tail -n 3 "$BENCH/output")"
        jq -r --arg row "$job,$round,$build" \
            'select(.event == "run_end") | $row + "," + (.data.elapsed_ms | tostring)' "$BENCH/log.jsonl" >>"$BENCH/times.csv"
    done
}

if [ "${1:-}" = inside ]; then
    start_servers
    for ((round = 0; round <= $2; round++)); do
        one "$round" "main job, adaptive" 1 --link-a rate-80 --link-b rate-20
        one "$round" "main job, greedy" 1 --schedule greedy --link-a rate-80 --link-b rate-20
        one "$round" "main job, ratio=4:1" 1 --schedule ratio=4:1 --link-a rate-80 --link-b rate-20
        one "$round" "raw, adaptive" 2
        one "$round" "raw, greedy --no-verify" 2 --schedule greedy --no-verify
        one "$round" "unshaped, 500 KB" 1
    done
    exit
fi

if [ $# -lt 1 ] || [ ! -x "$1" ]; then die "usage: paired.sh BEFORE [--rounds N], BEFORE being an older build of twinlink"; fi
BEFORE=$(realpath "$1")
rounds_of "${@:2}"
start_bench jq python3
MEMORY=$(mktemp -d /dev/shm/twinlink-paired.XXXXXX)
trap 'rm -rf "$MEMORY"' EXIT
export BEFORE MEMORY
"$TWINLINK_BIN" segments "$MEMORY/small" >/dev/null
"$TWINLINK_BIN" segments "$MEMORY/large" --mean-size 6MB >/dev/null
"$ROOT/netem/lab.sh" --servers none --exec bash "$SELF" inside "$rounds"
python3 - "$BENCH/times.csv" <<'PY'
import collections, csv, re, statistics, sys

times = collections.defaultdict(dict)
for line in open(sys.argv[1]):
    job, round, build, elapsed = re.fullmatch(r"(.*),(\d+),(\w+),([\d.]+)", line.strip()).groups()
    # Round 0 warms up.
    if round != "0":
        times[job].setdefault(int(round), {})[build] = float(elapsed)
print("| job | before, s | after, s | after / before | range |")
print("|---|---|---|---|---|")
for job, rounds in times.items():
    ratios = [round["after"] / round["before"] for round in rounds.values()]
    before, after = (statistics.median(round[build] for round in rounds.values()) / 1e3 for build in ("before", "after"))
    print(f"| {job} | {before:.3f} | {after:.3f} | {statistics.median(ratios):.3f} | {min(ratios):.3f}–{max(ratios):.3f} |")
PY
