#!/usr/bin/env bash
# `make test`: everything that has to hold, from formatting to real browsers. Sets up what is missing, needs no terminal,
# ends with one line per part and fails if a part failed. Leaves no process, and nothing in /dev/shm and the directory of temporary files.
#
# Logs of the parts are kept in target/test-logs/.

. "$(dirname "$0")/lib.sh"

steps=10
logs=target/test-logs
mkdir -p "$logs"
rm -f "$logs"/*.log
results=() failed=0
started=$SECONDS

summary() {
  printf '\n== %s\n' "what was tested"
  printf '%s\n' "${results[@]}"
  printf '%s after %d min %d s\n' "$1" $(((SECONDS - started) / 60)) $(((SECONDS - started) % 60))
}

logged() {
  "${@:2}" 2>&1 | tee "$1"
}

# part NAME COMMAND…: runs it, keeps its log and its closing lines. A failure is remembered, not fatal.
part() {
  local name=$1 began=$SECONDS log="$logs/$1.log" status=0 verdict=passed
  shift
  attended logged "$log" "$@" || status=$?
  if [ "$status" -ne 0 ]; then
    verdict=FAILED failed=1
  fi
  results+=("$(printf '%-10s %s in %d s' "$name" "$verdict" $((SECONDS - began)))")
  # nextest, cargo test and node --test each say in their own way how many tests they ran.
  local line
  while IFS= read -r line; do
    results+=("             $line")
  done < <(sed 's/\x1b\[[0-9;]*m//g' "$log" |
    grep -E '^ +Summary \[|^ +(FAIL|TIMEOUT|SIG[A-Z]+) \[|^test result: .* [1-9][0-9]* passed|^test .* FAILED$|^(#|ℹ) (tests|pass|fail) ' |
    awk '!seen[$0]++' | tail -n 40 || true)
}

# needed NAME COMMAND…: like part, but nothing after it makes sense without it.
needed() {
  part "$@"
  if [ "$failed" -ne 0 ]; then
    summary "FAILED"
    exit 1
  fi
}

lints() {
  cargo clippy --workspace --all-targets --locked -- -D warnings &&
    cargo clippy -p braidcast-stream-log --all-targets --features faults --locked -- -D warnings
}

if cargo nextest --version >/dev/null 2>&1; then
  cargo_test() { cargo nextest run --locked --no-fail-fast --status-level slow --final-status-level fail --hide-progress-bar "$@"; }
else
  cargo_test() { cargo test --locked --no-fail-fast "$@"; }
fi

unit_tests() {
  local status=0
  cargo_test --workspace --exclude braidcast-e2e || status=1
  cargo_test -p braidcast-stream-log --features faults || status=1
  return $status
}

# Most of their time they wait for what real programs do in theirs: two for each core.
e2e_tests() {
  NEXTEST_TEST_THREADS=$((2 * $(nproc))) cargo_test -p braidcast-e2e
}

export BRAIDCAST_BIN="$PWD/target/debug/braidcast"

own_directories() {
  find /dev/shm "${TMPDIR:-/tmp}" -maxdepth 1 -name 'braidcast*' | sort
}
directories_before=$(own_directories)

step 'looking for Debian packages, Rust and Node.js' 'about 2 minutes if some are missing'
need_packages ffmpeg chromium fonts-dejavu-core iproute2 curl prometheus haproxy nginx libnginx-mod-{stream,rtmp} \
  gstreamer1.0-tools gstreamer1.0-plugins-{base,good,bad,ugly} gstreamer1.0-libav vlc-bin vlc-plugin-base mpv rtmpdump openssl pebble strace valgrind
need_rust rustfmt clippy
need_node
need_ffmpeg_next
need_schemathesis

step 'bundling the web page and checking its types' 'a few seconds'
needed page npm run --silent build --workspace console
needed types npm run --silent check --workspace console

step 'formatting' 'a second'
needed format cargo fmt --all --check

step 'lints' 'about 1 minute the first time'
needed clippy lints

step 'building the server, and what instructions are counted of' 'about 3 minutes the first time'
builds() {
  build_with_faults debug &&
    env -u RUSTFLAGS cargo build --locked --profile counts -p braidcast-e2e --bin hot-paths
}
needed build builds

step 'unit and property tests' 'about 4 minutes the first time'
part unit unit_tests

step 'end-to-end tests with real processes' 'about 10 minutes'
part e2e e2e_tests

step 'browser tests' 'about 1 minute'
part browser npm run --silent test --workspace e2e/browser

step 'the API against its own document' 'about 1 minute'
part api scripts/api-contract.sh

step 'looking for what was left behind' 'a second'
leftovers() {
  local process processes='' directories
  for process in /proc/[0-9]*; do
    # Processes of other servers are known by the test's directory that their configuration lies in.
    if [ "$(readlink "$process/exe")" = "$BRAIDCAST_BIN" ] || grep -q /dev/shm/braidcast-test- "$process/cmdline"; then
      processes+="$(tr '\0' ' ' <"$process/cmdline")"$'\n'
    fi
  done 2>/dev/null
  directories=$(comm -13 <(printf '%s\n' "$directories_before") <(own_directories))
  [ -z "$processes$directories" ] || { printf 'left behind:\n%s%s\n' "$processes" "$directories"; return 1; }
}
part leftovers leftovers

if [ "$failed" -ne 0 ]; then
  summary "FAILED"
  exit 1
fi
summary "passed"
