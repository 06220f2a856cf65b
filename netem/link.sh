#!/usr/bin/env bash
# twinlink link set|show|clear … where links are shaped now: in a lab of this user (--lab NAME where several
# run), or in the client of the compose lab. set.sh, show.sh and clear.sh call this.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
fail() {
    printf 'error: %s\n' "$@" >&2
    exit 1
}

bin=${TWINLINK_BIN:-$ROOT/target/release/twinlink}
[ -x "$bin" ] || bin=$(command -v twinlink || true)
labs=
[ -z "$bin" ] || labs=$("$bin" lab --list 2>/dev/null || true)
for word in "$@"; do
    case $word in --lab | --lab=*)
        [ -n "$bin" ] || fail "cannot reach a lab: twinlink not found: set TWINLINK_BIN to the program that started it"
        exec "$bin" link "$@"
        ;;
    esac
done

compose() { (cd "$ROOT" && exec docker compose "$@"); }
container=$(compose ps --status running -q client 2>/dev/null || true)
if [ -n "$labs" ] && [ -n "$container" ]; then
    fail "cannot choose between the compose lab and these labs: name one with --lab NAME, or write docker compose exec client twinlink link …:
$labs"
elif [ -n "$labs" ]; then
    exec "$bin" link "$@"
elif [ -n "$container" ]; then
    compose exec -T client twinlink link "$@"
else
    fail "cannot reach links: no lab of this user runs, and no client of the compose lab: start twinlink lab, or docker compose up"
fi
