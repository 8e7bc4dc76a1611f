#!/usr/bin/env bash
# Checks style, format and types.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
ruff check .
ruff format --check .
pyright
