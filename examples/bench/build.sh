#!/usr/bin/env bash
# Builds the benchmark function as a static program, and the image unifaas/bench with it and its files if Docker is running.
# It needs a Rust toolchain, but no network.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

host=$(rustc -vV | sed -n 's/^host: //p')
target=${CARGO_TARGET_DIR:-$PWD/target}/static
# With --target the flags apply to the program only, not to build scripts and macros, which cannot be static.
RUSTFLAGS="-C target-feature=+crt-static -C strip=symbols" \
  cargo build --locked --release --package bench-function --target "$host" --target-dir "$target"
program=$target/$host/release/bench-function
"$program" files "$target/bench"
echo "$program"

if ! docker info >/dev/null 2>&1; then
  echo "build.sh: Docker is not running, so there is no image" >&2
  exit
fi
tar --create --directory "$(dirname "$program")" bench-function --directory "$target" bench |
  docker import --change 'ENTRYPOINT ["/bench-function"]' - unifaas/bench
