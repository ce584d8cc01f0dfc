#!/usr/bin/env bash
# TransferQueue's wheel brings the top-level folders `recipe`, `scripts`, `tests` and `tutorial` beside `transfer_queue`.
# They have no __init__.py, so they are namespace packages: `import recipe` succeeds where only TransferQueue (a dependency
# of verl 0.9.1, whose own recipes live in a folder of that name) is installed. A recipe that is not installed, or that
# lacks an __init__.py of its own, fails late and with another error than "No module named 'recipe'".
#
# An installed recipe with an __init__.py wins, with one exception: an editable install by setuptools as it is by default,
# where the packages lie beside pyproject.toml. That is an import hook behind the path, so `import recipe` finds
# TransferQueue's folder while `import recipe.main` finds the recipe's file: its __init__.py never runs, and what looks at
# `recipe.__path__` or `recipe.__file__` is wrong. `package-dir = { "" = "." }` puts the folder itself on the path.
#
# Seen (2026-11-28, Python 3.11, setuptools 77.0.3): TransferQueue 0.1.11
#   top level: recipe, scripts, tests, transfer_queue, tutorial
#   alone:              recipe is a namespace package; recipe.main: No module named 'recipe.main'
#   editable, default:  recipe is a namespace package; recipe.main: found
#   editable, mended:   recipe is the project's; recipe.main: found
#   wheel:              recipe is the project's; recipe.main: found
# Exits 1 if that has changed.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
pip=("$work/venv/bin/pip" install --quiet --no-deps)
"${pip[@]}" TransferQueue==0.1.11 setuptools==77.0.3
mkdir -p "$work/project/recipe" "$work/project/method" "$work/elsewhere"
touch "$work/project/recipe/main.py" "$work/project/method/__init__.py"
echo 'OURS = True' >"$work/project/recipe/__init__.py"
cd "$work/elsewhere"

project() { # project EXTRA: its pyproject.toml, with one more line on how packages are found
  printf '%s\n' '[build-system]' 'requires = ["setuptools"]' 'build-backend = "setuptools.build_meta"' \
    '[project]' 'name = "a-recipe"' 'version = "1"' '[tool.setuptools]' "$1" \
    'packages.find.include = ["recipe*", "method*"]' >"$work/project/pyproject.toml"
  rm -rf "$work"/project/build "$work"/project/*.egg-info
}

look() { # look TITLE WHOSE MAIN
  "$work/venv/bin/python" - "$@" <<'PYTHON'
import importlib, sys

title, whose, main = sys.argv[1:]
import recipe

ours = getattr(recipe, "OURS", False)
try:
    importlib.import_module("recipe.main")
    found = "found"
except ModuleNotFoundError as error:
    found = str(error)
seen = "the project's" if ours else "a namespace package" if recipe.__file__ is None else recipe.__file__
print(f"{title:<19} recipe is {seen}; recipe.main: {found}")
assert (seen, found) == (whose, main), f"expected {whose}; {main}"
PYTHON
}

"$work/venv/bin/python" - <<'PYTHON'
import importlib.metadata

files = importlib.metadata.files("TransferQueue")
top = sorted({file.parts[0] for file in files if not file.parts[0].endswith(".dist-info") and len(file.parts) > 1})
print("TransferQueue", importlib.metadata.version("TransferQueue"))
print("top level:", ", ".join(top))
assert {"recipe", "scripts", "tests", "transfer_queue"} <= set(top), "the wheel has other folders now"
PYTHON
look alone: "a namespace package" "No module named 'recipe.main'"
project ''
"${pip[@]}" --no-build-isolation -e "$work/project"
look "editable, default:" "a namespace package" found
project 'package-dir = { "" = "." }'
"${pip[@]}" --no-build-isolation -e "$work/project"
look "editable, mended:" "the project's" found
"${pip[@]}" --no-build-isolation "$work/project"
look wheel: "the project's" found
