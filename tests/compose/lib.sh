# Sourced by the tests that use docker compose as a newcomer does, in place of tests/lib.sh: goes into a fresh copy of
# the tree that belongs to uid 1000, as a project whose name and image no other lab on this machine has.
# shellcheck shell=bash

. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
needs_root
have docker || cannot_run "docker not found"

# One test at a time prepares and builds the image; the others then find its layers in the cache.
mkdir -p "$TARGET"
exec 9>"$TARGET/compose.lock"
flock 9
DOCKER_CONFIG=$("$ROOT/tests/setup/compose.sh")
export DOCKER_CONFIG
"$ROOT/tests/setup/images.sh"
flock -u 9

# The copy holds what a commit of the present state would.
tree=$WORK/tree
mkdir "$tree"
cd "$ROOT"
git ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' file; do
        [ ! -e "$file" ] || cp --parents -p "$file" "$tree"
    done
chown -R 1000:1000 "$tree"
chmod 755 "$WORK"
cd "$tree"

project=twinlink-$(basename "$0" .sh)-$$
export TWINLINK_IMAGE=$project
# Labs of other tests are not this one's.
export TWINLINK_LABS=$WORK/labs
compose() { docker compose --ansi never --progress plain -p "$project" "$@" </dev/null; }
at_exit "docker image rm -f $project >/dev/null 2>&1 || true"

build() {
    flock 9
    timeout 780 docker compose --progress plain -p "$project" build >"$WORK/build.log" 2>&1 </dev/null ||
        fail "cannot build the image: $(tail -n 20 "$WORK/build.log")"
    flock -u 9
}

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

# ends: takes the project down, and expects that nothing of it is left.
ends() { # COMPOSE...
    "$@" down -v --timeout 10 >"$WORK/down.log" 2>&1
    expect "containers left" "$(docker ps -a -q --filter "label=com.docker.compose.project=$project")" = ""
    expect "networks left" "$(docker network ls -q --filter "label=com.docker.compose.project=$project")" = ""
    expect "volumes left" "$(docker volume ls -q --filter "label=com.docker.compose.project=$project")" = ""
}
