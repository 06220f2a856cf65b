#!/usr/bin/env bash
# A lab without Docker: two servers and a client in network namespaces of their own, joined by a
# bridge in a fourth, so that the machine's own network is neither used nor touched. Needs root.
# Only traps call some of the functions, which to shellcheck look unreachable.
# shellcheck disable=SC2317
set -euo pipefail

usage() {
    cat <<'EOF'
usage: netem/lab.sh [OPTIONS] -- CLIENT-OPTIONS…    runs: twinlink client CLIENT-OPTIONS… server-a server-b
       netem/lab.sh [OPTIONS] --exec COMMAND…       runs COMMAND in the client's namespace instead

  --data DIR          what both servers serve (default: 160 sample segments, made once)
  --data-b DIR        what server-b serves, where it differs
  --server-logs DIR   keep what the servers print, as DIR/server-a.jsonl and DIR/server-b.jsonl
  --server COMMAND    other servers, with {DATA} {ADDR} {PORT} {NAME} filled in, as in
                      --server 'python3 -m http.server {PORT} --bind {ADDR} --directory {DATA}'
  --servers none      no servers at all; COMMAND may start its own in $TWINLINK_NS_A and $TWINLINK_NS_B

Both ends know each other as server-a, server-b and client; the servers listen on port 4455.
$TWINLINK_BIN is the program (default: the release build, built if missing). $TWINLINK_SERVER_LOGS is
--server-logs. The exit code is that of the client or COMMAND; 2 is a mistake in the options.
EOF
}

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
PORT=4455

die() {
    echo "netem/lab.sh: $*" >&2
    exit 1
}

misused() {
    echo "netem/lab.sh: $*" >&2
    usage >&2
    exit 2
}

data='' data_b='' server='' servers=yes logs=${TWINLINK_SERVER_LOGS:-} command=()
while [ $# -gt 0 ]; do
    option=$1
    case $option in
    --data | --data-b | --server-logs | --server | --servers)
        [ $# -ge 2 ] || misused "$option needs a value"
        case $option in
        --data) data=$2 ;;
        --data-b) data_b=$2 ;;
        --server-logs) logs=$2 ;;
        --server) server=$2 ;;
        --servers)
            [ "$2" = none ] || misused "--servers takes only none"
            servers=none
            ;;
        esac
        shift 2
        ;;
    --exec)
        shift
        [ $# -gt 0 ] || misused "--exec needs a command"
        command=("$@")
        break
        ;;
    --)
        shift
        command=(twinlink-client "$@")
        break
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    *) misused "unknown option $option: the client's own options come after --" ;;
    esac
done
[ ${#command[@]} -gt 0 ] || misused "nothing to run: say -- or --exec"

[ "$(id -u)" -eq 0 ] || die "cannot make network namespaces without root: run it with sudo"
command -v ip >/dev/null || die "cannot make network namespaces: there is no program ip: install iproute2"

bin=${TWINLINK_BIN:-$ROOT/target/release/twinlink}
if [ ! -x "$bin" ]; then
    [ -z "${TWINLINK_BIN:-}" ] || die "cannot run $TWINLINK_BIN (\$TWINLINK_BIN): it is no program"
    cargo build --release --quiet --manifest-path "$ROOT/Cargo.toml" >&2 ||
        die "cannot build twinlink: see cargo's words above"
fi
bin=$(realpath "$bin")

# Namespaces carry this shell's pid, so labs can run side by side, and what a killed one left can be told.
lab=twl-$$
client=$lab-client bridge=$lab-bridge
# Some kernels have no IPv6.
ipv6=$([ ! -e /proc/net/if_inet6 ] || echo yes)
declare -A address=([a]=10.45.0.2 [b]=10.45.0.3 [client]=10.45.0.4)
work=$(mktemp -d "${TMPDIR:-/tmp}/twinlink-lab.XXXXXX")
server_pids=() child=''

alive() { kill -0 "$1" 2>/dev/null; }

# Ends a process: asks, waits for up to six seconds (a server may finish what is in flight), insists.
end() { # PID
    kill -TERM "$1" 2>/dev/null || return 0
    local i
    for ((i = 0; i < 120; i++)); do
        alive "$1" || return 0
        sleep 0.05
    done
    kill -KILL "$1" 2>/dev/null || true
}

remove_namespace() { # NAME
    local pid
    # Whatever still runs in there was started by the lab: nothing else knows of the namespace.
    for pid in $(ip netns pids "$1" 2>/dev/null); do
        kill -KILL "$pid" 2>/dev/null || true
    done
    ip netns del "$1" 2>/dev/null || true
    rm -rf "/etc/netns/${1:?}"
}

# Runs on every way out.
clean_up() {
    trap '' INT TERM HUP
    local pid name
    if [ -n "$child" ]; then end "$child"; fi
    for pid in "${server_pids[@]}"; do end "$pid" & done
    wait || true
    for name in a b client bridge; do remove_namespace "$lab-$name"; done
    rmdir /etc/netns 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# A lab that was killed outright left its namespaces; nobody else can remove them.
remove_dead_labs() {
    local name pid
    for name in $(ip netns list | sed -n 's/^\(twl-[0-9]*-[a-z]*\).*/\1/p'); do
        pid=${name#twl-}
        pid=${pid%%-*}
        [[ $(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline") == *lab.sh* ]] || remove_namespace "$name"
    done
}

make_host() { # NAME HOSTNAME
    local ns=$lab-$1
    ip netns add "$ns"
    mkdir -p "/etc/netns/$ns"
    cat >"/etc/netns/$ns/hosts" <<EOF
127.0.0.1 localhost
::1 localhost
${address[a]} server-a
${address[b]} server-b
${address[client]} client
fd45::2 server-a6
fd45::3 server-b6
EOF
    ip -n "$ns" link set lo up
    # Both ends are made in their namespaces: the machine's own never sees them.
    ip -n "$ns" link add eth0 type veth peer name "$2" netns "$bridge"
    ip -n "$bridge" link set "$2" master br0 up
    ip -n "$ns" address add "${address[$1]}/24" dev eth0
    # Without nodad an IPv6 address cannot be used until the check for duplicates is over.
    [ -z "$ipv6" ] || ip -n "$ns" address add "fd45::${address[$1]##*.}/64" dev eth0 nodad
    ip -n "$ns" link set eth0 up
    # As in compose.yaml. A kernel may refuse them in a namespace, and most labs do without.
    ip netns exec "$ns" sysctl -qw net.ipv4.tcp_no_metrics_save=1 \
        net.ipv4.tcp_rmem='4096 131072 33554432' net.ipv4.tcp_wmem='4096 65536 33554432' 2>/dev/null || true
}

make_network() {
    ip netns add "$bridge"
    ip -n "$bridge" link add br0 type bridge
    ip -n "$bridge" link set br0 up
    make_host a server-a
    make_host b server-b
    make_host client client
}

# Makes the sample segments once and shares them with later labs; a half-made set never shows.
sample_data() {
    local samples=$ROOT/target/samples fresh
    if [ ! -d "$samples" ]; then
        mkdir -p "$ROOT/target"
        fresh=$(mktemp -d "$ROOT/target/samples.XXXXXX")
        "$bin" segments "$fresh" >&2 || die "cannot make sample segments"
        chmod 755 "$fresh"
        mv -T "$fresh" "$samples" 2>/dev/null || rm -rf "$fresh"
    fi
    echo "$samples"
}

start_server() { # a|b DATA
    local name=server-$1 ns=$lab-$1 log run listen=0.0.0.0
    [ -z "$ipv6" ] || listen='[::]'
    log=${logs:+$logs/$name.jsonl}
    log=${log:-$work/$name.log}
    if [ -n "$server" ]; then
        run=${server//'{DATA}'/$2}
        run=${run//'{ADDR}'/${address[$1]}}
        run=${run//'{PORT}'/$PORT}
        run=${run//'{NAME}'/$name}
        ip netns exec "$ns" bash -c "exec $run" >"$log" 2>&1 </dev/null &
    else
        ip netns exec "$ns" "$bin" server --data "$2" --listen "$listen:$PORT" >"$log" 2>&1 </dev/null &
    fi
    server_pids+=($!)
}

# Looks until the server answers, or is gone, or two minutes are over: a large folder takes its time.
await_server() { # a|b PID
    local name=server-$1 i log
    log=${logs:+$logs/$name.jsonl}
    log=${log:-$work/$name.log}
    for ((i = 0; i < 2400; i++)); do
        if [ -n "$server" ]; then
            ip netns exec "$client" bash -c "exec 3<>/dev/tcp/$name/$PORT" 2>/dev/null && return 0
        else
            ip netns exec "$client" "$bin" health "$name:$PORT" >/dev/null 2>&1 && return 0
        fi
        alive "$2" || break
        sleep 0.05
    done
    tail -n 5 "$log" >&2 || true
    die "cannot run the lab: $name did not get ready; its last lines are above"
}

# Passes a signal on and goes on waiting, so that the command can end in its own way. A second one insists.
signals=0
pass_on() { # SIGNAL
    signals=$((signals + 1))
    if [ "$signals" -gt 1 ]; then
        kill -KILL "$child" 2>/dev/null || true
    else
        kill -"$1" "$child" 2>/dev/null || true
    fi
}

run_command() {
    if [ "${command[0]}" = twinlink-client ]; then
        command=("$bin" client "${command[@]:1}" server-a server-b)
    fi
    local run=(env --default-signal=INT --default-signal=QUIT "TWINLINK_CONTROL=$work/control.sock" "TWINLINK_BIN=$bin"
        "TWINLINK_NS_CLIENT=$client" "TWINLINK_NS_A=$lab-a" "TWINLINK_NS_B=$lab-b"
        ip netns exec "$client" "${command[@]}")
    trap 'pass_on TERM' TERM HUP
    if [ -t 0 ]; then
        # The terminal itself interrupts the command.
        trap ':' INT
        "${run[@]}" <&0 &
    else
        trap 'pass_on INT' INT
        setsid "${run[@]}" <&0 &
    fi
    child=$!
    local status
    while :; do
        status=0
        wait "$child" || status=$?
        # A signal ends the wait, but not the command.
        alive "$child" || break
    done
    # It may have ended while the signal was dealt with; then its own exit code is still to be had.
    local own=0
    wait "$child" 2>/dev/null || own=$?
    [ "$own" -eq 127 ] || status=$own
    child=''
    return "$status"
}

[ -z "$logs" ] || mkdir -p "$logs"
remove_dead_labs
if [ "$servers" = yes ]; then
    data=${data:-$(sample_data)}
    for dir in "$data" "${data_b:=$data}"; do
        [ -d "$dir" ] || die "cannot serve $dir: it is no folder"
    done
    data=$(realpath "$data") data_b=$(realpath "$data_b")
fi
make_network
if [ "$servers" = yes ]; then
    start_server a "$data"
    start_server b "$data_b"
    await_server a "${server_pids[0]}"
    await_server b "${server_pids[1]}"
fi
status=0
run_command || status=$?
exit "$status"
