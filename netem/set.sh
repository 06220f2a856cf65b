#!/usr/bin/env bash
# Gives a link another profile in the middle of a run: netem/set.sh a wifi-far (--lab NAME: in that lab).
exec "$(dirname "${BASH_SOURCE[0]}")/link.sh" set "$@"
