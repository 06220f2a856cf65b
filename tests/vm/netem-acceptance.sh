#!/usr/bin/env bash
# Profiles that are drawn by a seed on netem, by the same measure as the userspace backend's. One processor does
# everything here, and a virtual machine wakes late when its host is busy: rates are drawn up to 4 Mbit/s.
. "$(dirname "$0")/../lib.sh"
needs_root
needs_binary
in_a_lab "$@"
export ACCEPTANCE_VM=yes
modprobe sch_netem 2>/dev/null || true
# The interpreter itself: a version manager's wrapper before it costs seconds in the virtual machine.
PYTHON=$(python3 -c 'import sys; print(sys.executable)')
"$PYTHON" "$ROOT/tests/acceptance.py" run netem "${TWINLINK_ACCEPTANCE_SEED:-1}" "${TWINLINK_ACCEPTANCE_PROFILES:-2}" 4
