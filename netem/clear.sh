#!/usr/bin/env bash
# Takes the shaping away from one link (netem/clear.sh a) or from both (--lab NAME: in that lab).
exec "$(dirname "${BASH_SOURCE[0]}")/link.sh" clear "$@"
