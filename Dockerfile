# One image for both roles: the binary, its sample segments, profiles and experiments.
# It needs nothing of BuildKit, so that an older engine without buildx builds it too.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src

# The dependencies are compiled from the manifest alone, with empty sources in the place of ours,
# so that this layer is built again only when the manifest or the lock file changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && echo 'fn main() {}' >src/main.rs \
    && : >src/lib.rs \
    && cargo build --release --locked --bin twinlink \
    && rm -r src

COPY src src
COPY netem netem
COPY experiments experiments
# Where this is a clone, the program is to know of which commit; the manifest is there for where it is not.
COPY Cargo.toml build.rs ./
COPY Cargo.toml .gi[t]/HEAD .gi[t]/packed-refs .git/
COPY Cargo.toml .gi[t]/refs/heads .git/refs/heads/
# Cargo goes by the time of change, and the copied files may be older than the empty ones were.
RUN find src -type f -exec touch {} + \
    && cargo build --release --locked --bin twinlink \
    && target/release/twinlink segments /segments

FROM debian:trixie-slim
# iproute2 has tc; iptables hands packets to the userspace backend.
RUN apt-get update \
    && apt-get install -y --no-install-recommends iproute2 iptables \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/twinlink /usr/local/bin/twinlink
COPY --from=build /segments /usr/share/twinlink/segments
COPY netem/profiles /usr/share/twinlink/netem/profiles
COPY netem/traces /usr/share/twinlink/netem/traces
COPY experiments /usr/share/twinlink/experiments
# TWINLINK_LAB tells the binary that the interfaces here are a lab's, which it may shape.
ENV TWINLINK_LAB=container \
    TWINLINK_SAMPLES=/usr/share/twinlink/segments \
    TWINLINK_PROFILES=/usr/share/twinlink/netem/profiles
ENTRYPOINT ["twinlink"]
