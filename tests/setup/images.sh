#!/usr/bin/env bash
# Makes sure that the Dockerfile's base images are there: those already present are kept, the
# official ones are pulled where a registry answers, and where none does a stand-in is made from
# Debian's packages (and this machine's own Rust toolchain) under the same name.
set -euo pipefail
. "$(dirname "$0")/common.sh"

# The Debian release of an image goes by the word in its tag.
suite_of() {
    case $1 in
    *bookworm*) echo bookworm ;;
    *trixie*) echo trixie ;;
    *) die "cannot make a stand-in for $1: its tag names no Debian release that is known here" ;;
    esac
}

# Unpacks a small Debian, with the given packages, into a directory. Like the official image, it
# keeps neither documentation nor what apt downloads.
debian_root() { # SUITE DIR PACKAGES
    "$(dirname "$0")/packages.sh" images
    debian_sources "$1" "$work/sources-$1"
    local sources=("$work/sources-$1"/*)
    mmdebstrap --quiet --variant=minbase --include="$3" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' \
        "$1" "$2" "${sources[@]}" >&2
    printf '%s\n' 'Dir::Cache::pkgcache "";' 'Dir::Cache::srcpkgcache "";' \
        'APT::Keep-Downloaded-Packages "false";' >"$2/etc/apt/apt.conf.d/small-image"
}

import() { # IMAGE DIR [docker import's options]
    local image=$1 dir=$2
    shift 2
    tar -C "$dir" --one-file-system -c . |
        docker import -c 'LABEL twinlink.stand-in=yes' "$@" - "$image" >/dev/null
}

stand_in_debian() { # IMAGE
    debian_root "$(suite_of "$1")" "$work/debian" ca-certificates
    import "$1" "$work/debian" -c 'CMD ["bash"]'
}

# The official image keeps cargo and rustc under /usr/local/cargo; so does this one. The
# toolchain finds its libraries beside the folder that it is started from.
stand_in_rust() { # IMAGE
    local wanted=${1#rust:} sysroot version
    wanted=${wanted%%-*}
    have rustc || die "cannot make a stand-in for $1: rustc not found; install Rust $wanted"
    version=$(rustc --version | cut -d' ' -f2)
    case $version in
    "$wanted" | "$wanted".*) ;;
    *) die "cannot make a stand-in for $1: rustc here is $version; install Rust $wanted" ;;
    esac
    sysroot=$(rustc --print sysroot)
    debian_root "$(suite_of "$1")" "$work/rust" ca-certificates,gcc,libc6-dev,pkg-config
    mkdir -p "$work/rust/usr/local/cargo"
    cp -a "$sysroot/bin" "$sysroot/lib" "$work/rust/usr/local/cargo/"
    # Where connections pass through a proxy of the owner's, its certificate is in this bundle.
    if [ -f /etc/ssl/certs/ca-certificates.crt ]; then
        cp /etc/ssl/certs/ca-certificates.crt "$work/rust/etc/ssl/certs/ca-certificates.crt"
    fi
    import "$1" "$work/rust" -c 'ENV CARGO_HOME=/usr/local/cargo' \
        -c 'ENV PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'
}

mkdir -p "$TARGET/tools"
work=$(mktemp -d "$TARGET/tools/images.XXXXXX")
trap 'rm -rf "$work"' EXIT

mapfile -t images < <(sed -n 's/^FROM \([^ ]*\).*/\1/p' "$ROOT/Dockerfile" | sort -u)
[ ${#images[@]} -gt 0 ] || die "cannot read the base images: no FROM line in the Dockerfile"
for image in "${images[@]}"; do
    if docker image inspect "$image" >/dev/null 2>&1; then
        continue
    fi
    say "pulling $image"
    if timeout "${PULL_TIMEOUT:-300}" docker pull --quiet "$image" >/dev/null 2>"$work/pull.log"; then
        continue
    fi
    say "cannot pull $image ($(tail -n 1 "$work/pull.log")); making a stand-in from Debian's packages"
    is_root || die "cannot make a stand-in for $image: not root; run: sudo tests/setup/images.sh"
    case $image in
    debian:*) stand_in_debian "$image" ;;
    rust:*) stand_in_rust "$image" ;;
    *) die "cannot make a stand-in for $image: only debian and rust images are known" ;;
    esac
done
