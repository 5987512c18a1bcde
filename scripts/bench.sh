#!/usr/bin/env bash
# `make bench`: two comparisons. Fan-out: Braidcast, a bare-kernel loop of the same pacing and nginx-rtmp; relay: Braidcast and nginx's
# stream module, each before an nginx-rtmp.
# ARGS are the words for `braidcast bench`, then it is one comparison: `ARGS="fanout --quick" make bench`.
# Never leaves nginx running: the comparisons start their own and end it.

. "$(dirname "$0")/lib.sh"

steps=4
[ -z "${ARGS:-}" ] || steps=3
step 'looking for the Debian packages the comparison needs' 'about 1 minute if some are missing'
need_packages iproute2 nginx libnginx-mod-rtmp libnginx-mod-stream
need_rust
step 'building the server' 'about 4 minutes the first time'
attended cargo build --release --locked -p braidcast
if [ -n "${ARGS:-}" ]; then
  step 'measuring' 'about 10 minutes'
  # ARGS holds words for the command line.
  # shellcheck disable=SC2086
  attended target/release/braidcast bench $ARGS
  exit
fi
status=0
step 'measuring the fan-out' 'about 10 minutes'
attended target/release/braidcast bench fanout || status=$?
step 'measuring relays' 'about 2 minutes'
attended target/release/braidcast bench relay || status=$?
exit "$status"
