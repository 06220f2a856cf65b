# Sourced by the link tests, after lib.sh: runs the test inside a lab, and measures links by what the
# kernel counts, so that no transport protocol and no program's speed is in the figures.
# shellcheck shell=bash

needs_root
needs_binary

in_a_lab "$@"

declare -A server=([a]=10.45.0.2 [b]=10.45.0.3) ns=([a]=$TWINLINK_NS_A [b]=$TWINLINK_NS_B)
CLIENT=10.45.0.4

# The interpreter itself: a version manager's wrapper before it costs seconds in the virtual machine.
PYTHON=$(python3 -c 'import sys; print(sys.executable)')

link() { "$TWINLINK_BIN" link "$@"; }
traffic() { "$PYTHON" "$ROOT/tests/link-traffic.py" "$@"; }
in_server() { ip netns exec "${ns[$1]}" "${@:2}"; }

# own_links [OPTIONS...]: starts a process that owns the links from now on; `link set` changes them.
own_links() {
    "$TWINLINK_BIN" link hold "$@" -- sleep infinity &
    owner=$!
    at_exit "kill $owner 2>/dev/null || true"
    eventually 90 bash -c "kill -0 $owner && test -S '${TWINLINK_CONTROL:-/run/twinlink/control.sock}'"
}

# start_servers DATA: twinlink's own, in both namespaces and for both kinds of address.
start_servers() {
    local each listen=0.0.0.0
    [ ! -e /proc/net/if_inet6 ] || listen='[::]'
    for each in a b; do
        in_server "$each" "$TWINLINK_BIN" server --data "$1" --listen "$listen:4455" >"$WORK/server-$each.log" 2>&1 &
        at_exit "kill $!"
    done
    for each in a b; do eventually 20 "$TWINLINK_BIN" health "${server[$each]}:4455"; done
}

start_sinks() {
    local each
    for each in a b; do
        in_server "$each" "$PYTHON" "$ROOT/tests/link-traffic.py" sink "${server[$each]}" &
        at_exit "kill $!"
    done
    traffic sink "$CLIENT" &
    at_exit "kill $!"
    for each in "${server[a]}" "${server[b]}" "$CLIENT"; do eventually 90 traffic rtt "$each" 1; done
}

# shown LINK DIRECTION KEY: one value of what `link show` reports.
shown() { link show --json | jq -r --arg l "$1" --arg d "$2" ".links[] | select(.link == \$l and .direction == \$d) | $3"; }
