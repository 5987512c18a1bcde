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
