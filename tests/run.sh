#!/usr/bin/env bash
# Runs every script of a directory as one test: run.sh DIR [NAME...], with the names if only some are
# wanted. Each passes by exiting 0; exit 77 says that it cannot run here, in its last line why, and that is
# a failure where CI is set. A test runs once, and ends after TEST_TIMEOUT seconds (900). Its output is kept
# under target/test-logs/, and the seconds of all of them in seconds.txt there.
#
# Tests run side by side in two lanes: those that use containers, one after another, and the others. A test
# that measures says so with a line `# Runs alone: ...` at its head; those follow, one at a time. In the
# virtual machine, which has one processor, every test runs alone. TEST_LANES=1 does the same anywhere.
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
    elif [ "$code" -eq 77 ] && [ -z "${CI:-}" ]; then
        outcome=skipped
        text="NOT RUN $name: $(tail -n 1 "$log")"
    else
        outcome=failed
        if [ "$code" -eq 124 ]; then
            echo "ended after ${TEST_TIMEOUT:-900} s" >>"$log"
        fi
        text="FAIL $name ($took s, exit code $code): $(grep -m 1 -E '^(failed|gave up|line [0-9]+ of)' "$log" || tail -n 1 "$log")
The end of ${log#"$ROOT"/}:
$(tail -n 40 "$log" | sed 's/^/    /')"
    fi
    # One write, so that the lanes do not mix their lines.
    printf '%s\n' "$text"
    echo "$took $outcome $name" >"$outcomes/$name"
}
run_lane() { for test in "$@"; do run_one "$test"; done; }

containers=() others=() alone=()
for test in "${tests[@]}"; do
    if [ "$tier" = vm ] || [ "${TEST_LANES:-2}" = 1 ] || grep -q '^# Runs alone: ' "$test"; then
        alone+=("$test")
    elif grep -q 'compose-lib\.sh' "$test"; then
        containers+=("$test")
    else
        others+=("$test")
    fi
done

printf 'running %d tests of %s: %d side by side, %d alone\n' "${#tests[@]}" "$tier" \
    $((${#containers[@]} + ${#others[@]})) "${#alone[@]}"
run_lane "${containers[@]}" &
lane=$!
run_lane "${others[@]}"
wait "$lane"
run_lane "${alone[@]}"

sort -rn "$outcomes"/* >"$logs/seconds.txt"
count() { grep -c "^[0-9]* $1 " "$logs/seconds.txt" || true; }
printf '%d passed, %d failed, %d not run; %d s\n' "$(count passed)" "$(count failed)" "$(count skipped)" "$SECONDS"
# A test that left no outcome, because its lane was ended, is a failure too.
[ "$(count failed)" -eq 0 ] && [ "$(count passed)" -gt 0 ] && [ "$(wc -l <"$logs/seconds.txt")" -eq "${#tests[@]}" ]
