# Sourced by the commands beside it: goes to the repository's root, and takes the active virtual environment or makes
# .venv there. Installs what constraints.txt pins, unless that is done already.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -z "${VIRTUAL_ENV:-}" ]; then
  if [ ! -f .venv/bin/activate ]; then
    python="${PYTHON:-python3}"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
      { echo "setup: expected Python 3.11 or newer, got $("$python" --version); name another in PYTHON" >&2; exit 1; }
    "$python" -m venv .venv
  fi
  source .venv/bin/activate
fi
# One stamp an environment: where two clones share one, each installs itself anew.
wanted="$(pwd) $(cat pyproject.toml scripts/constraints.txt | sha256sum)"
stamp="$VIRTUAL_ENV/.twohead"
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  echo "setup: installing into $VIRTUAL_ENV (a few minutes the first time)" >&2
  rm -f "$stamp"
  python -m pip install --quiet --disable-pip-version-check --constraint scripts/constraints.txt --editable '.[all]'
  echo "$wanted" >"$stamp"
fi
