"""What every statistical result says about itself, and the methods there are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from millrace.errors import FieldInvalid
from svc_analysis.domain.resolve import is_number

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Undefined:
    """There is no number, and why."""

    why: str


Estimate: TypeAlias = float | Undefined


def estimate(value: float, otherwise: str) -> Estimate:
    """`value`, or why there is none when it is not finite."""
    return float(value) if math.isfinite(value) else Undefined(otherwise)


@dataclass(frozen=True, slots=True)
class Caution:
    """What a careful reader should know."""

    code: str
    text: str
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Envelope:
    """`method`: what really ran. `n_dropped`: observations left out, by reason."""

    method: str
    method_version: str
    versions: Mapping[str, int]
    n_used: int
    n_dropped: Mapping[str, int] = field(default_factory=dict)
    cautions: tuple[Caution, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Method:
    """An entry of the registry. `revision` rises when the same input may give other numbers."""

    id: str
    revision: int
    summary: str

    def version(self, library: str) -> str:
        return f"{self.id}/{self.revision} {library}".strip()


METHODS: Mapping[str, Method] = {
    method.id: method
    for method in (
        Method("ols", 1, "ordinary least squares on scaled columns, by QR"),
        Method("snaive", 1, "the value one season ago; bounds from the seasonal differences"),
        Method("theta", 1, "Theta (Assimakopoulos and Nikolopoulos 2000)"),
    )
}


def floats_of(column: pa.ChunkedArray | pa.Array, name: str) -> Floats:
    """A numeric column as doubles; NULL becomes NaN. Raises FieldInvalid."""
    if not is_number(column.type) and not pa.types.is_boolean(column.type):
        raise FieldInvalid(f"column `{name}` is {column.type}; a number is expected", field=name)
    cast = column.cast(pa.float64())
    return np.asarray(
        cast.to_numpy(zero_copy_only=False) if isinstance(cast, pa.Array) else cast.to_numpy(), dtype=np.float64
    )
