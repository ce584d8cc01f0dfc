"""One line of `evil-moe doctor`."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "FAIL"
GB = 1e9


@dataclass(frozen=True)
class Finding:
    """One line of the report; `mend` says what to do about a warn or a FAIL, `detail` is shown below it."""

    name: str
    status: str
    text: str
    mend: str = ""
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.status:<5} {self.name:<11} {self.text}" + (f"; {self.mend}" if self.mend else "")
