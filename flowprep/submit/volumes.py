"""Folders that this machine and the pods of a cluster share, and what of them a job may see.

Pods find everything at the path that it has here, links followed: so the plan, which names the folder of the videos,
means the same in both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flowprep.config import ExtractConfig
from flowprep.errors import UsageError

NAME = r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"  # of an object of Kubernetes


@dataclass(frozen=True)
class Volume:
    """One shared folder. ``claim`` is its PersistentVolumeClaim; "" = every node has it, as this machine does."""

    folder: Path
    claim: str = ""

    def source(self, name: str) -> dict[str, Any]:
        """Its entry in the list of a pod's volumes."""
        if self.claim:
            return {"name": name, "persistentVolumeClaim": {"claimName": self.claim}}
        return {"name": name, "hostPath": {"path": str(self.folder), "type": "Directory"}}


def volumes(claims: Sequence[str], host_paths: Sequence[str]) -> tuple[Volume, ...]:
    """From the options ``--claim NAME=FOLDER`` and ``--host-path FOLDER``. Raises UsageError for others."""
    found = []
    for text in claims:
        claim, _, folder = text.partition("=")
        if not folder or not re.fullmatch(NAME, claim):
            raise UsageError(f"--claim {text!r}: give NAME=FOLDER, the claim and where it is mounted on this machine.")
        if not Path(folder).is_dir():
            raise UsageError(f"--claim {text}: there is no folder {folder}. Give that where the claim is mounted here.")
        found.append(Volume(Path(folder).resolve(), claim))
    for folder in host_paths:
        if not Path(folder).is_dir():
            raise UsageError(f"--host-path {folder}: there is no such folder on this machine.")
    return (*found, *(Volume(Path(folder).resolve()) for folder in host_paths))


@dataclass(frozen=True)
class Mounts:
    """What a pod sees: of the shared folders what the job needs, and of that only the dataset can be written."""

    shared: tuple[Volume, ...]
    readable: tuple[Path, ...]
    writable: Path

    def volumes(self) -> list[dict[str, Any]]:
        """The entries of the shared folders that are in use."""
        used = {self._of(path) for path in (*self.readable, self.writable)}
        return [volume.source(f"data-{n}") for n, volume in enumerate(self.shared) if volume in used]

    def mounts(self) -> Iterator[dict[str, Any]]:
        """The entries of a container's mounts: folders to read, and the dataset."""
        for path in self.readable:
            yield {**self._mount(path), "readOnly": True}
        yield self._mount(self.writable)

    def _mount(self, path: Path) -> dict[str, Any]:
        volume = self._of(path)
        inside = path.relative_to(volume.folder)
        part = {"subPath": str(inside)} if inside.parts else {}
        return {"name": f"data-{self.shared.index(volume)}", "mountPath": str(path), **part}

    def _of(self, path: Path) -> Volume:
        """The shared folder that ``path`` lies in, the nearest one. Raises UsageError where there is none."""
        around = [volume for volume in self.shared if path.is_relative_to(volume.folder)]
        if not around:
            raise UsageError(
                f"{path}: in no folder that the pods have. Add --claim NAME=FOLDER, a PersistentVolumeClaim and where "
                "it is mounted on this machine, or --host-path FOLDER, a folder that all nodes have at the same path."
            )
        return max(around, key=lambda volume: len(volume.folder.parts))


def in_pods(config: ExtractConfig, shared: tuple[Volume, ...]) -> tuple[ExtractConfig, Mounts]:
    """``config`` with paths that do not depend on the working directory, and what pods must see for it."""

    def absolute(path: str) -> str:
        return str(Path(path).resolve()) if path else ""

    source = config.source
    paths = {name: absolute(getattr(source, name)) for name in ("path", "annotations", "root")}
    changed = replace(config, source=replace(source, **paths), output=absolute(config.output))
    given = {Path(path) for path in paths.values() if path}
    # The paths in a list file start at its folder.
    folders = {path.parent if path.is_file() else path for path in given}
    return changed, Mounts(shared, tuple(sorted(folders)), Path(changed.output))
