#!/usr/bin/env bash
# Runs the whole test suite, on up to four cores; arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec python -m pytest -n auto --maxprocesses 4 --dist loadfile "$@"
