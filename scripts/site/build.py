"""Write every part of the docs that is made from data; with `--check`, name what is stale instead.

Parts stand between `<!-- begin: NAME -->` and `<!-- end -->`. The README has one table, without marks.
"""

from __future__ import annotations

import sys

from parts import ROOT, made

MEND = "run `.venv/bin/python scripts/site/build.py` and commit what it wrote"


def main(arguments: list[str]) -> int:
    """Exit code: 0, or 1 where `--check` finds a stale file."""
    stale = [path for path, text in made().items() if not path.is_file() or path.read_text() != text]
    if "--check" in arguments:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is stale: {MEND}")
        return int(bool(stale))
    texts = made()
    for path in stale:
        path.write_text(texts[path])
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
