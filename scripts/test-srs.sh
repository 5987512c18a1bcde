#!/usr/bin/env bash
# `make test-srs`: the tests of the engine `srs` with a real SRS instead of the stand-in that `make test` uses.
# SRS_BINARY  the program; SRS 6 or newer, as its own instructions build it (./configure && make gives objs/srs)

. "$(dirname "$0")/lib.sh"

[ -n "${SRS_BINARY:-}" ] || die "SRS_BINARY is not set: it names the SRS to test with.
Build one (in SRS's trunk: ./configure && make), then:  make test-srs SRS_BINARY=/path/to/trunk/objs/srs"
SRS_BINARY=$(realpath -- "$SRS_BINARY") || die "SRS_BINARY names a file that there is not: $SRS_BINARY"
version=$("$SRS_BINARY" -v 2>&1 | tail -n 1) || die "$SRS_BINARY does not run: $version"

steps=3
step 'looking for the Debian packages the tests need' 'about 1 minute if some are missing'
need_packages ffmpeg
need_rust
step 'building the server' 'about 2 minutes the first time'
attended build_with_faults debug
step "the tests of the engine, with SRS $version" 'about 3 minutes'
export SRS_BINARY BRAIDCAST_BIN="$PWD/target/debug/braidcast"
attended cargo test --locked -p braidcast-e2e --test srs_itself --test engine_srs -- --test-threads 4
