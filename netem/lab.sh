#!/usr/bin/env bash
# The lab without Docker: `twinlink lab` with the program of this checkout, built if it is missing.
# $TWINLINK_BIN names another program.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=${TWINLINK_BIN:-$ROOT/target/release/twinlink}
if [ ! -x "$bin" ]; then
    [ -z "${TWINLINK_BIN:-}" ] || { echo "cannot run \$TWINLINK_BIN: $bin is not a program" >&2; exit 1; }
    cargo build --release --quiet --manifest-path "$ROOT/Cargo.toml" >&2
fi
exec "$bin" lab "$@"
