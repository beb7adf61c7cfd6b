# What the commands of this directory need from outside, and how it gets there. To be sourced by bash.

# Command and Debian packages of everything that is used besides cargo.
readonly BUILD_TOOLS=("cc gcc libc6-dev" "objdump binutils")
# For a private container engine, which only root can start.
readonly ENGINE_TOOLS=(
  "dockerd docker.io" "docker docker.io" "containerd containerd" "runc runc" "runsc runsc" "iptables iptables"
  "ip iproute2" "unshare util-linux" "ldd libc-bin"
)
# For virtual machines.
readonly VM_TOOLS=("qemu-system-x86_64 qemu-system-x86" "nft nftables")

have() { command -v "$1" >/dev/null 2>&1; }

# missing_packages TOOL...: the packages of those that are not there, on one line.
missing_packages() {
  local tool
  for tool in "$@"; do
    have "${tool%% *}" || echo "${tool#* }"
  done | xargs
}

# Why packages cannot be installed here; nothing if they can.
obstacle_to_installing() {
  if ! have apt-get; then
    echo "this is no Debian"
  elif ((EUID != 0)); then
    echo "only root may"
  fi
}

# install_packages PACKAGE...
install_packages() (
  export DEBIAN_FRONTEND=noninteractive
  # Programs are wanted, not services: an engine or a proxy for the whole host is nobody's wish here.
  policy=/usr/sbin/policy-rc.d
  if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
  fi
  apt-get -o DPkg::Lock::Timeout=120 update &&
    apt-get -o DPkg::Lock::Timeout=120 install --yes --no-install-recommends "$@" || return
  # Nor at the next boot.
  if have systemctl; then
    for package in "$@"; do
      systemctl --quiet disable "${package%.io}.service" "${package%.io}.socket" 2>/dev/null || true
    done
  fi
)
