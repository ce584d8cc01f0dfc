"""Configuration of the two-expert adapter, and its entry in PEFT's closed enum of methods."""

from __future__ import annotations

from dataclasses import dataclass, field

from peft.config import PeftConfig
from peft.utils.peft_types import PeftType

LORA2R = "LORA2R"


def _extend_peft_type(name: str) -> None:
    """Add `name` to `PeftType`.

    PEFT 0.21 offers `register_peft_method` but keeps the enum of method names closed, and its config loader
    looks names up there. Remove this once PEFT accepts a method name that is not a member. It touches three
    private maps of `enum`; if Python changes them the assertion below fails at import.
    """
    if name in PeftType.__members__:
        return
    member = str.__new__(PeftType, name)
    member._name_, member._value_ = name, name
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    type.__setattr__(PeftType, name, member)
    assert PeftType(name) is member and PeftType[name] is member, (
        "enum internals changed: cannot add a PEFT method"
    )


_extend_peft_type(LORA2R)


@dataclass
class Lora2rConfig(PeftConfig):
    """Ranks, targets and seed of the two-expert LoRA.

    Args:
        r: rank of the deployed block.
        num_quarantine: number K of quarantine blocks.
        quarantine_rank: rank of one quarantine block; 0 means `r / K`, so that the bank is as large as the deployed
            block.
        lora_alpha: the update is scaled by `lora_alpha / r`; None means `r`, a scale of 1.
        target_modules: names or a regular expression of the linears to wrap, or "all-linear".
        exclude_modules: names or a regular expression to leave out.
        init_seed: seed of the frozen init (A0, B0), combined with each module's name.

    Raises:
        ValueError: a rank or a count is below 1, or `r` does not divide into K blocks.
    """

    r: int = field(default=8, metadata={"help": "rank of the deployed block"})
    num_quarantine: int = field(default=1, metadata={"help": "number of quarantine blocks"})
    quarantine_rank: int = field(default=0, metadata={"help": "rank of one quarantine block"})
    lora_alpha: float | int | None = field(default=None, metadata={"help": "update scale is lora_alpha / r"})
    target_modules: list[str] | str | None = field(default="all-linear", metadata={"help": "linears to wrap"})
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "linears to leave out"})
    init_seed: int = field(default=0, metadata={"help": "seed of the frozen init"})
    bias: str = field(default="none", metadata={"help": "biases stay frozen"})

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]  # PEFT does not annotate it
        self.peft_type = PeftType[LORA2R]
        if self.quarantine_rank == 0 and self.num_quarantine >= 1:
            if self.r % self.num_quarantine:
                raise ValueError(
                    f"r={self.r} does not divide into num_quarantine={self.num_quarantine} blocks: set quarantine_rank"
                )
            self.quarantine_rank = self.r // self.num_quarantine
        if self.lora_alpha is None:
            self.lora_alpha = float(self.r)
        for name in ("r", "num_quarantine", "quarantine_rank"):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"Lora2rConfig.{name} is {value}; it must be at least 1")
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)  # type: ignore[assignment]  # PEFT matches against a set

    @property
    def total_rank(self) -> int:
        """R = r + K * q."""
        return self.r + self.num_quarantine * self.quarantine_rank

    @property
    def scaling(self) -> float:
        """Factor on the adapter's output."""
        assert self.lora_alpha is not None
        return self.lora_alpha / self.r
