#!/usr/bin/env bash
# Shaping touches only what is the lab's: a host's own interface is refused, filters from elsewhere
# stay, one process shapes at a time, what a killed run left is removed, and whatever fails leaves nothing
# half done.
. "$(dirname "$0")/../lib.sh"

# The part outside a lab, on the machine's own network, which must be as it was.
if [ -z "${TWINLINK_NS_CLIENT:-}" ]; then
    needs_root
    needs_binary
    echo "== the machine's own interfaces"
    # Other programs may be busy on this machine, but none of them with these.
    shaping() { tc qdisc show | grep -cE 'clsact|ingress|tbf|netem' || true; }
    before=$(shaping)
    for address in 127.0.0.1 "$(ip -o -4 address show scope global | sed -n 's|.*inet \([0-9.]*\)/.*|\1|p' | head -n 1)"; do
        [ -n "$address" ] || continue
        code=0
        "$TWINLINK_BIN" link hold --link-a rate-20 --server-a "$address" -- true >"$WORK/out" 2>&1 || code=$?
        expect "exit code for $address" "$code" -eq 1
        grep -q 'cannot shape' "$WORK/out" || fail "the refusal does not say so: $(cat "$WORK/out")"
        cat "$WORK/out"
    done
    # A veth whose other end is elsewhere is still not the lab's in the machine's own namespace.
    ip netns add "owner-$$"
    at_exit "ip netns del owner-$$"
    ip link add "tw-$$" type veth peer name eth0 netns "owner-$$"
    ip address add 198.51.100.1/24 dev "tw-$$"
    ip link set "tw-$$" up
    ip -n "owner-$$" address add 198.51.100.2/24 dev eth0
    ip -n "owner-$$" link set eth0 up
    code=0
    "$TWINLINK_BIN" link hold --link-a rate-20 --server-a 198.51.100.2 -- true >"$WORK/out" 2>&1 || code=$?
    expect "exit code for a veth of the machine's" "$code" -eq 1
    grep -q "the machine's own" "$WORK/out" || fail "the refusal does not say why: $(cat "$WORK/out")"
    ip link del "tw-$$"
    expect "devices of the lab on the machine" "$(ip -o link | grep -c 'twl-' || true)" -eq 0
    expect "shaping qdiscs on the machine" "$(shaping)" -eq "$before"
fi
. "$(dirname "$0")/../link-lib.sh"

clean=$(network_state)
filters() { tc -j filter show dev eth0 "$1" 2>/dev/null | jq -c '[.[].pref] | unique'; }

refused() { # WHAT PATTERN COMMAND...
    local what=$1 pattern=$2 code=0 before
    shift 2
    before=$(network_state)
    "$@" >"$WORK/out" 2>&1 || code=$?
    expect "$what: exit code" "$code" -eq 1
    expect "$what: lines of the error" "$(wc -l <"$WORK/out")" -eq 1
    grep -q -- "$pattern" "$WORK/out" || fail "$what: no '$pattern' in: $(cat "$WORK/out")"
    cat "$WORK/out"
    expect "$what: what it changed" "$(diff <(echo "$before") <(network_state))" = ""
}

# shape OPTIONS...: shapes links, and takes that away at once.
shape() { link hold "$@" -- true; }

echo "== set, show, change, clear"
refused "no owner" 'no process shapes links here' link set a rate-20
own_links --link-a rate-20
link set b rate-80 >/dev/null
expect "links shown" "$(link show --json | jq -c '[.links[] | [.link, .direction, .profile, .owner]]')" = \
    '[["a","down","rate-20","run"],["a","up","rate-20","run"],["b","down","rate-80","run"],["b","up","rate-80","run"]]'
ping -q -c 3 -i 0.2 "${server[a]}" >/dev/null
packets=$(shown a down .counters.packets)
link set a rate-80 >/dev/null
expect "rate after a change" "$(shown a down .shape.rate)" = 80mbit
expect "counters go on after a change" "$(shown a down .counters.packets)" -ge "$packets"
link clear a >/dev/null
expect "links left" "$(link show --json | jq -c '[.links[].link] | unique')" = '["b"]'
link clear >/dev/null
expect "what is left" "$(network_state)" = "$clean"
link set a rate-20 >/dev/null

echo "== what cannot be done changes nothing"
refused "unknown profile" 'did you mean wifi-near' link set a wifi-neer
elsewhere=(env TWINLINK_CONTROL="$WORK/elsewhere.sock" "$TWINLINK_BIN" link)
refused "another process shapes" "another twinlink process ($owner)" "${elsewhere[@]}" hold --link-b rate-20 -- true
refused "clearing what another process shapes" "another twinlink process ($owner)" "${elsewhere[@]}" clear
"${elsewhere[@]}" hold -- true || fail "what shapes nothing was refused beside a process that shapes"
expect "links that it left" "$(link show --json | jq -c '[.links[].link] | unique')" = '["a"]'
release_links
expect "what is left of the owner" "$(network_state)" = "$clean"
refused "unreachable server" 'unreachable' shape --link-a rate-20 --server-a 203.0.113.9
refused "server on this host" 'not a lab' shape --link-a rate-20 --server-a 127.0.0.1
refused "no NET_ADMIN" 'NET_ADMIN' setpriv --bounding-set -net_admin --inh-caps -net_admin \
    "$TWINLINK_BIN" link hold --link-a rate-20 -- true
# shellcheck disable=SC2016
refused "no tc" 'install the package iproute2' unshare --mount bash -c \
    'mount -t tmpfs none "$(dirname "$(realpath "$(command -v tc)")")" && exec "$0" link hold --link-a rate-20 -- true' "$TWINLINK_BIN"
if ! "$TWINLINK_BIN" doctor --json | jq -e '.checks[] | select(.name == "netem") | .ok' >/dev/null; then
    refused "no netem" 'sch_netem' shape --link-a wifi-near --backend netem
fi

echo "== another user neither blocks nor deceives"
nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups)
open=$(mktemp -d)
at_exit "rm -rf '$open'"
chmod 1777 "$open"
"${nobody[@]}" "$PYTHON" -c '
import socket, sys, time
held = [socket.socket(socket.AF_UNIX) for name in sys.argv[1:]]
for one, name in zip(held, sys.argv[1:]):
    one.bind(name.replace("@", "\0"))
    one.listen(0)
print("listening", flush=True)
time.sleep(60)' @twinlink/shaper "$open/control.sock" >"$WORK/foreign" &
holder=$!
at_exit "kill $holder 2>/dev/null || true"
eventually 30 grep -q listening "$WORK/foreign"
TWINLINK_CONTROL=$open/control.sock refused "another user's control socket" 'another user' link show
if "${nobody[@]}" flock -n /proc/sys/net/ipv4/tcp_fastopen_key true 2>/dev/null; then
    fail "an ordinary user can hold the lock"
fi
shape --link-a rate-20 || fail "an ordinary user's sockets keep links from being shaped"
kill "$holder"
wait "$holder" 2>/dev/null || true

echo "== filters from elsewhere stay"
tc qdisc add dev eth0 clsact
tc filter add dev eth0 ingress pref 7 protocol ip u32 match ip src 192.0.2.7/32 flowid :1
foreign=$(network_state)
own_links --link-a rate-20
expect "preferences at ingress" "$(filters ingress)" = '[7,44551]'
release_links
expect "what is left beside a foreign filter" "$(network_state)" = "$foreign"
tc filter add dev eth0 egress pref 44552 protocol ip u32 match ip dst 192.0.2.7/32 flowid :1
refused "a foreign filter in the way" 'preference 44552' shape --link-a rate-20
tc qdisc del dev eth0 clsact
tc qdisc add dev eth0 ingress
refused "a foreign ingress qdisc" 'ingress from elsewhere' shape --link-a rate-20
tc qdisc del dev eth0 ingress

echo "== what a killed run left"
own_links --link-a rate-20
kill_owner
ip link add twl-b-up type ifb
expect "owner of what is left" "$(shown a down .owner)" = dead
own_links --link-b rate-80
expect "links after the repair" "$(link show --json | jq -c '[.links[] | [.link, .profile]] | unique')" = '[["b","rate-80"]]'
expect "preferences at ingress" "$(filters ingress)" = '[44553]'
kill_owner
ip link del twl-b-down
own_links --link-a rate-20
expect "a filter without its device is gone" "$(filters ingress)" = '[44551]'
ping -q -c 1 "${server[b]}" >/dev/null || fail "link b is dead"
kill_owner
link clear >/dev/null
expect "what link clear leaves of a killed run" "$(network_state)" = "$clean"

echo "== clean-up goes on from wherever a killed process left it"
steps=(
    "tc filter del dev eth0 ingress pref 44551"
    "tc filter del dev eth0 egress pref 44552"
    "tc qdisc del dev eth0 clsact"
    "ip link del twl-a-down"
)
for ((done = 0; done <= ${#steps[@]}; done++)); do
    own_links --link-a rate-20
    kill_owner
    for ((step = 0; step < done; step++)); do ${steps[step]}; done
    shape --link-b rate-80 || fail "after $done steps, the next start fails"
    expect "what is left after $done steps and a new start" "$(network_state)" = "$clean"
done
tc qdisc add dev eth0 clsact
shape --link-a rate-20
expect "what is left of an empty clsact that nobody owns" "$(network_state)" = "$clean"
