#!/usr/bin/env bash
# Makes the image unifaas/hello: one static binary and nothing else. Needs a Rust toolchain and Docker, but no network.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

host=$(rustc -vV | sed -n 's/^host: //p')
target=${CARGO_TARGET_DIR:-$PWD/target}/static
# With --target the flags are for the program alone, not for build scripts and macros, which cannot be static.
RUSTFLAGS="-C target-feature=+crt-static -C strip=symbols" \
  cargo build --locked --release --package hello --target "$host" --target-dir "$target"

# As `FROM scratch`, `COPY hello /`, `ENTRYPOINT ["/hello"]` in a Dockerfile would do, without a builder.
tar --create --directory "$target/$host/release" hello |
  docker import --change 'ENTRYPOINT ["/hello"]' - unifaas/hello
