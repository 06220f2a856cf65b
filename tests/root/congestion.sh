#!/usr/bin/env bash
# What a kernel does not let a program without privileges send with ends the run before its first
# request, whichever end refuses, and the message names what is allowed; what it allows is used by
# both ends.
. "$(dirname "$0")/../lib.sh"
needs_root
needs_binary

if [ -z "${TWINLINK_NS_CLIENT:-}" ]; then
    "$TWINLINK_BIN" segments "$WORK/data" --count 8 --mean-size 50KB >/dev/null
    chmod -R a+rX "$WORK"
    export DATA=$WORK/data
    # Nobody's server, as in a container that has dropped its capabilities.
    server="setpriv --reuid 65534 --regid 65534 --clear-groups --bounding-set -all $TWINLINK_BIN server --data {DATA} --listen {ADDR}:{PORT}"
    "$ROOT/netem/lab.sh" --data "$DATA" --server "$server" --exec bash "$0"
    exit
fi

run_client() { # LOG PREFIX... -- OPTIONS...
    local log=$1 prefix=()
    shift
    while [ "$1" != -- ]; do
        prefix+=("$1")
        shift
    done
    shift
    "${prefix[@]}" "$TWINLINK_BIN" client --log "$log" "$@" server-a server-b >/dev/null
}

allowed=$(cat /proc/sys/net/ipv4/tcp_allowed_congestion_control)
run_client "$WORK/reno" -- --congestion reno
for server in a b; do
    expect "server-$server sends with" \
        "$(records run_start "$WORK/reno" | jq -r ".servers.$server.congestion_control")" = reno
done

for name in cubic bbr; do
    grep -qw "$name" <<<"$allowed" || refused=$name
done
if [ -z "${refused:-}" ]; then
    echo "this kernel lets everybody use all congestion controls: none can be refused"
    exit 0
fi
check_refusal() { # WHO LOG
    expect "$1 refuses $refused: exit" "$(records run_end "$2" | jq -r .exit)" = congestion
    expect "$1 refuses $refused: first request" "$(records run_end "$2" | jq -r .first_request_ms)" = null
    records run_end "$2" | jq -r .summary | tee "$WORK/summary"
    grep -q "$1.*its kernel allows it.*reno" "$WORK/summary" || fail "the summary does not say what is allowed"
}
run_client "$WORK/theirs" -- --congestion "$refused" && fail "a refused choice was no error"
check_refusal "server [ab]" "$WORK/theirs"
run_client "$WORK/ours" setpriv --bounding-set -all --inh-caps -all -- --congestion "$refused" &&
    fail "a choice refused to the client was no error"
check_refusal "the client" "$WORK/ours"
