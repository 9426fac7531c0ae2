"""Files that can be trusted: durable writes, sealed folders, locks, strict JSON and safetensors."""

from mlx_tune.files.durable import (
    SCRATCH,
    UNTOUCHED,
    append_line,
    create_file,
    discard_folder,
    disk_errors,
    make_folder,
    new_folder,
    replace_file,
    sync_file,
    sync_folder,
    write_folder,
)
from mlx_tune.files.records import from_json, refuse_taken, to_json, to_line
from mlx_tune.files.sealed import (
    MANIFEST,
    Sealed,
    entries,
    manifest,
    open_sealed,
    read_regular,
    seal,
    sha256,
)

__all__ = [
    "MANIFEST",
    "SCRATCH",
    "UNTOUCHED",
    "Sealed",
    "append_line",
    "create_file",
    "discard_folder",
    "disk_errors",
    "entries",
    "from_json",
    "make_folder",
    "manifest",
    "new_folder",
    "open_sealed",
    "read_regular",
    "refuse_taken",
    "replace_file",
    "seal",
    "sha256",
    "sync_file",
    "sync_folder",
    "to_json",
    "to_line",
    "write_folder",
]
