"""A GGUF file, read with the gguf package and checked before anything is made of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, ReaderTensor

from mlx_tune.errors import InputError
from mlx_tune.models.gguf_names import ARCHITECTURES
from mlx_tune.text import quoted

FETCH_AGAIN = "fetch it again"


@dataclass(frozen=True, kw_only=True)
class GgufFile:
    """A GGUF file that was read.

    Attributes:
        path: Where it is.
        architecture: llama.cpp's name.
        fields: What it says, by key.
        tensors: Its tensors, mapped into memory, by llama.cpp's names.
    """

    path: Path
    architecture: str
    fields: Mapping[str, Any]
    tensors: Mapping[str, ReaderTensor]

    def of_model(self, key: str, default: float | None = None) -> Any:
        """Return a number of the architecture.

        Raises:
            InputError: It is missing and there is no default, or is no number.
        """
        name = f"{self.architecture}.{key}"
        found = self.fields.get(name, default)
        if type(found) not in (int, float):
            raise InputError(f"{self.path}: {name} is {shown(found)}; expected a number")
        return found

    @staticmethod
    def read(path: Path) -> "GgufFile":
        """Read what a file says of itself; its tensors stay on the disk until they are looked at.

        Raises:
            InputError: It is missing, damaged, or of an architecture that is unknown here.
        """
        if not path.is_file():
            raise InputError(f"{path}: missing, or not a file")
        try:
            reader = _Reader(path)
            fields = {name: field.contents() for name, field in reader.fields.items()}
            tensors = {tensor.name: tensor for tensor in reader.tensors}
        except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
            raise InputError(
                f"{path}: is no whole GGUF file ({quoted(str(error)[:80])}); {FETCH_AGAIN}"
            ) from None
        architecture = fields.get("general.architecture")
        if architecture not in ARCHITECTURES.values():
            known = ", ".join(dict.fromkeys(ARCHITECTURES.values()))
            raise InputError(
                f"{path}: architecture {shown(architecture)} is not read as GGUF; known: {known}"
            )
        return GgufFile(path=path, architecture=str(architecture), fields=fields, tensors=tensors)


class _Reader(GGUFReader):
    """Stops at the end of the file; the gguf package reads what a lying count says, for ever."""

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        if int(offset) + np.dtype(dtype).itemsize * int(count) > len(self.data):
            raise ValueError("it ends too early")
        return super()._get(offset, dtype, count, override_order)


def shown(value: Any) -> str:
    """Return a value of a field, for messages."""
    return quoted(str(value)[:40])
