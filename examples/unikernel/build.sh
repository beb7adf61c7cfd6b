#!/bin/sh
# Builds unikernel.elf next to this script, if it is out of date.
#
# It uses the target x86_64-unknown-none if that is installed (rustup target add x86_64-unknown-none), else the host's Linux
# target: without SSE, without a red zone, and with fat LTO, which compiles `core` again with the same flags. rustc then
# warns that the target should have SSE (rust-lang/rust issue 116344). No function passes a float, so the ABI is the same.
set -eu
cd "$(dirname "$0")"

bare=x86_64-unknown-none
if ls "$(rustc --print target-libdir --target $bare)"/libcore-*.rlib >/dev/null 2>&1; then
    target=$bare
    RUSTFLAGS='-Crelocation-model=static'
else
    target=x86_64-unknown-linux-gnu
    RUSTFLAGS='-Crelocation-model=static -Ctarget-feature=-sse,-sse2 -Cno-redzone=y'
fi
export RUSTFLAGS
CARGO_TARGET_DIR=$PWD/target cargo build --quiet --release --target $target --bin unikernel
built=target/$target/release/unikernel

if ! cmp -s "$built" target/checked.elf || [ ! -e unikernel.elf ]; then
    # A vector or floating-point instruction would fault: those units are not enabled.
    objdump -d "$built" >target/disassembly
    if grep -m 5 -E '%[xyz]mm|%st' target/disassembly; then
        echo "build.sh: the instructions above use floating-point registers" >&2
        exit 1
    fi
    objcopy --strip-all "$built" unikernel.elf
    cp "$built" target/checked.elf
fi
echo "$PWD/unikernel.elf"
