#!/usr/bin/env bash
# What the userspace backend puts into the kernel is gone when it ends, however it ends, and what it
# cannot do it refuses in words. While nobody holds the packets, nothing passes.
. "$(dirname "$0")/../lib.sh"
needs_root
needs_binary
in_a_lab "$@"

PYTHON=$(python3 -c 'import sys; print(sys.executable)')
hold() { "$TWINLINK_BIN" link hold --backend userspace "$@"; }
rules() { iptables -t raw -S 2>/dev/null | grep -c TWINLINK || true; }
reaches() { ping -c 1 -W 2 "$1" >/dev/null; }

# refused WORDS COMMAND...: fails with an error that has these words in it.
refused() {
    local words=$1 said
    shift
    if said=$("$@" 2>&1); then fail "this was not refused: $*"; fi
    grep -q -- "$words" <<<"$said" || fail "'$words' is not in what $* said: $said"
    echo "refused: $said"
}

iptables -t raw -A OUTPUT -d 192.0.2.1 -j DROP
expect "rules before" "$(rules)" -eq 0
expect "rules while it holds" "$(hold --link-a wifi-near -- iptables -t raw -S | grep -c TWINLINK)" -ge 4
expect "rules after" "$(rules)" -eq 0
expect "a rule of somebody else's" "$(iptables -t raw -S | grep -c 192.0.2.1)" -eq 1

"$TWINLINK_BIN" link hold --backend userspace --link-a wifi-near --link-b lte-medium -- sleep 60 &
holder=$!
eventually 10 iptables -t raw -C OUTPUT -j TWINLINK-OUT
reaches 10.45.0.2 || fail "a held link does not pass"
shown() { jq -r '[.links[] | select(.direction == "down") | "\(.link) \(.profile) \(.backend)"] | join(", ")'; }
expect "what link show has of held links" "$("$TWINLINK_BIN" link show --json | shown)" = "a wifi-near userspace, b lte-medium userspace"
"$TWINLINK_BIN" link set b wifi-far
expect "what link show has after a change" "$("$TWINLINK_BIN" link show --json | shown)" = "a wifi-near userspace, b wifi-far userspace"
"$TWINLINK_BIN" link clear a
expect "what link show has after one was cleared" "$("$TWINLINK_BIN" link show --json | shown)" = "b wifi-far userspace"
kill -TERM "$holder"
wait "$holder" || true
expect "rules after SIGTERM" "$(rules)" -eq 0

expect "rules while a program under it shapes nothing" \
    "$(hold --link-a wifi-near -- "$TWINLINK_BIN" link hold -- iptables -t raw -S | grep -c TWINLINK)" -ge 4

# Leaves what a killed holder leaves.
kill_a_holder() {
    local holder
    "$TWINLINK_BIN" link hold --backend userspace --link-a wifi-near --link-b lte-medium -- sleep 60 &
    holder=$!
    eventually 10 iptables -t raw -C OUTPUT -j TWINLINK-OUT
    kill -KILL "$holder"
    wait "$holder" || true
    expect "rules after SIGKILL" "$(rules)" -ge 4
    if reaches 10.45.0.2; then fail "packets pass unshaped though nobody holds them"; fi
}
kill_a_holder
"$TWINLINK_BIN" link clear
reaches 10.45.0.2 || fail "link clear does not repair what a killed one left"
expect "rules after link clear" "$(rules)" -eq 0
kill_a_holder
"$TWINLINK_BIN" link hold -- ping -c 1 -W 2 10.45.0.2 >/dev/null ||
    fail "a start that shapes nothing does not repair what a killed one left"
expect "rules after a start that shapes nothing" "$(rules)" -eq 0
kill_a_holder
hold --link-b lte-medium -- bash -c 'ping -c 1 -W 2 10.45.0.2 && ping -c 1 -W 2 10.45.0.3' >/dev/null ||
    fail "the next start does not repair what a killed one left"
expect "rules after the repair" "$(rules)" -eq 0

# A program that has one of the queues: it binds it and sleeps.
"$PYTHON" - <<'END' &
import socket, struct, time
sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
sock.bind((0, 0))
command = struct.pack("=HH", 8, 1) + struct.pack("=BBH", 1, 0, 0)
body = struct.pack("=BB", 0, 0) + struct.pack("!H", 4452) + command
sock.send(struct.pack("=IHHII", 16 + len(body), 3 << 8 | 2, 5, 0, 0) + body)
time.sleep(60)
END
eventually 10 grep -q '^ *4452 ' /proc/net/netfilter/nfnetlink_queue
refused "packet queue 4452: another program" hold --link-a wifi-near -- true
expect "rules after a refusal" "$(rules)" -eq 0
kill $!
wait $! || true
eventually 10 bash -c '! grep -q "^ *4452 " /proc/net/netfilter/nfnetlink_queue'

# The folder of the real iptables is looked in whatever PATH says, so it is covered.
covered=$(dirname "$(realpath "$(command -v iptables)")")
without_iptables() { # COMMAND...
    # shellcheck disable=SC2016
    PATH=$WORK/bin unshare --mount bash -c 'mount -t tmpfs none "$0" && exec "$@"' "$covered" "$@"
}
mkdir "$WORK/bin"
for tool in bash ip mount tc true unshare; do cp "$(type -P "$tool")" "$WORK/bin/$tool"; done
refused "install iptables" without_iptables "$TWINLINK_BIN" link hold --backend userspace --link-a wifi-near -- true

# Programs that are there and refuse: what they say is what the user reads.
for tool in iptables iptables-restore; do
    printf '#!%s/bin/bash\necho "the table is locked by a policy" >&2\nexit 4\n' "$WORK" >"$WORK/bin/$tool"
    chmod 755 "$WORK/bin/$tool"
done
refused "says: the table is locked by a policy.*NET_ADMIN" without_iptables "$TWINLINK_BIN" link hold \
    --backend userspace --link-a wifi-near -- true
expect "rules after refused rules" "$(rules)" -eq 0

cat >"$WORK/twice.toml" <<'END'
description = "what a verdict cannot do"
[down]
rate = "10mbit"
queue = "100ms"
duplicate = "1%"
[up]
rate = "10mbit"
queue = "100ms"
END
refused "down.duplicate" hold --link-a "$WORK/twice.toml" -- true
refused "no process shapes links here" "$TWINLINK_BIN" link set a wifi-near

channel() { printf 'description = "x"\n[channel]\n[link.%s]\nphy = "%s"\nqueue = "50p"\n' "$@"; }
channel c 802.11a/6 >"$WORK/unknown.toml"
channel a 802.11a/7 >"$WORK/radio.toml"
refused "link \"c\" not found" hold --channel "$WORK/unknown.toml" -- true
refused "did you mean 802.11a/6" hold --channel "$WORK/radio.toml" -- true
refused "channel \"course-scenario-9\" not found" hold --channel course-scenario-9 -- true
channel a 802.11a/6 >"$WORK/good.toml"
refused "profile of its own" hold --channel "$WORK/good.toml" --link-a wifi-near -- true
refused "shared channel with netem" "$TWINLINK_BIN" link hold --backend netem --channel "$WORK/good.toml" -- true
expect "rules at the end" "$(rules)" -eq 0
