#!/usr/bin/env bash
# `make run`: builds Braidcast, serves a moving test picture and says where to watch it, until Ctrl-C.
# Leaves nothing behind: no process, nothing in /dev/shm, no temporary file. Needs no terminal.
#
# RTMP_PORT, HTTP_PORT, API_PORT  ports to listen on (1935, 8080, 1985)
# PUBLIC=1                        listen on every address, not only on loopback (the API stays on loopback)
# WORKERS                         worker processes (one per core)

. "$(dirname "$0")/lib.sh"

rtmp_port=${RTMP_PORT:-1935} http_port=${HTTP_PORT:-8080} api_port=${API_PORT:-1985}
font=/usr/share/fonts/truetype/dejavu/DejaVuSansMono-Bold.ttf
server='' picture='' shared='' scratch=''

# stop_session PID SECONDS: asks the leader of a session to end, or those it left, waits that long for all, kills the rest.
stop_session() {
  local leader=$1 tries=$(($2 * 10))
  [ -n "$leader" ] || return 0
  kill -TERM "$leader" 2>/dev/null || pkill -TERM -s "$leader" || true
  while [ $((tries--)) -gt 0 ] && pgrep -s "$leader" >/dev/null; do sleep 0.1; done
  pkill -KILL -s "$leader" || true
  wait "$leader" 2>/dev/null || true
}

clean_up() {
  local status=$?
  trap '' INT TERM HUP
  trap - EXIT
  stop_attended
  stop_session "$picture" 3
  stop_session "$server" 10
  [ -z "$shared" ] || rm -rf "$shared"
  [ -z "$scratch" ] || rm -rf "$scratch"
  exit "$status"
}
trap clean_up EXIT
trap 'printf "\nstopping…\n"; exit 0' INT TERM HUP

write_config() {
  local address addresses=("127.0.0.1" "[::1]")
  [ "${PUBLIC:-}" != 1 ] || addresses=("0.0.0.0" "[::]")
  listen() { # PORT ADDRESS…: a TOML list of those this machine has
    local port=$1 list=''
    shift
    for address in "$@"; do
      [[ $address != \[* ]] || [ -s /proc/net/if_inet6 ] || continue
      list+="${list:+, }\"$address:$port\""
    done
    printf 'listen = [%s]\n' "$list"
  }
  cat <<EOF
[server]
workers = ${WORKERS:-0}
shared_dir = "$shared"
on_exit = "remove"
state_dir = "$scratch/state"
log_level = "warn"

[rtmp]
$(listen "$rtmp_port" "${addresses[@]}")

[http]
$(listen "$http_port" "${addresses[@]}")

[api]
$(listen "$api_port" 127.0.0.1 '[::1]')

[hls]
fragment = "2s"

[limits]
connections = 1000
EOF
}

start_server() {
  shared=$(mktemp -d /dev/shm/braidcast-demo.XXXXXX)
  scratch=$(mktemp -d)
  mkdir "$scratch/state"
  write_config >"$scratch/demo.toml"
  mkfifo "$scratch/ready"
  # A session of its own: Ctrl-C reaches this script alone, which then ends things in order.
  setsid target/release/braidcast serve -c "$scratch/demo.toml" --ready-fd 3 3>"$scratch/ready" </dev/null &
  server=$!
  local line
  if ! IFS= read -r -t 60 line <"$scratch/ready"; then
    stop_session "$server" 10
    server=''
    die 'the server did not come up: see above. RTMP_PORT=… HTTP_PORT=… API_PORT=… make run takes other ports'
  fi
}

start_picture() {
  setsid ffmpeg -hide_banner -loglevel error -nostdin \
    -re -f lavfi -i testsrc2=size=1280x720:rate=30 \
    -re -f lavfi -i sine=frequency=440:sample_rate=44100 \
    -vf "drawtext=fontfile=$font:text='%{localtime\:%H\\\\\:%M\\\\\:%S}':fontsize=96:fontcolor=white:box=1:boxcolor=black@0.6:boxborderw=16:x=(w-tw)/2:y=h-th-60" \
    -c:v libx264 -preset veryfast -tune zerolatency -pix_fmt yuv420p -b:v 2000k -maxrate 2500k -bufsize 2500k \
    -g 60 -keyint_min 60 -sc_threshold 0 \
    -af volume=0.2 -c:a aac -b:a 96k -ac 2 \
    -f flv "rtmp://127.0.0.1:$rtmp_port/live/demo" </dev/null &
  picture=$!
}

say_where() {
  local host=localhost
  [ "${PUBLIC:-}" != 1 ] || host=$(hostname -I 2>/dev/null | awk '{print $1}')
  host=${host:-localhost}
  local page="http://$host:$http_port" rtmp="rtmp://$host:$rtmp_port"
  cat <<EOF

  Open in a browser   $page/

  The test picture    HTTP-FLV  $page/live/demo.flv
                      HLS       $page/live/demo.m3u8
                      RTMP      $rtmp/live/demo

  Push your own       ffmpeg -re -i FILE -c:v libx264 -preset veryfast -g 60 -c:a aac -f flv $rtmp/live/mine
                      OBS: Server $rtmp/live   Stream key mine

  Ctrl-C ends it.

EOF
}

steps=4
step 'looking for the Debian packages the demo needs' 'about 1 minute if some are missing'
need_packages ffmpeg fonts-dejavu-core procps
need_rust
step 'bundling the web page' 'a few seconds, 1 minute the first time'
bundle_page
step 'building the server' 'about 4 minutes the first time'
attended cargo build --release --locked -p braidcast
step 'starting the server and a test picture' 'a few seconds'
start_server
start_picture
say_where

# The picture is started again when it ends; the server's end is the end.
while kill -0 "$server" 2>/dev/null; do
  ended=0
  wait -n "$server" "$picture" || ended=$?
  kill -0 "$server" 2>/dev/null || die "the server ended (status $ended)"
  sleep 1 &
  wait $!
  start_picture
done
die 'the server ended'
