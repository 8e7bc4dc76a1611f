#!/usr/bin/env bash
# Trains both models in both frameworks on real covariates and shows that they agree; see scripts/demo.py.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
exec python scripts/demo.py "$@"
