#!/usr/bin/env bash
# Runs many short transfers on lossy links with nothing else wrong, and reports every one that did not end
# `ok`: 20 segments of 100 KB over the same profile on both links, with another seed for each run. Several
# labs of network namespaces work side by side, since the links are slow and the processors are not. Prints
# for each profile and schedule the runs, the failures, median and slowest time, and the worst ratio to the
# bound; every row and the logs of failures and of the slowest runs stay under target/bench/. Exits 1 when a
# run failed. Needs root. TWINLINK_BIN names the program.
#
#   benches/fault-free.sh [--runs N] [--labs N] [--minutes N] [--profiles LIST] [--schedules LIST]
#
# 500 runs for each profile and schedule, 4 labs and 60 minutes unless given; runs that were not begun by
# then are counted as not run.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Runs every LABS-th job, from the one numbered LAB on, until the time is over.
work() { # LAB
    local number=0 profile schedule seed log row
    while read -r seed profile schedule; do
        number=$((number + 1))
        [ $((number % LABS)) -eq "$1" ] || continue
        [ "$(date +%s)" -lt "$END" ] || return 0
        log=$BENCH/$profile-$schedule-$seed.jsonl
        timeout -k 5 90 "$TWINLINK_BIN" client --schedule "$schedule" --link-a "$profile" --link-b "$profile" \
            --seed "$seed" --log "$log" server-a server-b >/dev/null 2>"$BENCH/words-$1" </dev/null || true
        row=$(jq -r 'select(.event == "run_end") | .data | [.exit, .elapsed_ms, .bound_ms] | @csv' "$log" 2>/dev/null | tr -d '"')
        echo "$profile,$schedule,$seed,${row:-no_end,,}" >>"$BENCH/rows-$1.csv"
        case $row in
        ok,*) awk -F, -v row="$row" 'BEGIN { split(row, v, ","); exit !(v[2] > 3 * v[3]) }' || rm -f "$log" ;;
        *) cp "$BENCH/words-$1" "${log%.jsonl}.words" ;;
        esac
    done <"$BENCH/jobs"
}

if [ "${1:-}" = inside ]; then
    work "$2"
    exit
fi

runs=500 LABS=4 minutes=60 profiles="wifi-mid wifi-far" schedules="ratio=1:1 greedy adaptive inorder"
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || die "$1 needs a value"
    case $1 in
    --runs) runs=$2 ;;
    --labs) LABS=$2 ;;
    --minutes) minutes=$2 ;;
    --profiles) profiles=$2 ;;
    --schedules) schedules=$2 ;;
    *) die "unknown option $1; usage: fault-free.sh [--runs N] [--labs N] [--minutes N] [--profiles LIST] [--schedules LIST]" ;;
    esac
    shift 2
done
start_bench jq python3
END=$(($(date +%s) + minutes * 60))
export LABS END
"$TWINLINK_BIN" segments "$BENCH/data" --count 20 --mean-size 100KB >/dev/null
chmod 755 "$BENCH/data"
for ((seed = 1; seed <= runs; seed++)); do
    for profile in $profiles; do for schedule in $schedules; do echo "$seed $profile $schedule"; done; done
done >"$BENCH/jobs"

labs=()
for ((lab = 0; lab < LABS; lab++)); do
    "$ROOT/netem/lab.sh" --data "$BENCH/data" --exec bash "$SELF" inside "$lab" >"$BENCH/lab-$lab.out" 2>&1 &
    labs+=($!)
done
trap 'kill "${labs[@]}" 2>/dev/null || true' INT TERM
broken=0
for lab in "${labs[@]}"; do wait "$lab" || broken=1; done
[ "$broken" -eq 0 ] || die "a lab failed: $(tail -n 3 "$BENCH"/lab-*.out)"

cat "$BENCH"/rows-*.csv >"$BENCH/rows.csv"
python3 - "$BENCH/rows.csv" "$(wc -l <"$BENCH/jobs")" <<'PY'
import csv, statistics, sys

rows = list(csv.reader(open(sys.argv[1])))
cells = {}
for profile, schedule, seed, exit, elapsed, bound in rows:
    cells.setdefault((profile, schedule), []).append((exit, float(elapsed or 0), float(bound or 0), int(seed)))
print("| profile | schedule | runs | not ok | median, s | slowest, s | seed | over the bound, median | worst |")
print("|---|---|---|---|---|---|---|---|---|")
bad = []
for (profile, schedule), runs in sorted(cells.items()):
    good = [run for run in runs if run[0] == "ok"]
    bad += [(profile, schedule, run[3], run[0]) for run in runs if run[0] != "ok"]
    if not good:
        print(f"| {profile} | {schedule} | {len(runs)} | {len(runs)} | – | – | – | – | – |")
        continue
    slowest = max(good, key=lambda run: run[1])
    ratios = [elapsed / bound for _, elapsed, bound, _ in good if bound > 0] or [float("nan")]
    print(
        f"| {profile} | {schedule} | {len(runs)} | {len(runs) - len(good)}"
        f" | {statistics.median(run[1] for run in good) / 1e3:.2f} | {slowest[1] / 1e3:.2f} | {slowest[3]}"
        f" | {statistics.median(ratios):.2f} | {max(ratios):.2f} |"
    )
for profile, schedule, seed, exit in bad:
    print(f"not ok: {profile} {schedule} seed {seed}: {exit}")
print(f"{len(rows)} of {sys.argv[2]} runs, {len(bad)} not ok")
sys.exit(1 if bad or len(rows) < int(sys.argv[2]) else 0)
PY
