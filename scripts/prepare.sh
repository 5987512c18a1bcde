#!/usr/bin/env bash
# Sets up one thing for a make target: `prepare.sh page` bundles the web page, `prepare.sh lint` checks the lint tools.

. "$(dirname "$0")/lib.sh"

case "${1:-}" in
  page)
    bundle_page
    ;;
  lint)
    need_rust rustfmt clippy
    need_node
    ;;
  *)
    die "unknown thing to prepare: ${1:-}"
    ;;
esac
