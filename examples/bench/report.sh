#!/bin/sh
# Measures examples/bench/registry with the quick preset, and replaces the example report in docs/bench-example: report.md and
# its plots. The arguments are the program, and further options of `unifaas bench`.
#
#   examples/bench/report.sh target/release/unifaas
set -eu
cd "$(dirname "$0")/../.."
[ $# -gt 0 ] || { echo "usage: report.sh UNIFAAS [OPTION]..." >&2; exit 2; }
unifaas=$1
shift
results=target/bench-example
example=docs/bench-example

rm -rf "$results"
"$unifaas" bench -r examples/bench/registry --quick --simulate --seed 1 --out "$results" "$@"
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
