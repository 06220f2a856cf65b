#!/usr/bin/env bash
# The quick course sweep as a newcomer types it, in a fresh copy of the tree that belongs to uid 1000:
# `docker compose run --rm client sweep experiments/course-quick.toml`. Its cells, its records, whose
# the results are, that each line printed is JSON, and that nothing is left behind.
. "$(dirname "$0")/lib.sh"
at_exit "compose down -v --remove-orphans --timeout 5 >/dev/null 2>&1"

build

sweep() { # NAME ARGS...: stdout and stderr are kept apart, as compose keeps them without a terminal
    local name=$1 code=0
    shift
    timeout 300 docker compose --ansi never --progress quiet -p "$project" run --rm -T client sweep "$@" \
        >"$WORK/$name.out" 2>"$WORK/$name.err" </dev/null || code=$?
    [ "$code" -eq 0 ] || tail -n 20 "$WORK/$name.out" "$WORK/$name.err"
    expect "$name: exit code" "$code" -eq 0
}

echo "== a dry run of a whole scenario"
sweep dry experiments/course-scenario-1.toml --dry-run
expect "runs that it lists" "$(grep -c 'near\|mid\|far' "$WORK/dry.out")" -eq 780
expect "results of a dry run" "$(find results -mindepth 1 ! -name .gitkeep)" = ""

echo "== the quick sweep"
began=$SECONDS
sweep quick experiments/course-quick.toml
echo "took $((SECONDS - began)) s"
results=$(find results -mindepth 1 -maxdepth 1 -type d)
expect "folders of results" "$(wc -l <<<"$results")" -eq 1
log=$results/sweep.jsonl
# On stdout each record has its sentence too.
cmp <(jq -c . "$log") <(jq -c 'del(.say)' "$WORK/quick.out")
expect "records on stdout without a sentence" "$(jq -s 'map(select(.say == null)) | length' "$WORK/quick.out")" -eq 0
expect "lines that are no JSON object" "$(jq -R -r 'select((try (fromjson | type) catch "") != "object")' "$log" | wc -l)" -eq 0
expect "the end" "$(tail -n 1 "$log" | jq -r '[.event, .data.exit] | join(" ")')" = "sweep_end ok"
expect "cells" "$(records cell_end "$log" | jq -s 'map(select(.exit == "ok")) | length')" -eq 8
expect "logs of cells" "$(find "$results/runs" -name log.jsonl | wc -l)" -eq 8
for run in "$results"/runs/*/log.jsonl; do
    [ "$(records run_end "$run" | jq -c '[.exit, .files, (.wasted_bytes <= 0.02 * .bytes), (.efficiency <= 1)]')" = '["ok",20,true,true]' ] ||
        fail "$run: $(records run_end "$run")"
    [ "$(records segment "$run" | jq -s 'map(select(.digest_ok)) | length')" -eq 20 ] || fail "$run: not all is verified"
    [ "$(records probe "$run" | jq -s 'map(select(.rate_kbit and .rtt_ms)) | length')" -eq 4 ] ||
        fail "$run: $(records probe "$run")"
    [ "$(records fault "$run" | jq -s 'map(select(.what | test("late") | not)) | length')" -eq 0 ] || fail "$run: $(records fault "$run")"
done
expect "conditions measured" "$(records throughput "$log" | jq -r .channel | sort | xargs)" = "independent shared"
expect "the report's summary" "$(jq -r type "$results/summary.json")" = object
expect "results that do not belong to uid 1000" "$(find results ! -uid 1000 -o ! -gid 1000)" = ""

echo "== nothing is left"
ends compose
