#!/usr/bin/env bash
# The lab without Docker: `twinlink lab` with the program of this checkout, built if it is missing.
# $TWINLINK_BIN names another program.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=${TWINLINK_BIN:-$ROOT/target/release/twinlink}
# A program older than the tree is built anew, where the tree is this user's to build in.
stale() { [ -z "${TWINLINK_BIN:-}" ] && [ -n "$(find "$ROOT/src" "$ROOT/Cargo.toml" -newer "$bin" -print -quit)" ]; }
if [ ! -x "$bin" ] || stale; then
    [ -z "${TWINLINK_BIN:-}" ] || { echo "cannot run \$TWINLINK_BIN: $bin is not a program" >&2; exit 1; }
    # sudo resets PATH; cargo is mostly in the home of the user who called it.
    user=${SUDO_USER:-$(id -un)}
    PATH=$PATH:$(getent passwd "$user" | cut -d: -f6)/.cargo/bin
    cargo=$(command -v cargo) || { echo "cannot build twinlink: cargo not found: install Rust, or set \$TWINLINK_BIN" >&2; exit 1; }
    build=(env "PATH=$PATH" "$cargo" build --release --manifest-path "$ROOT/Cargo.toml")
    # The user has the toolchain, and keeps the files.
    [ -z "${SUDO_USER:-}" ] || build=(sudo -u "$SUDO_USER" -H "${build[@]}")
    echo "netem/lab.sh: building twinlink, which takes some minutes" >&2
    "${build[@]}" >&2
fi
exec "$bin" lab "$@"
