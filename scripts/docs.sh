#!/usr/bin/env bash
# Builds the documentation site in out/docs; a warning is an error.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
python -m sphinx -W --keep-going -q -b html docs out/docs
echo "docs: out/docs/index.html"
