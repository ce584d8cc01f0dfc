"""A detector of known quality: the true labels, with mistakes drawn at chosen rates."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

_DIALS = (("true_positive_rate", "false_positive_rate"), ("precision", "recall"), ("accuracy",))


@dataclass(frozen=True)
class Rates:
    """The chances a detector flags with on one batch.

    true_positive_rate, false_positive_rate: of a positive, of a negative. capped: the precision that was asked
    for is out of reach, because even flagging every negative leaves it higher.
    """

    true_positive_rate: float
    false_positive_rate: float
    capped: bool = False


@dataclass(frozen=True)
class Detector:
    """One of three dials:

    true_positive_rate and false_positive_rate: each label is told with its chance.
    accuracy: the share of both classes that is told right, true_positive_rate = 1 - false_positive_rate.
    precision and recall: recall of the positives are flagged, and of the negatives as many as make the flags
        right with the asked precision; the chance of a negative follows from the batch's balance,

            false_positive_rate = recall * positives * (1 - precision) / (precision * negatives),   at most 1,

        so a batch without positives is not flagged at all, and one of few negatives can be capped (see Rates).

    Raises ValueError unless exactly one dial is set, whole, and within [0, 1] (precision above 0).
    """

    true_positive_rate: float | None = None
    false_positive_rate: float | None = None
    precision: float | None = None
    recall: float | None = None
    accuracy: float | None = None

    def __post_init__(self) -> None:
        touched = [dial for dial in _DIALS if any(getattr(self, name) is not None for name in dial)]
        if len(touched) != 1 or any(getattr(self, name) is None for name in touched[0]):
            found = {name: getattr(self, name) for dial in touched for name in dial}
            raise ValueError(
                f"a detector has one dial, found {found}: set either true_positive_rate and false_positive_rate, "
                "or precision and recall, or accuracy (1 for the true labels), and null the others"
            )
        for name in touched[0]:
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value} must lie in [0, 1]")
        if self.precision == 0:
            raise ValueError("precision=0: a detector that is never right needs a dial of its own; set more")

    def rates(self, labels: Sequence[bool]) -> Rates:
        """The chances on a batch of these labels."""
        if self.accuracy is not None:
            return Rates(self.accuracy, 1 - self.accuracy)
        if self.true_positive_rate is not None and self.false_positive_rate is not None:
            return Rates(self.true_positive_rate, self.false_positive_rate)
        assert self.precision is not None and self.recall is not None
        positives = sum(map(bool, labels))
        negatives = len(labels) - positives
        wanted = self.recall * positives * (1 - self.precision) / self.precision  # false positives
        if wanted > negatives:
            return Rates(self.recall, 1.0, capped=True)
        return Rates(self.recall, wanted / negatives if negatives else 0.0)

    def flags(
        self,
        labels: Sequence[bool],
        seed_parts: Sequence[object],
        keys: Sequence[str] | None = None,
    ) -> list[bool]:
        """Which of ``labels`` it flags: an independent coin each, from ``seed_parts`` (say the run's seed and the
        step) and the rollout's key, or its position. Neither the order of keyed rollouts nor who else is in the
        call matters to a coin.

        Raises ValueError unless there is one key per label, each once.
        """
        names = [str(i) for i in range(len(labels))] if keys is None else list(keys)
        if len(names) != len(labels) or len(set(names)) != len(names):
            raise ValueError(
                f"{len(names)} keys, {len(set(names))} of them distinct, for {len(labels)} labels: one each"
            )
        rates = self.rates(labels)
        return [
            coin(seed_parts, name) < (rates.true_positive_rate if label else rates.false_positive_rate)
            for label, name in zip(labels, names, strict=True)
        ]


def coin(seed_parts: Sequence[object], key: str) -> float:
    """A number in [0, 1) that looks random and follows from its arguments, in every process."""
    text = json.dumps([*map(str, seed_parts), key])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48
