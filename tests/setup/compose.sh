#!/usr/bin/env bash
# Makes sure that `docker compose` is version 2.20 or later, and prints the directory to use as
# DOCKER_CONFIG: the present one where that is so already, else target/tools/docker, into which
# the compose and buildx plugins of Debian trixie are unpacked. Usage:
#   DOCKER_CONFIG=$(tests/setup/compose.sh); export DOCKER_CONFIG
set -euo pipefail
. "$(dirname "$0")/common.sh"

recent_compose() { # DOCKER_CONFIG
    local version major minor
    version=$(DOCKER_CONFIG=$1 docker compose version --short 2>/dev/null) || return 1
    version=${version#v}
    major=${version%%.*}
    minor=${version#*.}
    minor=${minor%%.*}
    [ "$major" -gt 2 ] || { [ "$major" -eq 2 ] && [ "$minor" -ge 20 ]; }
}

have docker || die "cannot use docker compose: docker not found; install Docker Engine or Docker Desktop"
docker info >/dev/null 2>&1 ||
    die "cannot reach the docker daemon: start it, or join the group that may use it; 'docker info' says more"

present=${DOCKER_CONFIG:-${HOME:-/root}/.docker}
own=$TARGET/tools/docker
for config in "$present" "$own"; do
    if recent_compose "$config"; then
        printf '%s\n' "$config"
        exit 0
    fi
done

[ -n "$(debian_codename)" ] ||
    die "cannot find docker compose 2.20 or later: install docker's compose plugin (on Ubuntu: apt-get install docker-compose-v2 docker-buildx)"

say "unpacking docker's compose and buildx plugins into target/tools/docker"
mkdir -p "$own/cli-plugins"
work=$(mktemp -d "$TARGET/tools/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
debian_download trixie "$work" docker-compose docker-buildx
for package in "$work"/*.deb; do
    dpkg -x "$package" "$work/unpacked"
done
for plugin in docker-compose docker-buildx; do
    file=$(find "$work/unpacked" -path "*/cli-plugins/$plugin" -type f | head -n 1)
    [ -n "$file" ] || die "cannot find the plugin $plugin in Debian's package of that name"
    install -m 755 "$file" "$own/cli-plugins/$plugin"
done
recent_compose "$own" || die "cannot run the unpacked compose plugin: try '$own/cli-plugins/docker-compose version'"
printf '%s\n' "$own"
