#!/usr/bin/env bash
# Compiles requirements/cpu.lock from pyproject.toml (base, cpu, dev), requirements/cpu.in and cpu.override, and
# requirements/docs.lock from docs.in, at the versions of cpu.lock where both have a package.
# Versions that are in the lock stay unless they must move; `scripts/lock.sh --upgrade` moves all of them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

uv="$(command -v .venv/bin/uv || command -v uv || true)"
if [[ -z "$uv" ]]; then
  echo "lock: uv is missing; run 'make setup' or 'pip install uv' first" >&2
  exit 1
fi

# torch's +cpu builds are not on PyPI: from the local wheel folder that pip is configured with, else from torch's index.
if [[ -n "${PIP_FIND_LINKS:-}" ]]; then
  source=(--find-links "$PIP_FIND_LINKS")
else
  source=(--torch-backend cpu)
fi

"$uv" pip compile --quiet pyproject.toml requirements/cpu.in --extra cpu --extra dev \
  --override requirements/cpu.override --python-version 3.11 "${source[@]}" "$@" \
  --no-header --no-emit-find-links --no-emit-index-url --annotation-style line --output-file requirements/cpu.lock
echo "lock: $(grep -c == requirements/cpu.lock) packages in requirements/cpu.lock"
"$uv" pip compile --quiet requirements/docs.in --constraint requirements/cpu.lock --python-version 3.11 "${source[@]}" "$@" \
  --no-header --no-emit-find-links --no-emit-index-url --annotation-style line --output-file requirements/docs.lock
echo "lock: $(grep -c == requirements/docs.lock) packages in requirements/docs.lock"
