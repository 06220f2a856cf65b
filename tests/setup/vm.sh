#!/usr/bin/env bash
# A small virtual machine with a kernel that has sch_netem, on this machine's own files:
#   vm.sh prepare             fetches Debian's generic kernel and virtme-ng into target/vm, once
#   vm.sh run SCRIPT [ARGS]   boots, runs SCRIPT there as root, and exits with its exit code
# Inside, the tree and the rest of the machine are as outside, but only what is written under
# target/ stays. TWINLINK_* and CI are passed on. There is no network but what SCRIPT makes.
# VM_TIMEOUT (seconds, 1800) bounds a run, VM_MEMORY (4G) and VM_CPUS (2) size it, and VM_KVM=1
# uses the processor's own virtualization.
set -euo pipefail
. "$(dirname "$0")/common.sh"

VM=$TARGET/vm

kernel_image() { find "$VM/kernel/boot" -name 'vmlinuz-*' 2>/dev/null | head -n 1; }

prepare_kernel() {
    [ ! -e "$VM/kernel/ready" ] || return 0
    local work package version
    if [ -z "$(debian_codename)" ] || [ "$(dpkg --print-architecture)" != amd64 ]; then
        die "could not fetch a kernel for the virtual machine: this needs Debian on amd64; where 'modprobe sch_netem' works, run 'sudo tests/run.sh tests/vm' instead"
    fi
    say "fetching Debian's generic kernel into target/vm"
    rm -rf "$VM/kernel"
    work=$(mktemp -d "$VM/fetch.XXXXXX")
    # The metapackage names the current kernel. The cloud kernel would lack 9p.
    debian_download "$(debian_codename)" "$work" linux-image-amd64
    package=$(dpkg-deb --field "$work"/linux-image-amd64_*.deb Depends | sed 's/[ ,(].*//')
    debian_download "$(debian_codename)" "$work" "$package"
    dpkg -x "$work/$package"_*.deb "$VM/kernel"
    rm -rf "$work"
    version=$(basename "$VM"/kernel/lib/modules/*)
    depmod -b "$VM/kernel" "$version"
    [ -e "$VM/kernel/lib/modules/$version/kernel/net/sched/sch_netem.ko" ] ||
        [ -e "$VM/kernel/lib/modules/$version/kernel/net/sched/sch_netem.ko.xz" ] ||
        die "could not use kernel $version: it has no sch_netem module"
    : >"$VM/kernel/ready"
}

prepare_virtme() {
    [ ! -e "$VM/virtme/ready" ] || return 0
    say "installing virtme-ng into target/vm"
    rm -rf "$VM/virtme"
    /usr/bin/python3 -m venv "$VM/virtme"
    "$VM/virtme/bin/pip" install --quiet virtme-ng==1.42 >&2
    : >"$VM/virtme/ready"
}

prepare() {
    "$(dirname "$0")/packages.sh" vm
    mkdir -p "$VM"
    prepare_kernel
    prepare_virtme
}

# The script that the machine runs: it sets up what the distribution's init would have, then
# leaves output and exit code in files, since the virtual console loses both on this kernel.
guest_script() { # RUN SCRIPT [ARGS]
    local run=$1 name
    shift
    echo '#!/usr/bin/env bash'
    for name in $(compgen -e TWINLINK_) CI PATH HOME; do
        [ -z "${!name+set}" ] || printf 'export %s=%q\n' "$name" "${!name}"
    done
    printf 'cd %q\n' "$ROOT"
    printf 'ip link set lo up\n'
    printf '%q ' "$@"
    printf '>%q 2>%q </dev/null\n' "$run/out" "$run/err"
    printf 'echo $? >%q\n' "$run/status"
}

run() { # SCRIPT [ARGS]
    local script=$1 run vng status=
    shift
    [ -f "$script" ] || die "could not run '$script' in the virtual machine: no such file"
    script=$(realpath "$script")
    run=$(mktemp -d "$VM/run.XXXXXX")
    : >"$run/out"
    : >"$run/err"
    guest_script "$run" "$script" "$@" >"$run/guest.sh"
    chmod 755 "$run/guest.sh"

    # The processor is emulated unless asked otherwise: a nested /dev/kvm is often there and broken.
    local accelerate=(--disable-kvm)
    if [ -n "${VM_KVM:-}" ]; then accelerate=(); fi
    PATH=$VM/virtme/bin:$PATH timeout -k 10 "${VM_TIMEOUT:-1800}" \
        vng --verbose --run "$(kernel_image)" "${accelerate[@]}" --force-9p --cpus "${VM_CPUS:-2}" \
        --memory "${VM_MEMORY:-4G}" --user root --rwdir "$TARGET" -- "$run/guest.sh" \
        </dev/null >"$run/console" 2>&1 &
    vng=$!
    # shellcheck disable=SC2064
    trap "kill $vng 2>/dev/null || true; rm -rf $(printf %q "$run")" EXIT
    trap 'exit 130' INT TERM
    # What the script prints is shown while it runs.
    tail -q -n +1 -s 0.5 -f --pid="$vng" "$run/out" &
    local shown=$!
    tail -q -n +1 -s 0.5 -f --pid="$vng" "$run/err" >&2 &
    shown="$shown $!"
    wait "$vng" || true
    # shellcheck disable=SC2086
    wait $shown
    status=$(cat "$run/status" 2>/dev/null || true)
    if [ -z "$status" ]; then
        tail -n 30 "$run/console" >&2
        die "could not run '$script' to its end in the virtual machine: it left no exit code within ${VM_TIMEOUT:-1800} s; its console's last lines are above"
    fi
    exit "$status"
}

case ${1:-} in
prepare)
    prepare
    ;;
run)
    [ $# -ge 2 ] || die "could not run anything in the virtual machine: usage: vm.sh run SCRIPT [ARGS]"
    prepare
    shift
    run "$@"
    ;;
*)
    die "usage: vm.sh prepare | vm.sh run SCRIPT [ARGS]"
    ;;
esac
