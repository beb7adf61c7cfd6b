#!/bin/sh
# Builds out/vmlinuz and out/initramfs.cpio.gz from Debian's cloud kernel, busybox and the hello function. With the word bench,
# also out/bench.cpio.gz with the benchmark function, and out/bench.ext4 with its files. It installs nothing and needs no
# root. It needs Debian's apt-get with package lists (apt-get update), and cargo. It downloads once; remove out/ to download
# again.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$here/out
modules='failover net_failover virtio_ring virtio virtio_mmio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_net virtio_blk'
mkdir -p "$out"

if [ ! -e "$out/packages/done" ]; then
    rm -rf "$out/packages"
    mkdir "$out/packages"
    cd "$out/packages"
    # The package of that name is empty and depends on the current kernel.
    kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-.*\)/\1/p' | head -n 1)
    [ -n "$kernel" ] || { echo "build.sh: the package lists have no linux-image-cloud-amd64: run apt-get update" >&2; exit 1; }
    apt-get --quiet download "$kernel" busybox-static
    for package in *.deb; do
        dpkg-deb -x "$package" .
    done
    rm ./*.deb
    touch "done"
fi

# Prints the path of a static program, because the initramfs has no libraries. Its own target directory keeps these flags
# from rebuilding other crates.
program() {
    target=x86_64-unknown-linux-gnu
    RUSTFLAGS='-Ctarget-feature=+crt-static' CARGO_PROFILE_RELEASE_STRIP=true CARGO_TARGET_DIR=$out/target \
        cargo build --quiet --release --manifest-path "$here/../../Cargo.toml" --target $target --package "$1"
    echo "$out/target/$target/release/$1"
}

# Packs the initramfs $1 with the program $2, unless it is newer than all that it is made of.
initramfs() {
    # shellcheck disable=SC2012 # the paths have no line ends
    newest=$(ls -t "$1" "$2" "$here/init" "$here/build.sh" "$out/packages/done" 2>/dev/null | head -n 1)
    [ "$newest" != "$1" ] || return 0
    root=$out/root
    rm -rf "$root"
    mkdir -p "$root/bin" "$root/bench" "$root/dev" "$root/proc" "$root/modules"
    busybox=$(find "$out/packages" -path '*bin/busybox' -type f)
    cp "$busybox" "$root/bin/busybox"
    for tool in sh mount cat insmod hostname ifconfig route reboot; do
        ln -s busybox "$root/bin/$tool"
    done
    for module in $modules; do
        file=$(find "$out/packages" -name "$module.ko*" -type f)
        case $file in
        *.ko) cp "$file" "$root/modules/" ;;
        *.ko.xz) xz -dc "$file" >"$root/modules/$module.ko" ;;
        *) echo "build.sh: this kernel has no module $module" >&2; exit 1 ;;
        esac
    done
    echo "$modules" >"$root/modules/order"
    install -m 755 "$here/init" "$root/init"
    cp "$2" "$root/hello"
    cp "$out"/packages/boot/vmlinuz-* "$out/vmlinuz"
    (cd "$root" && find . | "$busybox" cpio -o -H newc -R 0:0 2>/dev/null | gzip -9) >"$1.new"
    mv "$1.new" "$1"
}

hello=$(program hello)
initramfs "$out/initramfs.cpio.gz" "$hello"
echo "$out/vmlinuz $out/initramfs.cpio.gz"

if [ "${1-}" = bench ]; then
    function=$(program bench-function)
    initramfs "$out/bench.cpio.gz" "$function"
    if [ ! -e "$out/bench.ext4" ]; then
        "$function" files "$out/files"
        # Without a journal, as nothing is ever written to it.
        "$(PATH=$PATH:/sbin:/usr/sbin command -v mke2fs)" -q -t ext4 -O ^has_journal -d "$out/files" "$out/bench.new" 80M
        mv "$out/bench.new" "$out/bench.ext4"
        rm -r "$out/files"
    fi
    echo "$out/bench.cpio.gz $out/bench.ext4"
fi
