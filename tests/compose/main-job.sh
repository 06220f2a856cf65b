#!/usr/bin/env bash
# `docker compose up --exit-code-from client` for real, as a newcomer types it, in a fresh copy of
# the tree that belongs to uid 1000: the results, whose they are, what the containers print, a
# second run with other settings and a profile that the image never saw, a shared channel, a script,
# and that nothing is left behind.
. "$(dirname "$0")/lib.sh"
at_exit "compose down -v --remove-orphans --timeout 5 >/dev/null 2>&1"

echo "== the first run"
# It builds the image too.
flock 9
up first
flock -u 9
first=$(find results -mindepth 1 -maxdepth 1 -type d)
expect "results after the first run" "$(wc -l <<<"$first")" -eq 1
check_run first "$first/log.jsonl"
check_pace first "$first/log.jsonl" 74.7
expect "profile of link a names wifi-near" "$(profile_of a "$first/log.jsonl" | grep -c wifi-near)" -eq 1
expect "profile of link b names lte-medium" "$(profile_of b "$first/log.jsonl" | grep -c lte-medium)" -eq 1
expect "backends that say why" "$(records link "$first/log.jsonl" | jq -s "map(select((.backend == \"netem\" or .backend == \"userspace\") and .why != \"\")) | length")" -eq 4
expect "results that do not belong to uid 1000" "$(find results ! -uid 1000 -o ! -gid 1000)" = ""
grep -q '</html>' "$first/report.html" || fail "no report beside the log"
for service in server-a server-b client; do
    container=$(compose ps -a -q "$service")
    printed_by "$service"
    all_json_objects "what $service printed" "$WORK/$service.log"
    expect "exit code of $service" "$(docker inspect -f '{{.State.ExitCode}}' "$container")" -eq 0
done
expect "samples on the client's stdout" "$(jq -r '.event? // empty' "$WORK/client.log" | grep -c '^sample$' || true)" -eq 0
expect "records of the client that do not begin with a sentence" "$(grep '"event":' "$WORK/client.log" | grep -vc '^{"say":"' || true)" -eq 0
page=$(jq -r 'select(.event? == "run_end").say' "$WORK/client.log" | sed 's/.*The page: //')
expect "the page that the last line names" "$(test -f "$page" && echo there)" = there
expect "lines of the servers in what up printed" "$(grep -c '^server-[ab]' "$WORK/first.log" || true)" -eq 0
expect "containers of the lab" "$(compose ps -a --services | sort | xargs)" = "client server-a server-b"
networks=$(docker network ls -q --filter "label=com.docker.compose.project=$project")
expect "isolated networks of the lab" "$(docker network inspect -f '{{.Internal}}' "$networks")" = true

echo "== a second run, with a profile that the image never saw"
cat >netem/profiles/own.toml <<'TOML'
description = "a user's own"
[down]
rate = "60mbit"
queue = "100ms"
[up]
rate = "60mbit"
queue = "100ms"
TOML
newer() { find results -mindepth 1 -maxdepth 1 -type d -newer "$WORK/$1.log"; }
TWINLINK_LINK_A=own TWINLINK_LINK_B=rate-20 TWINLINK_SCHEDULE=ratio=3:1 up second
second=$(newer first)
expect "new results after the second run" "$(wc -l <<<"$second")" -eq 1
check_run second "$second/log.jsonl"
check_pace second "$second/log.jsonl" 80
expect "profile of link a names own" "$(profile_of a "$second/log.jsonl" | grep -c own)" -eq 1
expect "schedule in run_start names 3:1" "$(records run_start "$second/log.jsonl" | grep -c '3:1')" -eq 1
expect "segments from a at 3:1" "$(records segment "$second/log.jsonl" | jq -s 'map(select(.link == "a")) | length')" -eq 120
compose run --rm -T client link list --json >"$WORK/list" 2>"$WORK/list.err" </dev/null || fail "link list: $(tail -n 5 "$WORK/list.err")"
expect "rate of the profile added after the build" "$(jq -r '.[] | select(.name == "own") | .profile.down.rate // empty' "$WORK/list")" != ""

echo "== both links on one channel, and a script"
TWINLINK_LINK_A='' TWINLINK_LINK_B='' TWINLINK_CHANNEL=course-scenario-1-mid TWINLINK_FILES='s{001..020}.m4s' up channel
log=$(newer second)/log.jsonl
expect "channel: files" "$(records run_end "$log" | jq .files)" -eq 20
expect "channel: stations with a share of the channel" "$(records sample "$log" | jq -s '[.[].air // [] | .[].station] | unique | length')" -ge 2
TWINLINK_SCRIPT=netem/scripts/walk.toml TWINLINK_PROBE=off up script
log=$(newer channel)/log.jsonl
check_run script "$log"
expect "script: profiles of link a, in order" "$(records link "$log" | jq -r 'select(.link == "a" and .direction == "down") | .profile' | xargs)" = \
    "wifi-near wifi-mid wifi-far wifi-mid"
expect "script: predicted within a tenth" "$(records run_end "$log" | jq '(.predicted_ms / .elapsed_ms - 1) | fabs < 0.1')" = true

echo "== nothing is left"
ends compose
