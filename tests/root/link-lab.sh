#!/usr/bin/env bash
# netem/lab.sh: its exit code is the command's, two run side by side, and nothing is left of one, no
# matter how it ends.
# Runs alone: a lab that starts beside it would clean up what it examines.
. "$(dirname "$0")/../lib.sh"
needs_root

mkdir "$WORK/data"
echo hello >"$WORK/data/file"
lab() { "$ROOT/netem/lab.sh" "$@"; }
# Any server will do here; the lab's own is for other tests.
with_servers=(--data "$WORK/data" --server 'python3 -m http.server {PORT} --bind {ADDR} --directory {DATA}')
left() { # PID: what a lab with this process id has left
    ip netns list | grep "^twl-$1-" || true
    find /etc/netns -maxdepth 1 -name "twl-$1-*" 2>/dev/null || true
}
code_of() { local code=0; "$@" >"$WORK/out" 2>&1 || code=$?; echo "$code"; }

echo "== options"
expect "exit code without a command" "$(code_of lab)" -eq 2
expect "exit code of an unknown option" "$(code_of lab --no-such -- x)" -eq 2
expect "exit code without a value" "$(code_of lab --data)" -eq 2
expect "exit code for a missing folder" "$(code_of lab --data "$WORK/none" --exec true)" -eq 1
grep -q "cannot serve $WORK/none" "$WORK/out" || fail "no word of the folder: $(cat "$WORK/out")"
expect "exit code without root" "$(code_of setpriv --reuid 65534 --clear-groups bash "$ROOT/netem/lab.sh" --exec true)" -eq 1
grep -q 'without root' "$WORK/out" || fail "no word of root: $(cat "$WORK/out")"
expect "exit code with a server that ends" "$(code_of lab --data "$WORK/data" --server 'sh -c "echo out of order; exit 3"' --exec true)" -eq 1
grep -q 'out of order' "$WORK/out" || fail "the server's last words are missing: $(cat "$WORK/out")"

echo "== what the command gets"
expect "exit code of the command" "$(code_of lab --servers none --exec bash -c 'exit 37')" -eq 37
expect "what server-b serves" "$(lab "${with_servers[@]}" --exec curl -s http://server-b:4455/file)" = hello
lab "${with_servers[@]}" --server-logs "$WORK/logs" --exec curl -s -o /dev/null http://server-a:4455/file
grep -q 'GET /file' "$WORK/logs/server-a.jsonl" || fail "server-a's log is not there"
expect "stdin of the command" "$(echo words | lab --servers none --exec cat)" = words
expect "interfaces in the lab" "$(lab --servers none --exec ls /sys/class/net | grep -v '^ifb' | xargs)" = "eth0 lo"

echo "== every way to end"
start() { # COMMAND...: a lab in the background whose command is up; sets pid
    rm -f "$WORK/up"
    # A shell without job control has its background commands ignore SIGINT, which no script can undo.
    env --default-signal=INT "$ROOT/netem/lab.sh" "${with_servers[@]}" --exec "$@" >"$WORK/out" 2>&1 </dev/null &
    pid=$!
    eventually 60 test -e "$WORK/up"
}
ended() { # the exit code of the lab
    local code=0
    wait "$pid" || code=$?
    echo "$code"
}
# A command that notes which signal it got, and ends in its own way.
# shellcheck disable=SC2016
polite=(bash -c 'trap "echo TERM >\"$0/got\"; exit 5" TERM; trap "echo INT >\"$0/got\"; exit 6" INT; touch "$0/up"; while :; do sleep 0.1; done' "$WORK")
for each in "TERM TERM 5" "INT INT 6" "HUP TERM 5"; do
    read -r signal got code <<<"$each"
    start "${polite[@]}"
    other=''
    if [ "$signal" = TERM ]; then
        # A second lab beside the first, with the same addresses.
        other=$(lab "${with_servers[@]}" --exec curl -s http://server-a:4455/file)
        expect "a second lab beside the first" "$other" = hello
        expect "namespaces of the first, while it runs" "$(left "$pid" | grep -c '^twl-')" -eq 4
    fi
    kill -"$signal" "$pid"
    ended >"$WORK/code"
    expect "$signal: what the command got" "$(cat "$WORK/got")" = "$got"
    expect "$signal: what is left" "$(left "$pid")" = ""
done

start "${polite[@]}"
server=$(ip netns pids "twl-$pid-a" | head -n 1)
kill -KILL "$pid"
wait "$pid" 2>/dev/null || true
expect "killed outright: namespaces left at first" "$(ip netns list | grep -c "^twl-$pid-")" -eq 4
lab --servers none --exec true
expect "killed outright: what is left after the next lab" "$(left "$pid")" = ""
# It may wait for init to bury it, but it runs no more.
gone() { case $(sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2>/dev/null || true) in '' | Z | X) ;; *) return 1 ;; esac; }
eventually 10 gone "$server"

# shellcheck disable=SC2016
start bash -c 'trap "" TERM INT; touch "$0/up"; while :; do sleep 0.1; done' "$WORK"
kill -TERM "$pid"
sleep 0.5
kill -TERM "$pid"
ended >"$WORK/code"
expect "a deaf command, told twice: exit code" "$(cat "$WORK/code")" -eq 137
expect "a deaf command: what is left" "$(left "$pid")" = ""
