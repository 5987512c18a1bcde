#!/usr/bin/env bash
# `make fuzz`: libFuzzer on stable Rust, all targets in turn, each for FUZZ_SECONDS; says what each tried and found.
# Nothing it finds is lost: inputs that fail are left in fuzz/artifacts/, what was learned in fuzz/grown/.
#
# FUZZ_SECONDS   how long each target runs (600)
# FUZZ_TARGETS   which targets ("rtmp_session amf0"); all if not given
# FUZZ_MERGE=1   afterwards the corpus in the repository takes what reaches new code, smallest inputs first

. "$(dirname "$0")/lib.sh"

seconds=${FUZZ_SECONDS:-600}
host=$(rustc -vV | sed -n 's/^host: //p')
programs=fuzz/target/$host/release
# What the corpus of one target may have in the repository.
corpus_bytes=80000 corpus_files=250
# What cargo-fuzz passes, less the sanitizers, which need a nightly compiler: coverage counters, comparisons, all debug checks.
# `--target` keeps the flags away from build scripts.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Ccodegen-units=1"

targets=${FUZZ_TARGETS:-$(sed -n 's/^name = "\(.*\)"/\1/p' fuzz/Cargo.toml | tail -n +2)}
set -- $targets

steps=3
step 'looking for a C++ compiler and Rust' 'a few seconds'
need_rust
command -v c++ >/dev/null || need_packages g++
step 'building the fuzz targets' 'about 5 minutes the first time'
attended nice cargo build --release --locked --manifest-path fuzz/Cargo.toml --target "$host"
step "fuzzing $# targets" "about $(($# * seconds / 60)) minutes"

results=() failed=0
for target; do
  grown=fuzz/grown/$target artifacts=fuzz/artifacts/$target log=fuzz/grown/$target.log
  mkdir -p "$grown" "$artifacts"
  status=0
  attended "$programs/$target" "$grown" "fuzz/corpus/$target" -max_total_time="$seconds" -max_len=16384 -timeout=10 \
    -rss_limit_mb=1024 -artifact_prefix="$artifacts/" -print_final_stats=1 -verbosity=1 >"$log" 2>&1 || status=$?
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  reached=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
  found=$(find "$artifacts" -type f | wc -l)
  [ "$status" -eq 0 ] && [ "$found" -eq 0 ] || failed=1
  line=$(printf '%-14s %10s runs  %6s places reached  %s findings' "$target" "${runs:-?}" "${reached:-?}" "$found")
  [ "$status" -eq 0 ] || line+="  (status $status: $log)"
  printf '%s\n' "$line"
  results+=("$line")
done

# grow TARGET: what reaches new code joins the corpus, the smallest first, as far as there is room. Seeds that have a name stay.
grow() {
  local target=$1 corpus=fuzz/corpus/$1 merged file bytes room=$corpus_bytes
  merged=$(mktemp -d)
  "$programs/$target" -merge=1 -max_len=16384 "$merged" "$corpus" "fuzz/grown/$target" >/dev/null 2>&1 || true
  find "$corpus" -type f -regextype posix-extended -regex '.*/[0-9a-f]{40}' -delete
  for file in "$corpus"/*; do room=$((room - $(stat -c %s "$file"))); done
  while read -r bytes file; do
    [ "$((room -= bytes))" -gt 0 ] || break
    cmp -s "$file" "$corpus/${file##*/}" || cp "$file" "$corpus/"
  done < <(find "$merged" -type f -printf '%s %p\n' | sort -n | head -n "$corpus_files")
  rm -rf "$merged"
}

if [ "${FUZZ_MERGE:-}" = 1 ]; then
  for target; do grow "$target"; done
fi

printf '\n== %s\n' "what was fuzzed, $seconds s each"
printf '%s\n' "${results[@]}"
[ "$failed" -eq 0 ] || die 'inputs that fail lie in fuzz/artifacts/'
