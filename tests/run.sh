#!/usr/bin/env bash
# Runs every script of a directory as one test: run.sh DIR [NAME...], with the names if only some
# are wanted. Each passes by exiting 0; exit 77 says that it cannot run here, in its last line why,
# and that is a failure where CI is set. A test is ended after TEST_TIMEOUT seconds (900). What
# each printed is kept under target/test-logs/.
#
# Many measure rates and times, and a machine that is held up for a moment fails one of them now and
# then. So what failed is run once more at the end, and it is said which passed only then.
set -euo pipefail
. "$(dirname "$0")/setup/common.sh"

[ $# -ge 1 ] || die "could not run any test: usage: run.sh DIR [NAME...]"
[ -d "$1" ] || die "could not run the tests of '$1': no such directory"
dir=$(cd "$1" && pwd)
shift
tier=$(basename "$dir")
logs=$TARGET/test-logs/$tier
mkdir -p "$logs"

if [ $# -gt 0 ]; then
    tests=()
    for name in "$@"; do
        [ -f "$dir/${name%.sh}.sh" ] || die "could not run '$name': no such test in $dir"
        tests+=("$dir/${name%.sh}.sh")
    done
else
    tests=("$dir"/*.sh)
    [ -f "${tests[0]}" ] || die "could not run the tests of '$dir': it holds none"
fi

# Runs one test, prints how it went, and leaves "passed", "failed" or "skipped" in $outcome.
run_one() { # TEST LOG
    local name log=$2 began code=0 took
    name=$(basename "$1" .sh)
    began=$(date +%s)
    timeout -k 30 "${TEST_TIMEOUT:-900}" bash "$1" >"$log" 2>&1 </dev/null || code=$?
    took=$(($(date +%s) - began))
    if [ "$code" -eq 0 ]; then
        outcome=passed
        printf 'ok %s (%d s)\n' "$name" "$took"
    elif [ "$code" -eq 77 ] && [ -z "${CI:-}" ]; then
        outcome=skipped
        printf 'NOT RUN %s: %s\n' "$name" "$(tail -n 1 "$log")"
    else
        outcome=failed
        if [ "$code" -eq 124 ]; then
            echo "ended after ${TEST_TIMEOUT:-900} s" >>"$log"
        fi
        printf 'FAIL %s (%d s, exit code %d); the end of %s:\n' "$name" "$took" "$code" "${log#"$ROOT"/}"
        tail -n 40 "$log" | sed 's/^/    /'
    fi
}

passed=0 failed=0 skipped=0 again=()
printf 'running %d tests of %s\n' "${#tests[@]}" "$tier"
for test in "${tests[@]}"; do
    run_one "$test" "$logs/$(basename "$test" .sh).log"
    case $outcome in
    passed) passed=$((passed + 1)) ;;
    skipped) skipped=$((skipped + 1)) ;;
    failed) again+=("$test") ;;
    esac
done
if [ ${#again[@]} -gt 0 ]; then
    printf 'running %d of them once more: %s\n' "${#again[@]}" "$(basename -a -s .sh "${again[@]}" | xargs)"
    for test in "${again[@]}"; do
        run_one "$test" "$logs/$(basename "$test" .sh).second.log"
        if [ "$outcome" = passed ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
    done
fi

if [ "$skipped" -gt 0 ]; then
    printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
else
    printf '%d passed, %d failed\n' "$passed" "$failed"
fi
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
