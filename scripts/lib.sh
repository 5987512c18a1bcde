# What the other scripts share: saying what happens, installing what is missing. Sourced, never run.
# Changes nothing outside the repository except missing Debian packages, and starts nothing that goes on running.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Programs of the image or of the user win over those of a package.
export PATH="$PATH:$HOME/.cargo/bin"

step_number=0

# step TEXT MINUTES: announces a step. `steps` holds how many there are.
step() {
  step_number=$((step_number + 1))
  printf '[%d/%d] %s (%s)…\n' "$step_number" "$steps" "$1" "$2"
}

die() {
  printf '\nerror: %s\n' "$*" >&2
  exit 1
}

# The group of the command that `attended` waits for.
group=''

# attended COMMAND…: runs it in a process group of its own and waits for it, so that a signal to the script is acted on at
# once, not when a build of minutes is done. A script with an EXIT trap of its own calls `stop_attended` in it.
attended() {
  local status=0
  set -m
  "$@" </dev/null &
  group=$!
  set +m
  wait "$group" || status=$?
  group=''
  return "$status"
}

# Ends what `attended` waits for, if anything.
stop_attended() {
  [ -n "$group" ] || return 0
  local tries=50
  kill -TERM -- "-$group" 2>/dev/null || true
  while [ $((tries--)) -gt 0 ] && kill -0 -- "-$group" 2>/dev/null; do sleep 0.1; done
  kill -KILL -- "-$group" 2>/dev/null || true
  wait "$group" 2>/dev/null || true
}
trap stop_attended EXIT
trap 'exit 130' INT TERM HUP

# need_packages PACKAGE…: installs those Debian packages that are missing. Needs root only then.
need_packages() {
  local missing=() package
  for package in "$@"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0

  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    as_root=(sudo -n)
    sudo -n true 2>/dev/null || die "these Debian packages are missing: ${missing[*]}
Install them as root:  apt-get update && apt-get install --no-install-recommends ${missing[*]}"
  fi
  printf '      installing %s\n' "${missing[*]}"

  # A package that is a server would be started by its installation; a policy that forbids it stands for that long only.
  local policy=/usr/sbin/policy-rc.d
  local forbid="[ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy; chmod 755 $policy; trap 'rm -f $policy' EXIT; }"
  local quiet='DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300'
  "${as_root[@]}" bash -c "set -e; $forbid
    $quiet update
    $quiet install --yes --no-install-recommends ${missing[*]} >/dev/null" </dev/null || die "apt-get could not install ${missing[*]}"
}

# need_rust [COMPONENT…]: checks for cargo, a C linker and the named rustup components (clippy, rustfmt).
need_rust() {
  command -v cargo >/dev/null || die "cargo was not found: install Rust ($(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or newer) first"
  command -v cc >/dev/null || need_packages gcc libc6-dev
  local component
  for component in "$@"; do
    cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$component" ||
      die "cargo ${component/rustfmt/fmt} was not found: install the Rust component $component"
  done
}

# need_node: checks for Node.js and installs what package-lock.json names, unless just that is installed already.
need_node() {
  command -v node >/dev/null && command -v npm >/dev/null || die "node and npm were not found: install Node.js 20 or newer first"
  local major
  major=$(node -p 'process.versions.node.split(".")[0]')
  [ "$major" -ge 20 ] || die "Node.js 20 or newer is needed, this is $(node --version)"

  local stamp=node_modules/.installed wanted
  wanted=$(sha256sum package-lock.json)
  [ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ] && return 0
  attended npm ci --no-progress --loglevel=error || die "npm ci failed"
  printf '%s\n' "$wanted" >"$stamp"
}

# The Python package that carries a static ffmpeg, for tests only.
ffmpeg_next_package=imageio-ffmpeg==0.8.1

# need_ffmpeg_next: the ffmpeg that writes Enhanced RTMP with tracks, which Debian's does not yet, in target/tools/ffmpeg-next. Tests
# find it by BRAIDCAST_TEST_FFMPEG_NEXT; who sets that brings another one.
need_ffmpeg_next() {
  local directory="$PWD/target/tools/ffmpeg-next"
  export BRAIDCAST_TEST_FFMPEG_NEXT="${BRAIDCAST_TEST_FFMPEG_NEXT:-$directory/ffmpeg}"
  [ ! -x "$BRAIDCAST_TEST_FFMPEG_NEXT" ] || return 0
  [ "$BRAIDCAST_TEST_FFMPEG_NEXT" = "$directory/ffmpeg" ] || die "BRAIDCAST_TEST_FFMPEG_NEXT names no program: $BRAIDCAST_TEST_FFMPEG_NEXT"
  python3 -m pip --version >/dev/null 2>&1 || need_packages python3 python3-pip
  mkdir -p "$directory"
  attended python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$directory" "$ffmpeg_next_package" ||
    die "pip could not download $ffmpeg_next_package"
  # A wheel is a zip archive; the program in it has its version in its name.
  python3 - "$directory" <<'unpack' || die "no ffmpeg in $ffmpeg_next_package"
import glob, os, shutil, sys, zipfile
directory = sys.argv[1]
wheel = glob.glob(os.path.join(directory, "*.whl"))[0]
with zipfile.ZipFile(wheel) as archive:
    name = next(name for name in archive.namelist() if "/binaries/ffmpeg-" in name)
    part = os.path.join(directory, "ffmpeg.part")
    with archive.open(name) as source, open(part, "wb") as target:
        shutil.copyfileobj(source, target)
os.chmod(part, 0o755)
os.rename(part, os.path.join(directory, "ffmpeg"))
os.remove(wheel)
unpack
}

# The Python package that asks an HTTP API everything that its document says, for tests only.
schemathesis_package=schemathesis==4.32.5

# need_schemathesis: that package and what it needs, in target/tools/schemathesis, a virtual environment of its own.
need_schemathesis() {
  local directory="$PWD/target/tools/schemathesis" stamp
  stamp="$directory/.installed"
  [ "$(cat "$stamp" 2>/dev/null || true)" != "$schemathesis_package" ] || return 0
  python3 -m ensurepip --version >/dev/null 2>&1 || need_packages python3 python3-venv
  attended python3 -m venv "$directory" || die "python3 cannot make a virtual environment in $directory"
  attended "$directory/bin/pip" install --quiet --disable-pip-version-check "$schemathesis_package" || die "pip could not install $schemathesis_package"
  printf '%s\n' "$schemathesis_package" >"$stamp"
}

# bundle_page: writes console/dist; files that would not change are left alone, so cargo has nothing to do again.
bundle_page() {
  need_node
  npm run --silent build --workspace console
}

# build_with_faults debug|release: the server as it is, and beside it, as braidcast-faults, with the faults that some tests ask for.
build_with_faults() {
  local directory=target/$1 profile=()
  [ "$1" = debug ] || profile=(--release)
  cargo build --locked "${profile[@]}" -p braidcast --features faults || return
  cp "$directory/braidcast" "$directory/braidcast-faults"
  cargo build --locked "${profile[@]}" -p braidcast
}
