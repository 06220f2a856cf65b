#!/usr/bin/env bash
# Runs every script of a directory as one test, one after another: run.sh DIR [NAME...], with the names if
# only some are wanted. Each passes by exiting 0. A test runs once, and ends after TEST_TIMEOUT seconds (900).
# Its output is kept under target/test-logs/, and the seconds of all of them in seconds.txt there.
set -euo pipefail
. "$(dirname "$0")/setup/common.sh"

[ $# -ge 1 ] || die "cannot run any test: usage: run.sh DIR [NAME...]"
[ -d "$1" ] || die "cannot run the tests of '$1': no such directory"
dir=$(cd "$1" && pwd)
shift
tier=$(basename "$dir")
logs=$TARGET/test-logs/$tier
mkdir -p "$logs"
outcomes=$(mktemp -d "$logs/outcomes.XXXXXX")
trap 'rm -rf "$outcomes"' EXIT

if [ $# -gt 0 ]; then
    tests=()
    for name in "$@"; do
        [ -f "$dir/${name%.sh}.sh" ] || die "cannot run '$name': no such test in $dir"
        tests+=("$dir/${name%.sh}.sh")
    done
else
    tests=("$dir"/*.sh)
    [ -f "${tests[0]}" ] || die "cannot run the tests of '$dir': it holds none"
fi

# Runs one test, prints how it went, and notes the outcome and the seconds.
run_one() { # TEST
    local name log began code=0 took outcome text
    name=$(basename "$1" .sh)
    log=$logs/$name.log
    began=$SECONDS
    timeout -k 30 "${TEST_TIMEOUT:-900}" bash "$1" >"$log" 2>&1 </dev/null || code=$?
    took=$((SECONDS - began))
    if [ "$code" -eq 0 ]; then
        outcome=passed
        text="ok $name ($took s)"
    else
        outcome=failed
        if [ "$code" -eq 124 ]; then
            echo "ended after ${TEST_TIMEOUT:-900} s" >>"$log"
        fi
        text="FAIL $name ($took s, exit code $code): $(grep -m 1 -E '^(failed|gave up|line [0-9]+ of)' "$log" || tail -n 1 "$log")
The end of ${log#"$ROOT"/}:
$(tail -n 40 "$log" | sed 's/^/    /')"
    fi
    printf '%s\n' "$text"
    echo "$took $outcome $name" >"$outcomes/$name"
}

printf 'running %d tests of %s\n' "${#tests[@]}" "$tier"
for test in "${tests[@]}"; do run_one "$test"; done

sort -rn "$outcomes"/* >"$logs/seconds.txt"
count() { grep -c "^[0-9]* $1 " "$logs/seconds.txt" || true; }
printf '%d passed, %d failed; %d s\n' "$(count passed)" "$(count failed)" "$SECONDS"
[ "$(count failed)" -eq 0 ]
