# Sourced by the benchmarks of this folder: the program under test, a folder for what a benchmark finds, and
# the rounds that it makes. A benchmark runs itself again inside a lab, with `inside` as its first argument.
# shellcheck shell=bash
set -euo pipefail
# The clock and the numbers have points, whatever the user's language.
export LC_ALL=C
. "$(dirname "${BASH_SOURCE[0]}")/../tests/setup/common.sh"

SELF=$(realpath "$0")
BENCHES=$ROOT/benches
TWINLINK_BIN=${TWINLINK_BIN:-$TARGET/release/twinlink}
export BENCHES TWINLINK_BIN

# start_bench PROGRAM...: makes $BENCH, for what is found, where the benchmark can run.
start_bench() {
    local program
    is_root || die "cannot make network namespaces: not root"
    [ -x "$TWINLINK_BIN" ] || die "$TWINLINK_BIN not found: run cargo build --release, or set TWINLINK_BIN"
    for program in "$@"; do
        have "$program" || die "$program not found: run tests/setup/packages.sh root peers"
    done
    BENCH=$TARGET/bench/$(basename "$SELF" .sh)-$(date -u +%Y%m%dT%H%M%SZ)-$$
    mkdir -p "$BENCH"
    export BENCH
}

# rounds_of [--rounds N]: sets rounds, to 5 where nothing is said.
rounds_of() {
    export rounds=5
    [ $# -eq 0 ] && return
    if [ $# -ne 2 ] || [ "$1" != --rounds ] || ! [[ $2 =~ ^[1-9][0-9]*$ ]]; then
        die "usage: $(sed -n 's/^# *\(benches\/.*\)/\1/p' "$SELF" | head -n 1)"
    fi
    rounds=$2
}
