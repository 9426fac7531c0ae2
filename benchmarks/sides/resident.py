"""Resident memory of this process: now, and the most since a chosen moment."""

from pathlib import Path

_PROC = Path("/proc/self")


class Resident:
    """Watches resident memory from the moment it is made; Linux alone says it, None elsewhere.

    Attributes:
        before: Bytes at that moment.
    """

    def __init__(self) -> None:
        try:
            (_PROC / "clear_refs").write_text("5")  # "VmHWM" starts again from here
            self.before = _field("VmRSS")
        except OSError:
            self.before = None

    @property
    def peak(self) -> int | None:
        """The most so far, in bytes."""
        return None if self.before is None else _field("VmHWM")


def _field(name: str) -> int | None:
    for line in (_PROC / "status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
