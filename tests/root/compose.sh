#!/usr/bin/env bash
# `docker compose up --exit-code-from client` for real, as a newcomer types it, in a fresh copy of
# the tree that belongs to uid 1000: the results, whose they are, what the containers print, a
# second run with other settings and a profile that the image never saw, the variant that opens
# the servers to this host, and that nothing is left behind.
. "$(dirname "$0")/../compose-lib.sh"

# Port 0 lets the kernel pick one that is free.
export TWINLINK_PORT_A=0 TWINLINK_PORT_B=0
open() { compose -f compose.yaml -f compose/open.yaml "$@"; }
at_exit "open down -v --remove-orphans --timeout 5 >/dev/null 2>&1"

up() { # NAME: one run, with its output kept
    local code=0
    timeout 780 docker compose --ansi never --progress plain -p "$project" \
        up --exit-code-from client >"$WORK/$1.log" 2>&1 </dev/null || code=$?
    if [ "$code" -ne 0 ]; then tail -n 60 "$WORK/$1.log"; fi
    expect "$1: exit code of docker compose up" "$code" -eq 0
}

all_json_objects() { # WHAT FILE
    local bad
    bad=$(jq -R -n -r 'first(inputs | select((try (fromjson | type) catch "") != "object")) // empty' "$2")
    expect "$1: the first line that is no JSON object" "$bad" = ""
    expect "$1: lines" "$(wc -l <"$2")" -gt 0
}

# What a service's container printed, stdout and stderr. Asked of the engine, since compose 2.26
# puts an escape sequence before each line of its own logs (docker/compose issue 11727).
printed_by() { docker logs "$(compose ps -a -q "$1")" >"$WORK/$1.log" 2>&1; }

check_run() { # NAME LOG
    local name=$1 log=$2
    all_json_objects "$name: log.jsonl" "$log"
    expect "$name: segments" "$(records segment "$log" | jq -s '[.[] | select(.digest_ok == true) | .name] | unique | length')" -eq 160
    expect "$name: segment records" "$(records segment "$log" | wc -l)" -eq 160
    expect "$name: links used" "$(records segment "$log" | jq -s -r '[.[].link] | unique | join(" ")')" = "a b"
    expect "$name: last record" "$(tail -n 1 "$log" | jq -r .event)" = run_end
    expect "$name: exit" "$(records run_end "$log" | jq -r .exit)" = ok
    expect "$name: files" "$(records run_end "$log" | jq .files)" -eq 160
}

# Had the links not been shaped, this would take well under a second.
check_pace() { # NAME LOG MBIT_OF_BOTH_LINKS
    local bound
    bound=$(records run_end "$2" | jq ".bytes * 8 / $3 / 1000")
    expect "$1: elapsed ms over $3 Mbit/s in all" "$(records run_end "$2" | jq .elapsed_ms)" -ge "$bound"
    expect "$1: elapsed ms over $3 Mbit/s in all" "$(records run_end "$2" | jq .elapsed_ms)" -le "$(jq -n "$bound * 3")"
}

profile_of() { # LINK LOG
    records link "$2" | jq -r --arg link "$1" 'select(.link == $link) | .profile | tostring' | head -n 1
}

echo "== the first run"
up first
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

echo "== a change in the middle of a run"
export COMPOSE_PROJECT_NAME=$project
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
    "a set wifi-near,b set lte-medium,a changed wifi-far,a changed wifi-near,b cleared -,"
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

echo "== the servers opened to this host"
address_of() { open port "$1" 4455; }
open up -d --wait server-a server-b >"$WORK/open.log" 2>&1 || fail "cannot open the servers: $(tail -n 5 "$WORK/open.log")"
for service in server-a server-b; do
    curl -sf -m 20 -o "$WORK/sums" "http://$(address_of "$service")/SHA256SUMS"
    expect "$service: names in SHA256SUMS" "$(wc -l <"$WORK/sums")" -eq 160
    expect "$service: address on this host" "$(address_of "$service" | cut -d: -f1)" = 127.0.0.1
    expect "$service: effective capabilities" "$(open exec -T "$service" sed -n 's/^CapEff:\t//p' /proc/self/status)" = 0000000000000000
    expect "$service: user" "$(open exec -T "$service" id -u)" -ne 0
    ! open exec -T "$service" touch /probe 2>/dev/null || fail "$service can write to its root"
done
curl -sf -m 20 -o "$WORK/s001.m4s" "http://$(address_of server-a)/s001.m4s"
(cd "$WORK" && grep ' [ *]\?s001.m4s$' sums | sha256sum -c --quiet) || fail "s001.m4s is not what SHA256SUMS says"
compose run --rm -T client link list --json >"$WORK/list" 2>"$WORK/list.err" </dev/null || fail "link list: $(tail -n 5 "$WORK/list.err")"
expect "rate of the profile added after the build" "$(jq -r '.[] | select(.name == "own") | .profile.down.rate // empty' "$WORK/list")" != ""

echo "== a user's own segments"
head -c 100000 /dev/urandom >server_data/one.bin
head -c 200000 /dev/urandom >server_data/two.bin
chmod 644 server_data/*.bin
open up -d --wait --force-recreate server-a >"$WORK/open.log" 2>&1 || fail "cannot restart server-a: $(tail -n 5 "$WORK/open.log")"
curl -sf -m 20 "http://$(address_of server-a)/one.bin" | cmp - server_data/one.bin
expect "status of a sample when a folder is mounted" "$(curl -s -m 20 -o /dev/null -w '%{http_code}' "http://$(address_of server-a)/s001.m4s")" -eq 404

echo "== nothing is left"
open down -v --timeout 10 >"$WORK/down.log" 2>&1
expect "containers left" "$(docker ps -a -q --filter "label=com.docker.compose.project=$project")" = ""
expect "networks left" "$(docker network ls -q --filter "label=com.docker.compose.project=$project")" = ""
expect "volumes left" "$(docker volume ls -q --filter "label=com.docker.compose.project=$project")" = ""
