#!/bin/sh
# Builds out/vmlinuz and out/initramfs.cpio.gz from Debian's cloud kernel, busybox and the hello function. It installs nothing
# and needs no root. It needs Debian's apt-get with package lists (apt-get update), and cargo. It downloads once; remove out/
# to download again.
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

# Static, because the initramfs has no libraries. Its own target directory keeps these flags from rebuilding other crates.
target=x86_64-unknown-linux-gnu
RUSTFLAGS='-Ctarget-feature=+crt-static' CARGO_PROFILE_RELEASE_STRIP=true CARGO_TARGET_DIR=$out/target \
    cargo build --quiet --release --manifest-path "$here/../../Cargo.toml" --target $target --package hello
hello=$out/target/$target/release/hello

# shellcheck disable=SC2012 # the paths have no line ends
newest=$(ls -t "$out/initramfs.cpio.gz" "$hello" "$here/init" "$here/build.sh" "$out/packages/done" 2>/dev/null | head -n 1)
if [ "$newest" != "$out/initramfs.cpio.gz" ]; then
    root=$out/root
    rm -rf "$root"
    mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/modules"
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
    cp "$hello" "$root/hello"
    cp "$out"/packages/boot/vmlinuz-* "$out/vmlinuz"
    (cd "$root" && find . | "$busybox" cpio -o -H newc -R 0:0 2>/dev/null | gzip -9) >"$out/initramfs.new"
    mv "$out/initramfs.new" "$out/initramfs.cpio.gz"
fi
echo "$out/vmlinuz $out/initramfs.cpio.gz"
