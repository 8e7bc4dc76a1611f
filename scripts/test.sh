#!/usr/bin/env bash
# Runs the whole test suite, but for the tests marked slow (bash scripts/test.sh -m slow runs those).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec python -m pytest "$@"
