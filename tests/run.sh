#!/usr/bin/env bash
# Everything that must hold: a new environment, the wheel built and installed into it, ruff, mypy,
# import-linter, and pytest against the installed wheel from outside the checkout.
#
#   bash tests/run.sh [pytest arguments]
#   DISAGGC_VENV=DIR bash tests/run.sh     uses (or makes and keeps) an environment; needs no network
#                                          once its packages are installed
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
venv=${DISAGGC_VENV:-$work/venv}
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "disaggc needs Python 3.11 or later; set PYTHON to one." >&2
  exit 1
}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

step() { printf '\n== %s\n' "$*"; }

step "build the wheel"
"$venv/bin/python" -c 'import hatchling, build' 2>/dev/null || pip install --quiet 'hatchling>=1.27' 'build>=1.2'
"$venv/bin/python" -m build --quiet --no-isolation --wheel --outdir "$work/dist" "$root"

step "install it with what the tests need"
wheel=$(ls "$work"/dist/*.whl)
pip install --quiet "$wheel[test]"
pip install --quiet --force-reinstall --no-deps "$wheel"

export PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1
cd "$work"
"$venv/bin/python" - "$root" <<'PY'
import pathlib, sys, disaggc
inside = pathlib.Path(disaggc.__file__).resolve().is_relative_to(pathlib.Path(sys.argv[1]) / "disaggc")
sys.exit("the checkout's package is imported, not the wheel's" if inside else 0)
PY

step "ruff"
"$venv/bin/ruff" check --no-cache "$root"
"$venv/bin/ruff" format --no-cache --check "$root"

step "mypy"
(cd "$root" && "$venv/bin/mypy" --cache-dir "$work/mypy")

step "import-linter"
"$venv/bin/lint-imports" --config "$root/pyproject.toml" --no-cache

step "pytest"
"$venv/bin/python" -m pytest -c "$root/pyproject.toml" --rootdir "$root" -p no:cacheprovider -n 2 "$@" "$root/tests"
