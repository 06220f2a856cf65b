#!/usr/bin/env bash
# Links of the lab in containers are changed in the middle of a run, by the scripts of netem/; and a bad
# setting ends the run with its name.
. "$(dirname "$0")/lib.sh"
at_exit "compose down -v --remove-orphans --timeout 5 >/dev/null 2>&1"
build

echo "== a change in the middle of a run"
export COMPOSE_PROJECT_NAME=$project
# Slow enough that the run lasts until link b is cleared, on a busy machine too.
# One connection to each server, which no change may break.
export TWINLINK_LINK_A=3g TWINLINK_LINK_B=3g TWINLINK_CONNECTIONS=1
touch "$WORK/change.begun"
compose up -d --force-recreate client >"$WORK/change.up" 2>&1 || fail "cannot start: $(tail -n 5 "$WORK/change.up")"
newest() { find results -mindepth 1 -maxdepth 1 -type d -newer "$WORK/change.begun"; }
under_way() { grep -q '"event":"sample".*"bytes":[1-9][0-9][0-9][0-9]' "$(newest)/log.jsonl"; }
eventually 90 under_way
netem/set.sh a wifi-far >"$WORK/set.out"
expect "what show.sh shows of link a" "$(netem/show.sh | grep -c '^ *a .*wifi-far')" -eq 2
netem/set.sh a wifi-near >"$WORK/set.out"
# Last, since over a link that nothing holds back the run is over at once.
netem/clear.sh b >"$WORK/clear.out"
timeout 120 docker wait "$(compose ps -a -q client)" >"$WORK/code"
expect "exit code of the client" "$(cat "$WORK/code")" -eq 0
log=$(newest)/log.jsonl
check_run change "$log"
# Whether they were content depends on how busy the machine is; the run goes on in any case.
expect "probes" "$(records probe "$log" | wc -l)" -eq 4
expect "what happened to the links, down" \
    "$(records link "$log" | jq -r 'select(.direction == "down") | [.link, .action, .profile // "-"] | join(" ")' | tr '\n' ',')" = \
    "a set 3g,b set 3g,a changed wifi-far,a changed wifi-near,b cleared -,"
# Of the samples from 100 ms after the first change to the second, each has the new rate.
expect "rates in force (kbit/s) after the change" "$(jq -s -c '
    [.[] | select(.event == "link" and .data.action == "changed" and .data.direction == "down") | .t_ns] as $at
    | [.[] | select(.event == "sample" and .data.link == "a" and .t_ns > $at[0] + 1e8 and .t_ns < $at[1]) | .data.down.rate_kbit]
    | unique' "$log")" = "[7600]"
expect "connections of both links" "$(records run_end "$log" | jq -c '[.links[].connections]')" = "[1,1]"
compose down --timeout 5 >/dev/null 2>&1
unset COMPOSE_PROJECT_NAME

echo "== a bad setting"
code=0
TWINLINK_LINK_A=no-such-profile timeout 120 docker compose --ansi never --progress plain -p "$project" \
    up --exit-code-from client >"$WORK/bad.log" 2>&1 </dev/null || code=$?
expect "exit code with an unknown profile" "$code" -ne 0
printed_by client
grep -q no-such-profile "$WORK/client.log" || fail "the client does not name the unknown profile: $(tail -n 3 "$WORK/client.log")"
compose down --timeout 5 >/dev/null 2>&1

echo "== nothing is left"
ends compose
