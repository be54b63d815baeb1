"""Files in the cache folder beside the cost cache: trained networks and decoded pictures."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from cprune_rl.core.folders import cache_folder

__all__ = [
    "KINDS",
    "SOURCE_FILE",
    "CachedFile",
    "cached_files",
    "kept_bytes",
    "remove_cached",
    "remove_least_used",
]

KINDS = ("images", "networks")
SOURCE_FILE = "source.json"
"""Says what an entry of `images` was decoded from; its time is that of the last use."""
_UNFINISHED = ".part"
_IN_USE_S = 24 * 3600.0  # another process may be writing an unfinished entry
_KEPT_GB = 50.0  # of decoded pictures, unless the environment says otherwise


@dataclass(frozen=True, kw_only=True)
class CachedFile:
    """One file or folder that is kept.

    Attributes:
        kind: one of `KINDS`.
        what: it holds, in words.
        can_be_remade: whether whoever misses it makes it again.
        used: seconds since the epoch.
    """

    kind: str
    path: Path
    what: str
    size_bytes: int
    can_be_remade: bool
    used: float


def kept_bytes() -> float:
    """Give how much decoded pictures may take: CPRUNE_RL_IMAGES_GB, or 50 GB."""
    asked = os.environ.get("CPRUNE_RL_IMAGES_GB", "")
    try:
        return float(asked) * 1e9
    except ValueError:
        return _KEPT_GB * 1e9


def cached_files(kinds: tuple[str, ...] = KINDS) -> list[CachedFile]:
    """List what is kept, that which was not used for longest first."""
    found = []
    for kind in kinds:
        folder = cache_folder() / kind
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
        found += [_described(kind, path) for path in paths if path.suffix != ".lock"]
    return sorted(found, key=lambda file: file.used)


def remove_cached(file: CachedFile) -> None:
    """Remove what is kept. Whoever has it open reads on."""
    if file.path.is_dir():
        shutil.rmtree(file.path, ignore_errors=True)
    else:
        file.path.unlink(missing_ok=True)
    file.path.with_suffix(".lock").unlink(missing_ok=True)


def remove_least_used(room_bytes: float) -> None:
    """Make room for decoded pictures: those not used for longest go, until as much fits the limit.

    Args:
        room_bytes: that will be added.
    """
    recently = time.time() - _IN_USE_S
    kept = [
        file
        for file in cached_files(("images",))
        if file.can_be_remade and not (file.path.suffix == _UNFINISHED and file.used > recently)
    ]
    total = sum(file.size_bytes for file in kept) + room_bytes
    for file in kept:
        if total <= kept_bytes():
            return
        remove_cached(file)
        total -= file.size_bytes


def _described(kind: str, path: Path) -> CachedFile:
    files = [f for f in path.rglob("*") if f.is_file()] if path.is_dir() else [path]
    sizes = [f.stat() for f in files]
    used = max((s.st_mtime for s in sizes), default=time.time())
    what = path.stem
    can_be_remade = kind == "networks"
    if path.suffix == _UNFINISHED:
        what = "unfinished"
        can_be_remade = True
    elif kind == "images" and (path / SOURCE_FILE).is_file():
        what = _source(path / SOURCE_FILE)
        can_be_remade = True
    return CachedFile(
        kind=kind,
        path=path,
        what=what,
        size_bytes=sum(s.st_blocks * 512 for s in sizes),
        can_be_remade=can_be_remade,
        used=used,
    )


def _source(path: Path) -> str:
    try:
        source = json.loads(path.read_text())
        return f"{source['n_images']} pictures of {source['folder']}, {source['size_px']} px"
    except (OSError, ValueError, KeyError, TypeError):
        return "damaged"
