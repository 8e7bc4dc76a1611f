#!/usr/bin/env bash
# Runs the whole test suite, on up to four cores; arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
export OMP_NUM_THREADS=1  # each of pytest's processes has a core; torch's threads would wait for one another
exec python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder "$@"
