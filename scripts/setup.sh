#!/usr/bin/env bash
# Makes .venv with everything that the CPU path needs, at the versions of requirements/cpu.lock.
# A second call with the same lock, pyproject.toml and place is instant. PYTHON=/path/to/python3.11 picks the Python.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly venv=.venv log=.venv/setup.log stamp=.venv/evil-moe.stamp min_disk_gb=8 min_disk_again_gb=4 # GiB; the environment takes 3
readonly torch_index=https://download.pytorch.org/whl/cpu

die() {
  echo "setup: $*" >&2
  exit 1
}

# stage TITLE HOW_TO_MEND COMMAND...: runs quietly, says how long it took; on failure shows the end of the log.
stage() {
  local title="$1" mend="$2" start=$SECONDS
  shift 2
  printf 'setup: %-42s' "$title"
  if ! "$@" >>"$log" 2>&1; then
    printf ' failed\n'
    tail -n 15 "$log" >&2
    die "$title failed; $mend (all of it: $log)"
  fi
  printf ' %4d s\n' $((SECONDS - start))
}

supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }

find_python() {
  local candidate
  if [[ -n "${PYTHON:-}" ]]; then
    supported "$PYTHON" && command -v "$PYTHON"
    return
  fi
  for candidate in python3.11 python3.12 python3 python; do
    if supported "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

install_torch() {
  "$venv/bin/pip" install -q --no-deps "$torch" || "$venv/bin/pip" install -q --no-deps "$torch" --index-url "$torch_index"
}

# uv is many times faster; pip is the one that people have configured for their proxies and mirrors. Compiled once
# here, as pip does by itself: a run starts a dozen processes that import vLLM, verl or torch, the first ones at once,
# and where PYTHONDONTWRITEBYTECODE is set each would compile all that it imports anew.
install_locked() {
  local rest="$venv/locked.txt" index
  grep -v '^torch==' requirements/cpu.lock >"$rest"
  index="${PIP_INDEX_URL:-$("$venv/bin/pip" config get global.index-url 2>/dev/null || true)}"
  if "$venv/bin/pip" install -q uv && env ${index:+UV_DEFAULT_INDEX="$index"} VIRTUAL_ENV="$PWD/$venv" \
    "$venv/bin/uv" pip install --quiet --compile-bytecode --no-deps -r "$rest"; then
    return
  fi
  echo "uv did not manage; trying pip"
  "$venv/bin/pip" install -q --no-deps -r "$rest"
}

[[ "$(uname -sm)" == "Linux x86_64" ]] || die "the lock is for Linux on x86_64, this is $(uname -sm): use such a machine or a container"

# The place belongs to it: a virtual environment that was moved does not work.
want="$({ sha256sum requirements/cpu.lock pyproject.toml scripts/setup.sh scripts/vllm_metadata.py && pwd; } | sha256sum | cut -d' ' -f1)"
if [[ "$(cat "$stamp" 2>/dev/null)" == "$want" ]] && supported "$venv/bin/python"; then
  exit 0
fi

python="$(find_python)" || die "${PYTHON:-none on the PATH} is no Python 3.11 or 3.12; install one, or name it: PYTHON=/path/to/python3.11 make setup"
torch="$(grep -o '^torch==[^ ]*' requirements/cpu.lock)"
readonly python torch index_hint="check the network, and with 'pip config list' that pip's index has the package"

# An environment that is broken, was moved, or has another Python is made anew, and so is one without pip, which
# Debian's Python leaves behind where it has no venv module.
need_gb="$min_disk_again_gb" anew=
if ! supported "$venv/bin/python" || [[ ! -x "$venv/bin/pip" ]] || [[ "$("$venv/bin/python" -c 'import sys; print(sys.prefix)')" != "$PWD/$venv" ]]; then
  need_gb="$min_disk_gb" anew=yes
fi
free_gb="$(df -Pk . | awk 'NR == 2 { printf "%d", $4 / 1048576 }')"
((free_gb >= need_gb)) || die "$free_gb GB free in $PWD, $need_gb GB are needed; make room"
[[ -z "$anew" ]] || rm -rf "$venv"
mkdir -p "$venv"
: >"$log"
rm -f "$stamp"
if [[ ! -x "$venv/bin/python" ]]; then
  stage ".venv with $("$python" -V 2>&1)" "install its venv module (Debian: apt install python3-venv)" "$python" -m venv "$venv"
fi
stage "$torch" "$index_hint" install_torch
stage "$(($(grep -c == requirements/cpu.lock) - 1)) locked packages" "$index_hint" install_locked
stage "this project, editable" "see the lines above" "$venv/bin/pip" install -q --no-deps --no-build-isolation -e .
stage "vllm's metadata" "see the lines above" "$venv/bin/python" scripts/vllm_metadata.py
echo "$want" >"$stamp"
echo "setup: ready in $SECONDS s, $(du -sh "$venv" | cut -f1) in $venv"
