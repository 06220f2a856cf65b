#!/usr/bin/env bash
# Types every command of README.md and docs/tutorial.md, as printed, in a fresh copy of the tree and a fresh folder.
# What needs minutes or a person is named as not run, with the reason. Runs fetch a short list of files, by way of
# the environment. Usage: tests/docs.sh TWINLINK
set -euo pipefail
program=$(realpath "$1")
tree=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/bin" "$work/tree" "$work/fresh" "$work/files"
ln -s "$program" "$work/bin/twinlink"
tar -C "$tree" --exclude=./target --exclude=./.git --exclude=./results -cf - . | tar -C "$work/tree" -xf -
export PATH="$work/bin:$PATH" TWINLINK_FILES='s{001..006}.m4s' TWINLINK_PROBE=off EDITOR=true TWINLINK_LABS="$work/labs"
# A program to compare, as docs/programs.md has one.
cat >"$work/tree/mine.py" <<'PY'
import os, urllib.request
servers = [os.environ["SERVER_A"], os.environ["SERVER_B"]]
for number, name in enumerate(open(os.environ["FILES"]).read().split()):
    urllib.request.urlretrieve(f"http://{servers[number % 2]}/{name}", os.path.join(os.environ["OUT"], name))
PY

# The image of compose, with the program under test in place of one that is built for minutes: the last stage of the
# Dockerfile. Without its base image, the commands of compose are not run.
docker=
image=twinlink-docs-$$
if docker image inspect debian:trixie-slim >/dev/null 2>&1; then
    DOCKER_CONFIG=$("$tree/tests/setup/compose.sh")
    export DOCKER_CONFIG TWINLINK_IMAGE=$image COMPOSE_PROJECT_NAME=$image
    mkdir "$work/context"
    cp "$program" "$work/context/twinlink"
    cp -r "$tree/netem" "$tree/experiments" "$work/context"
    sed -n '/^FROM debian/,$p' "$tree/Dockerfile" |
        sed 's|^COPY --from=build .*/twinlink |COPY twinlink |
            s|^COPY --from=build /segments \(.*\)|RUN ["twinlink", "segments", "\1"]|' >"$work/context/Dockerfile"
    trap 'docker compose down -v >/dev/null 2>&1; docker image rm -f "$image" >/dev/null 2>&1; rm -rf "$work"' EXIT
    if timeout 300 docker build -q -t "$image" "$work/context" >"$work/output" 2>&1; then
        docker=yes
    else
        cat "$work/output"
        [ -z "${CI:-}" ] || exit 1
    fi
fi

# Why a command is not run; nothing for one that is.
reason() {
    case $1 in
    *docker*open.yaml* | *"http://127.0.0.1:4455"*) echo "publishes ports of this machine" ;;
    *docker*sweep\ course-quick | *docker*course-scenario-1.toml* | *docker*--mean-size*) echo "takes minutes" ;;
    *docker*compose*) [ -n "$docker" ] || echo "needs Docker and the base image" ;;
    make\ * | cargo\ * | rm\ *) echo "builds or deletes" ;;
    xdg-open* | netem/set.sh*) echo "needs a person beside it" ;;
    "twinlink grade "* | "twinlink sweep split.toml" | *from-video.sh* | "cp my-files"*) echo "takes minutes, or files of one's own" ;;
    *aria2c*) command -v aria2c >/dev/null || echo "aria2c is not installed" ;;
    *--watch*) echo "goes on until it is ended" ;;
    jq\ *) command -v jq >/dev/null || echo "jq is not installed" ;;
    esac
}

# Prints the commands of a document, one a line, and writes its files: a block of toml after a sentence with `NAME.toml`.
commands() { # DOCUMENT
    awk -v folder="$work/files" '
        /^```sh$/ { inside = 1; next }
        /^```toml$/ && named != "" { file = folder "/" named; next }
        /^```$/ { inside = 0; if (file) close(file); file = ""; next }
        file { print > file; next }
        inside && /\\$/ { sub(/\\$/, ""); held = held $0; next }
        inside { line = held $0; held = ""; sub(/ +# .*$/, "", line); if (line ~ /[^ ]/ && line !~ /^#/) print line; next }
        match($0, /Write `[a-z]+\.toml`/) { named = substr($0, RSTART + 7, RLENGTH - 8) }
    ' "$1"
}

ran=0
failed=0
type_all() { # DOCUMENT FOLDER
    local line why code
    cd "$2"
    commands "$tree/$1" >"$work/commands"
    while IFS= read -r line <&3; do
        why=$(reason "$line")
        if [ -n "$why" ]; then
            echo "NOT RUN ($why): $line"
            continue
        fi
        code=0
        if [[ $line == *"cd "* ]]; then
            eval "$line" || code=$?
            cp "$work"/files/* .
        else
            timeout 60 bash -c "$line" >"$work/output" 2>&1 </dev/null || code=$?
        fi
        ran=$((ran + 1))
        echo "ran, exit $code: $line"
        if [ "$code" -ne 0 ]; then
            failed=$((failed + 1))
            sed 's/^/    /' "$work/output" | tail -n 20
        fi
    done 3<"$work/commands"
}
type_all README.md "$work/tree"
type_all docs/tutorial.md "$work/fresh"
echo "$ran commands ran, $failed failed"
[ "$ran" -gt 8 ] && [ "$failed" -eq 0 ]
