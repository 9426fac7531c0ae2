"""Gets a base model ready with every byte checked, fetching anew what lies here damaged."""

from pathlib import Path

from mlx_tune.errors import DamagedStoreError
from mlx_tune.models import cache, fetch
from mlx_tune.models.bases import BaseInfo, Say, locate, resolve, verify


def pull(name: str, *, say: Say = lambda _: None) -> BaseInfo:
    """Return a base model, every byte of it checked, fetched again where it is damaged.

    Args:
        name: A short name of the catalogue, a Hugging Face id, or a local folder.
        say: Told, in a line, what takes long, and what was damaged.

    Raises:
        DamagedStoreError: It is a damaged folder of the person's own, which they must fetch.
        MlxTuneError: As for :func:`locate`.
    """
    source = resolve(name)
    record = cache.Record.read(source)
    try:
        info = locate(name, say=say)
        if record is not None:
            verify(info, _recorded(record, info))
    except DamagedStoreError as error:
        if Path(source).is_absolute() and (record is None or record.folder == source):
            raise
        say(str(error))
        if _is_of_hub(source):
            fetch.from_hub(source, name, again=True)
        cache.forget(source)
        return locate(name, say=say)
    return info


def _recorded(record: cache.Record, info: BaseInfo) -> str:
    """Return what a base's fingerprint should be; a folder of the person's own may change."""
    return info.fingerprint if Path(info.source).is_absolute() else record.fingerprint


def _is_of_hub(source: str) -> bool:
    return not source.startswith("wheel:") and not Path(source).is_absolute()
