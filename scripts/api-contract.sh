#!/usr/bin/env bash
# Asks a server everything that its OpenAPI document says can be asked, and much that it says cannot: no answer may be an error of the
# server's or one that the document does not know. The server has streams, viewers and several workers, and asks for a token.
#
# API_CONTRACT_SECONDS  how long it goes on (60)
# API_CONTRACT_SEED     what the requests are made from

. "$(dirname "$0")/lib.sh"

binary=${BRAIDCAST_BIN:-$PWD/target/debug/braidcast}
seconds=${API_CONTRACT_SECONDS:-60}
seed=${API_CONTRACT_SEED:-$RANDOM}
token=api-contract-$RANDOM-$RANDOM-$RANDOM

need_packages ffmpeg curl
need_schemathesis

directory=$(mktemp -d /dev/shm/braidcast-test-$$-XXXXXX)
# Workers run as another user.
chmod 711 "$directory"
pids=()
clean_up() {
  stop_attended
  # Whatever has replaced the first front has its number in the lock.
  local pid tries=100
  for pid in "${pids[@]}" $(cat "$directory/shared/instance.lock" 2>/dev/null); do kill "$pid" 2>/dev/null || true; done
  while [ $((tries--)) -gt 0 ] && kill -0 "${pids[0]:-0}" 2>/dev/null; do sleep 0.1; done
  rm -rf "$directory"
}
trap clean_up EXIT

cat >"$directory/braidcast.toml" <<config
[server]
workers = 3
shared_dir = "$directory/shared"
state_dir = "$directory/state"
[rtmp]
listen = "127.0.0.1:0"
[http]
listen = "127.0.0.1:0"
[api]
listen = "127.0.0.1:0"
token = "$token"
# Requests without a token, and with wrong ones, are part of it.
failures = 100000
config

# The addresses are printed when it is ready.
: >"$directory/addresses"
"$binary" serve -c "$directory/braidcast.toml" >"$directory/addresses" 2>"$directory/log" &
pids+=($!)
for _ in $(seq 100); do
  api=$(sed -n 's/^api //p' "$directory/addresses") rtmp=$(sed -n 's/^rtmp //p' "$directory/addresses") http=$(sed -n 's/^http //p' "$directory/addresses")
  [ -z "$api" ] || break
  sleep 0.1
done
[ -n "$api" ] || die "the server did not come up: $(cat "$directory/log")"

picture=(-v error -re -f lavfi -i testsrc=size=160x120:rate=10 -f lavfi -i sine -c:v libx264 -preset ultrafast -g 10 -c:a aac -f flv)
for name in one other; do
  # Who is kicked comes again.
  while :; do ffmpeg "${picture[@]}" "rtmp://$rtmp/live/$name" </dev/null >/dev/null 2>&1; sleep 1; done &
  pids+=($!)
  while :; do curl -s "http://$http/live/$name.flv" >/dev/null; sleep 1; done &
  pids+=($!)
done

status=0
# A worker that is drained closes connections when it has answered: the next request is sent again, as every client does.
# The events never end, and another front takes a while: both are tested elsewhere. What is well-formed may still mean nothing.
attended env -C "$directory" "$PWD/target/tools/schemathesis/bin/schemathesis" run "http://$api/api/v2/openapi.json" \
  --header "Authorization: Bearer $token" --workers 2 --seed "$seed" --max-time "$seconds" --request-timeout 15 --request-retries 2 \
  --exclude-operation-id events --exclude-operation-id upgrade --exclude-operation-id reload \
  --exclude-checks positive_data_acceptance || status=$?

# Nothing of it may have harmed the server.
curl -sf -H "Authorization: Bearer $token" "http://$api/api/v2/status" |
  python3 -c 'import json,sys; status=json.load(sys.stdin); sys.exit(any(worker["restarts"] > 1000 for worker in status["workers"]) or status["front"]["poisoned"])' ||
  { status=1; echo 'the server was harmed'; }
if grep -E ' ERROR | panicked ' "$directory/log"; then status=1; fi
if grep -F "$token" "$directory/log"; then status=1; echo 'the token is in the log'; fi
exit "$status"
