#!/usr/bin/env bash
# TransferQueue's wheel brings the top-level folders `recipe`, `scripts`, `tests` and `tutorial` beside `transfer_queue`.
# They have no __init__.py, so they are namespace packages: `import recipe` succeeds where only TransferQueue (a dependency
# of verl 0.9.1, whose own recipes live in a folder of that name) is installed. A recipe that is not installed, or that
# lacks an __init__.py of its own, fails late and with another error than "No module named 'recipe'".
#
# Seen (2026-11-27, Python 3.11): TransferQueue 0.1.11
#   top level: recipe, scripts, tests, transfer_queue, tutorial
#   import recipe: a namespace package; recipe.main: No module named 'recipe.main'
# Exits 1 if that has changed.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-deps TransferQueue==0.1.11
cd "$work"
venv/bin/python - <<'PYTHON'
import importlib, importlib.metadata

files = importlib.metadata.files("TransferQueue")
top = sorted({file.parts[0] for file in files if not file.parts[0].endswith(".dist-info") and len(file.parts) > 1})
import recipe

try:
    importlib.import_module("recipe.main")
    found = "found"
except ModuleNotFoundError as error:
    found = str(error)
print("TransferQueue", importlib.metadata.version("TransferQueue"))
print("top level:", ", ".join(top))
print(f"import recipe: {'a namespace package' if recipe.__file__ is None else recipe.__file__}; recipe.main: {found}")
assert {"recipe", "scripts", "tests", "transfer_queue"} <= set(top), "the wheel has other folders now"
assert recipe.__file__ is None and found == "No module named 'recipe.main'"
PYTHON
