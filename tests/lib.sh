# Sourced by the tests of tests/compose and tests/vm: checks that say what they found, and a working
# directory that is gone afterwards. A test is a bash script that exits 0 only if all of it held.
# shellcheck shell=bash

set -Eeuo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup/common.sh"

# The binary under test. The Makefile builds it before the tests start.
TWINLINK_BIN=${TWINLINK_BIN:-$TARGET/release/twinlink}
export TWINLINK_BIN

# Anything to undo is registered here, and undone last first, whatever happens.
undo_list=()
at_exit() { undo_list=("$1" "${undo_list[@]}"); }
undo_all() {
    local code=$? undo
    for undo in "${undo_list[@]}"; do
        eval "$undo" || echo "cannot clean up with: $undo"
    done
    exit "$code"
}
trap undo_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# An unexpected failure names its line, since set -e alone says nothing.
trap 'echo "line $LINENO of $(basename "$0") failed: $BASH_COMMAND" >&2' ERR

WORK=$(mktemp -d "${TMPDIR:-/tmp}/twinlink-test.XXXXXX")
export WORK
at_exit "rm -rf $(printf %q "$WORK")"

fail() {
    echo "failed: $*" >&2
    exit 1
}

cannot_run() {
    echo "$*"
    exit 77
}

needs_root() { is_root || cannot_run "not root"; }

needs_binary() { [ -x "$TWINLINK_BIN" ] || fail "$TWINLINK_BIN not found; run 'cargo build --release' or set TWINLINK_BIN"; }

# expect WHAT FOUND OPERATOR WANTED: compares numbers (also with a fraction) with -lt -le -gt -ge
# -eq -ne, and words with = and !=.
expect() {
    local what=$1 found=$2 operator=$3 wanted=$4 symbol
    case $operator in
    =) [ "$found" = "$wanted" ] || fail "$what is '$found', expected '$wanted'" ;;
    !=) [ "$found" != "$wanted" ] || fail "$what is '$found', expected anything else" ;;
    *)
        case $operator in
        -lt) symbol="<" ;; -le) symbol="<=" ;; -gt) symbol=">" ;; -ge) symbol=">=" ;;
        -eq) symbol="==" ;; -ne) symbol="!=" ;;
        *) fail "expect does not know the operator '$operator'" ;;
        esac
        awk -v found="$found" -v wanted="$wanted" "BEGIN {
            number = \"^-?[0-9]+([.][0-9]+)?([eE][-+]?[0-9]+)?$\"
            exit !(found ~ number && wanted ~ number && found + 0 $symbol wanted + 0)
        }" || fail "$what is '$found', expected $symbol $wanted"
        ;;
    esac
    echo "$what: $found ($operator $wanted)"
}

# eventually SECONDS COMMAND...: repeats a command until it succeeds, and fails after the time.
eventually() {
    local until=$(($(date +%s) + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt "$until" ] || fail "gave up waiting for: $*"
        sleep 0.1
    done
}

# in_a_lab "$@": goes on inside the client's namespace of a lab without servers. The test is run
# again there, and ends with that run's exit code here.
in_a_lab() {
    [ -z "${TWINLINK_NS_CLIENT:-}" ] || return 0
    local code=0
    "$ROOT/netem/lab.sh" --servers none --exec bash "$0" "$@" || code=$?
    exit "$code"
}

# records EVENT LOG: the data of each record of that kind, one JSON object a line.
records() { jq -c --arg event "$1" 'select(.event == $event) | .data' "$2"; }
