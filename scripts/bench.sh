#!/usr/bin/env bash
# `make bench`: the whole table of docs/benchmarks.md, measured one after another within half an hour, then written into that page.
# ARGS are the words for `braidcast bench`, then it is that alone and no page is written: `ARGS="fanout --quick" make bench`.
# BENCH_XIU=0 leaves xiu out: to build it the first time takes longer than everything else.
# Leaves no server running: the bench starts its own and ends them.

. "$(dirname "$0")/lib.sh"

figures=target/bench
bench=target/release/braidcast

steps=14
[ -z "${ARGS:-}" ] || steps=3
step 'looking for the Debian packages the comparison needs' 'about 1 minute if some are missing'
need_packages iproute2 nginx libnginx-mod-rtmp libnginx-mod-stream
need_rust
step 'building the server' 'about 4 minutes the first time'
attended cargo build --release --locked -p braidcast
if [ -n "${ARGS:-}" ]; then
  step 'measuring' 'a minute to half an hour'
  # ARGS holds words for the command line.
  # shellcheck disable=SC2086
  attended "$bench" bench $ARGS
  exit
fi
step 'building xiu, a server to compare with, unless it is there or BENCH_XIU=0' 'about 15 minutes the first time'
if [ "${BENCH_XIU:-1}" != 0 ] && [ ! -x target/tools/bin/xiu ]; then
  need_packages pkg-config libopus-dev
  attended cargo install xiu --version 0.14.0 --locked --quiet --root target/tools --target-dir target/tools/build ||
    printf 'xiu cannot be built here: it is left out\n' >&2
fi

mkdir -p "$figures"
rm -rf "$figures"/*.json "$figures"/curve.* "$figures"/flames
failed=()

# measure NAME WORD…: one comparison. One that fails does not stop the others; nor is the page kept back.
measure() {
  local name=$1
  shift
  attended "$bench" bench "$@" --json "$figures/$name.json" || failed+=("$name")
}

# Windows are short and many: what is compared is what happened in the same few seconds.
paired='--window 3 --warm-up 1 --settle 0.5'
step 'fan-out, every frame flushed, ten pairs, loopback and MTU 1500' 'about 9 minutes'
# $paired holds words.
# shellcheck disable=SC2086
measure fanout fanout --latency low --rounds 10 --peer-rounds 3 $paired --flames "$figures/flames"
step 'fan-out in batches of 350 ms' 'about 5 minutes'
# Twenty batches long: what a shorter window holds depends on where it begins.
measure batches fanout --latency 350 --rounds 4 --window 7 --warm-up 1 --settle 0.5 --servers bare,braidcast
step 'latency against CPU' 'about 2 minutes'
# shellcheck disable=SC2086
measure curve curve --rounds 2 $paired
step 'viewers that one core sustains' 'about 3 minutes'
measure capacity capacity --first 17000 --most 17000 --tries 3 --window 5 --warm-up 3 --servers bare,braidcast
measure capacity-peers capacity --protocol rtmp --first 1000 --most 8000 --tries 4 --window 3 --warm-up 1 --servers nginx-rtmp,xiu
step 'taking in 300 streams' 'about 5 minutes'
measure ingest ingest --rounds 3 --window 4 --warm-up 1 --settle 0.5
measure ingest-patient ingest --patience 200 --rounds 2 --window 4 --warm-up 1 --settle 0.5 --servers bare,braidcast
step 'taking in 300 streams, with HLS' 'about 3 minutes'
measure ingest-hls ingest --hls --rounds 3 --window 8 --warm-up 6 --settle 0.5 --servers braidcast,nginx-rtmp
step '500 HLS viewers, beside nginx and the same files' 'about 2 minutes'
measure hls hls --rounds 3 --window 8 --warm-up 3
step '20,000 connections a minute; 5,000 viewers within 2 s' 'about 1 minute'
measure churn churn
measure viral viral
step '1, 2, 4, 8 workers: one stream at all of them, 3,000 small streams' 'about 2 minutes'
measure scale scale --rounds 1 --window 4 --warm-up 1 --settle 0.5
step 'relaying' 'about 1 minute'
measure relay relay --rounds 3 --window 4 --warm-up 1 --settle 1
step 'writing docs/benchmarks.md' 'a moment'
attended "$bench" bench document --figures "$figures" --page docs/benchmarks.md
[ ${#failed[@]} -eq 0 ] || die "these failed or missed frames: ${failed[*]}"
