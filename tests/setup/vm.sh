#!/usr/bin/env bash
# A virtual machine with a kernel that has sch_netem, on this machine's own files: Debian's user-mode
# Linux, a kernel that runs as a program, so that neither KVM nor an emulated processor is needed.
#   vm.sh prepare             fetches the kernel into target/vm, once
#   vm.sh run SCRIPT [ARGS]   boots, runs SCRIPT there as root, and exits with its exit code
# Inside, the tree and the rest of the machine are as outside, with /tmp, /run and /dev of its own.
# TWINLINK_* and CI are passed on. There is no network but what SCRIPT makes.
# VM_TIMEOUT (seconds, 1500) bounds a run, and VM_MEMORY (2G) sizes it.
set -euo pipefail
. "$(dirname "$0")/common.sh"

VM=$TARGET/vm

prepare() {
    local work
    "$(dirname "$0")/packages.sh" vm
    mkdir -p "$VM"
    cc -O2 -shared -fPIC -o "$VM/xstate.so" "$(dirname "$0")/xstate.c"
    [ ! -e "$VM/kernel/ready" ] || return 0
    is_root || die "cannot run a virtual machine: not root"
    if [ -z "$(debian_codename)" ] || [ "$(dpkg --print-architecture)" != amd64 ]; then
        die "cannot fetch a kernel for the virtual machine: this needs Debian on amd64; where 'modprobe sch_netem' works, run 'sudo tests/run.sh tests/vm' instead"
    fi
    say "fetching Debian's user-mode Linux into target/vm"
    rm -rf "$VM/kernel"
    work=$(mktemp -d "$VM/fetch.XXXXXX")
    debian_download "$(debian_codename)" "$work" user-mode-linux
    dpkg -x "$work"/user-mode-linux_*.deb "$VM/kernel"
    rm -rf "$work"
    [ -n "$(find "$VM/kernel" -name 'sch_netem.ko*')" ] || die "cannot use this kernel: it has no sch_netem module"
    : >"$VM/kernel/ready"
}

# The first process of the machine: it sets up what the distribution's init would have, and leaves
# output and exit code in files.
guest_script() { # RUN SCRIPT [ARGS]
    local run=$1 name
    shift
    echo '#!/bin/bash'
    for name in $(compgen -e TWINLINK_) CI PATH HOME; do
        [ -z "${!name+set}" ] || printf 'export %s=%q\n' "$name" "${!name}"
    done
    cat <<'END'
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
ln -s /proc/self/fd /dev/fd
mkdir /dev/pts /dev/shm
mount -t devpts pts /dev/pts
for each in /tmp /run /dev/shm /usr/lib/modules; do mount -t tmpfs tmpfs "$each"; done
ip link set lo up
END
    printf 'cp -r %q/* /usr/lib/modules\ndepmod\n' "$VM/kernel/usr/lib/uml/modules"
    printf 'cd %q\n' "$ROOT"
    printf '%q ' "$@"
    printf '>%q 2>%q </dev/null\n' "$run/out" "$run/err"
    printf 'echo $? >%q\nhalt -f -p\n' "$run/status"
}

run() { # SCRIPT [ARGS]
    local script=$1 run uml shown status=
    shift
    [ -f "$script" ] || die "cannot run '$script' in the virtual machine: no such file"
    script=$(realpath "$script")
    run=$(mktemp -d "$VM/run.XXXXXX")
    : >"$run/out"
    : >"$run/err"
    guest_script "$run" "$script" "$@" >"$run/init"
    chmod 755 "$run/init"
    # Where the machine's own modules are mounted inside.
    mkdir -p /usr/lib/modules

    # Its memory is a file, which is quick only where files are in memory.
    TMPDIR=/dev/shm timeout -k 10 "${VM_TIMEOUT:-1500}" env LD_PRELOAD="$VM/xstate.so" \
        "$VM/kernel/usr/bin/linux.uml" rootfstype=hostfs rootflags=/ rw mem="${VM_MEMORY:-2G}" init="$run/init" con=null con0=fd:0,fd:1 </dev/null >"$run/console" 2>&1 &
    uml=$!
    # shellcheck disable=SC2064
    trap "kill $uml 2>/dev/null || true; rm -rf $(printf %q "$run")" EXIT
    trap 'exit 130' INT TERM
    # What the script prints is shown while it runs.
    tail -q -n +1 -s 0.5 -f --pid="$uml" "$run/out" &
    shown=$!
    tail -q -n +1 -s 0.5 -f --pid="$uml" "$run/err" >&2 &
    shown="$shown $!"
    wait "$uml" || true
    # shellcheck disable=SC2086
    wait $shown
    status=$(cat "$run/status" 2>/dev/null || true)
    if [ -z "$status" ]; then
        tail -n 30 "$run/console" >&2
        die "cannot run '$script' to its end in the virtual machine: it left no exit code within ${VM_TIMEOUT:-1500} s; its console's last lines are above"
    fi
    exit "$status"
}

case ${1:-} in
prepare)
    prepare
    ;;
run)
    [ $# -ge 2 ] || die "cannot run anything in the virtual machine: usage: vm.sh run SCRIPT [ARGS]"
    prepare
    shift
    run "$@"
    ;;
*)
    die "usage: vm.sh prepare | vm.sh run SCRIPT [ARGS]"
    ;;
esac
