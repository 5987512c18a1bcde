#!/usr/bin/env bash
# `make soak`: the long form of the chaos test, with pauses judged: 50 streams, 500 viewers, two minutes of faults chosen by a seed.
# Then a day of streams and viewers that come and go, by a clock that runs 288 times as fast: memory in the evening is that of the morning.
# BRAIDCAST_TEST_SEED  the seed; without it, another one each time, which is printed

. "$(dirname "$0")/lib.sh"

steps=4
step 'looking for the Debian packages the test needs' 'about 1 minute if some are missing'
need_packages ffmpeg
need_rust
step 'building the server' 'about 5 minutes the first time'
attended build_with_faults release
step 'two minutes of faults' 'about 4 minutes'
export BRAIDCAST_BIN="$PWD/target/release/braidcast" BRAIDCAST_TEST_SOAK=1
attended cargo test --locked -p braidcast-e2e --test soak -- --nocapture nobody_notices_anything_for_long
step 'a simulated day' 'about 6 minutes'
attended cargo test --locked -p braidcast-e2e --test day -- --nocapture a_day_leaves_no_more_than_an_hour
