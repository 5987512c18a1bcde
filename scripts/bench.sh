#!/usr/bin/env bash
# `make bench`: the fan-out comparison: Braidcast, a bare-kernel loop of the same pacing and nginx-rtmp, in one run.
# ARGS are the words for `braidcast bench`, `fanout` if not given: `ARGS="fanout --quick" make bench`.
# Never leaves nginx running: the comparison starts its own and ends it.

. "$(dirname "$0")/lib.sh"

steps=3
step 'looking for the Debian packages the comparison needs' 'about 1 minute if some are missing'
need_packages iproute2 nginx libnginx-mod-rtmp libnginx-mod-stream
need_rust
step 'building the server' 'about 4 minutes the first time'
attended cargo build --release --locked -p braidcast
step 'measuring' 'about 10 minutes'
# ARGS holds words for the command line.
# shellcheck disable=SC2086
attended target/release/braidcast bench ${ARGS:-fanout}
