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
release_links() {
    kill "$owner"
    wait "$owner" || true
}
# Leaves what a process leaves that is killed.
kill_owner() {
    kill -KILL "$owner"
    wait "$owner" || true
    rm -f "${TWINLINK_CONTROL:-/run/twinlink/control.sock}"
}

# start_servers DATA: twinlink's own, in both namespaces and for both kinds of address.
declare -A server_pid
start_servers() {
    local each listen=0.0.0.0
    [ ! -e /proc/net/if_inet6 ] || listen='[::]'
    for each in a b; do
        ip netns exec "${ns[$each]}" "$TWINLINK_BIN" server --data "$1" --listen "$listen:4455" >"$WORK/server-$each.log" 2>&1 &
        # shellcheck disable=SC2034 # for tests that stop a server
        server_pid[$each]=$!
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

# rate_of LINK DIRECTION OFFERED_MBIT SECONDS [FILLING]: Mbit/s of frames that leave the bottleneck while more
# is offered than it takes, of its best stretch. The queue fills first, so that its filling is not in the figure.
rate_of() {
    local flooder filling=${5:-1}
    if [ "$2" = down ]; then
        in_server "$1" "$PYTHON" "$ROOT/tests/link-traffic.py" flood "$CLIENT" "$3" "$(jq -n "$4 + $filling + 0.5")" &
    else
        traffic flood "${server[$1]}" "$3" "$(jq -n "$4 + $filling + 0.5")" &
    fi
    flooder=$!
    sleep "$filling"
    traffic rate "/sys/class/net/twl-$1-$2/statistics/rx_bytes" "$4"
    wait "$flooder"
}

# rate_holds WHAT LINK DIRECTION OFFERED_MBIT SECONDS WANTED_MBIT PERCENT
rate_holds() { within "$1" "$(rate_of "$2" "$3" "$4" "$5")" "$6" "$7"; }

# within WHAT FOUND WANTED PERCENT
within() {
    expect "$1, within $4 % of $3" "$2" -ge "$(jq -n "$3 * (1 - $4 / 100)")"
    expect "$1, within $4 % of $3" "$2" -le "$(jq -n "$3 * (1 + $4 / 100)")"
}

# What tc and ip know of shaping in this namespace, without counters.
network_state() {
    tc qdisc show
    tc filter show dev eth0 ingress 2>/dev/null || true
    tc filter show dev eth0 egress 2>/dev/null || true
    ip -o link show type ifb
}
