#!/usr/bin/env bash
# Builds the image unifaas/hello: one static binary and nothing else. It needs a Rust toolchain and Docker, but no network.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

host=$(rustc -vV | sed -n 's/^host: //p')
target=${CARGO_TARGET_DIR:-$PWD/target}/static
# With --target the flags apply to the program only, not to build scripts and macros, which cannot be static.
RUSTFLAGS="-C target-feature=+crt-static -C strip=symbols" \
  cargo build --locked --release --package hello --target "$host" --target-dir "$target"

# Equivalent to a Dockerfile with `FROM scratch`, `COPY hello /`, `ENTRYPOINT ["/hello"]`, but without a builder.
tar --create --directory "$target/$host/release" hello |
  docker import --change 'ENTRYPOINT ["/hello"]' - unifaas/hello
