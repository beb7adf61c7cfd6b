#!/usr/bin/env bash
# Measures examples/bench/registry with the quick preset, and replaces the example report in docs/bench-example: report.md and
# its plots. The arguments are the program, and further options of `unifaas bench`.
#
#   examples/bench/report.sh target/release/unifaas
#
# It builds the guests and the image first, and takes 20 minutes at most if they are there. It needs root. If no Docker
# engine runs, it starts one for itself, in a network of its own, and removes it at the end (needs dockerd and containerd).
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || { echo "usage: report.sh UNIFAAS [OPTION]..." >&2; exit 2; }
unifaas=$(realpath "$1")
shift
results=target/bench-example
example=docs/bench-example
log=$PWD/target/bench-example.log
mkdir -p target
case " $* " in
*" --budget"*) limit=() ;;
*) limit=(--budget 17) ;; # what is left of 20 minutes goes to the builds and the engine
esac

# Runs a command in the network of the engine, if that has its own.
inside() { "$@"; }

engine=
scratch=$(mktemp -d)
clean_up() {
  if [ -n "$engine" ]; then
    exec {lifeline}>&- # the engine ends with it
    wait "$engine" || true
  fi
  rm -rf "$scratch"
}
trap clean_up EXIT

if ! docker info >/dev/null 2>&1; then
  mkfifo "$scratch/lifeline"
  # With job control, so that neither Ctrl-C nor an ignored signal reaches it.
  set -m
  unshare --net -- integration/engine/run "$scratch/engine" <"$scratch/lifeline" >"$log" 2>&1 &
  set +m
  engine=$!
  exec {lifeline}>"$scratch/lifeline"
  export DOCKER_HOST=unix://$scratch/engine/docker.sock
  for _ in $(seq 600); do
    docker info >/dev/null 2>&1 && break
    kill -0 "$engine" 2>/dev/null || { echo "report.sh: no Docker engine, see $log" >&2; exit 1; }
    sleep 0.2
  done
  # Not `ip netns exec`, which hides the cgroups.
  inside() { nsenter --net="/proc/$engine/ns/net" -- "$@"; }
fi

{ examples/unikernel/build.sh && examples/linux-microvm/build.sh bench && examples/bench/build.sh; } >>"$log" 2>&1 ||
  { echo "report.sh: a guest or the image cannot be built, see $log" >&2; exit 1; }

rm -rf "$results"
inside "$unifaas" bench -r examples/bench/registry --quick "${limit[@]}" --simulate --seed 1 --out "$results" "$@"
rm -rf "$example"
mkdir "$example"
cp -r "$results/plots" "$example"
rm -f "$example"/plots/*.pdf "$example"/plots/*.png
# The largest plots are left out.
cp "$results/report.md" "$example"
for plot in cold-timeline cold-ecdf throughput burst-first load-p50 memory-steps; do
  rm -f "$example/plots/$plot.svg"
  sed -i "/plots\/$plot\.svg/d" "$example/report.md"
done
du -sh "$example"
