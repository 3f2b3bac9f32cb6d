#!/usr/bin/env bash
# Sets up an environment in .venv and does the main job on the model that ships here: compile a small
# mixture-of-experts decoder for one Vera Rubin NVL72 and one Groq 3 LPX, explain the plan, and run it
# on this machine beside the uncut model. Needs no network once its packages are installed.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "disaggc needs Python 3.11 or later; set PYTHON to one." >&2
  exit 1
}
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -c 'import hatchling' 2>/dev/null || .venv/bin/python -m pip install --quiet hatchling editables
.venv/bin/python -m pip --disable-pip-version-check install --quiet --no-build-isolation --editable .

run() {
  printf '\n$ disaggc %s\n' "$*"
  .venv/bin/disaggc "$@"
}
run compile examples/tiny_moe.toml -o out --force
run explain out
run verify out
