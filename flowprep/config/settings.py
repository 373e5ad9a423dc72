"""What shapes the stored numbers, and the fingerprint that names it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from flowprep.config.source import FlowConfig, VideoConfig
from flowprep.config.stack import StackConfig
from flowprep.config.storage import StorageConfig
from flowprep.schema import checked, from_mapping

FORMAT_VERSION = 2  # of the dataset on disk; a change that alters stored bytes raises it
LIMITS = ("max_pixels", "max_frames")  # keys of the section video that shape no number
AUTO = "auto"  # key that tells why this backend, which shapes no number either


@dataclass(frozen=True)
class Settings:
    """What shapes the stored numbers, complete: every parameter of the method, the backend and its version named."""

    video: VideoConfig
    flow: FlowConfig
    storage: StorageConfig
    engine: str  # the library that computes the flow, with its version: "opencv 5.0.0"
    origins: tuple[StorageConfig, ...] = ()  # how the flow was stored before, in the datasets it was made from
    stack: StackConfig | None = None  # of a dataset of stacks
    auto: str = ""  # what --backend auto has chosen, and why; "" = the backend was named, or left to be the default

    @property
    def derived(self) -> bool:
        """Whether the dataset was made from another one, not from videos."""
        return bool(self.origins)

    @property
    def unit(self) -> str:
        """What a row of the arrays is: "field" or "stack"."""
        return "stack" if self.stack else "field"

    @property
    def computes_flow(self) -> bool:
        """Whether flow is computed for it."""
        return not self.derived or bool(self.stack and self.stack.backward == "frames")

    def to_json(self) -> dict[str, Any]:
        tree = {
            "format": FORMAT_VERSION,
            "video": dataclasses.asdict(self.video),
            "flow": dataclasses.asdict(self.flow),
            "storage": self.storage.to_json(),
            "engine": self.engine,
        }
        if self.origins:
            tree["origins"] = [storage.to_json() for storage in self.origins]
        if self.stack:
            tree["stack"] = dataclasses.asdict(self.stack)
        if self.auto:
            tree[AUTO] = self.auto
        return tree

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Settings:
        """What :meth:`to_json` gave; UsageError or KeyError for anything else."""
        where = "settings"
        stack = data.get("stack")
        return cls(
            from_mapping(VideoConfig, data["video"], where, "video."),
            from_mapping(FlowConfig, data["flow"], where, "flow."),
            from_mapping(StorageConfig, data["storage"], where, "storage."),
            checked(data["engine"], str, (), f"{where}: engine"),
            tuple(from_mapping(StorageConfig, item, where, "origins.") for item in data.get("origins", ())),
            from_mapping(StackConfig, stack, where, "stack.") if stack else None,
            checked(data.get(AUTO, ""), str, (), f"{where}: {AUTO}"),
        )

    def fingerprint(self) -> str:
        """sha256 (hex) of all that shapes the numbers: not of the limits, which only turn videos away, nor of the
        reasons for the backend."""
        tree = {key: value for key, value in self.to_json().items() if key != AUTO}
        return fingerprint({**tree, "video": {key: value for key, value in tree["video"].items() if key not in LIMITS}})

    def differences(self, other: Settings) -> list[str]:
        """``"flow.parameters.warps: 5 -> 10"`` for every value of ``self`` that ``other`` has changed."""
        mine, theirs = _flatten(self.to_json()), _flatten(other.to_json())
        keys = sorted((mine.keys() | theirs.keys()) - {AUTO, *(f"video.{key}" for key in LIMITS)})
        if self.flow.method != other.flow.method:  # then all parameters differ, which says nothing
            keys = [key for key in keys if not key.startswith("flow.parameters.")]
        return [
            f"{key}: {mine.get(key, 'unset')} -> {theirs.get(key, 'unset')}"
            for key in keys
            if mine.get(key) != theirs.get(key)
        ]


def fingerprint(tree: dict[str, Any]) -> str:
    """sha256 (hex) of a JSON tree, whatever the order of its keys."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
