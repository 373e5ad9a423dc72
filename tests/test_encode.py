"""What a ledger row says of the error that storing added is what reading the rows back shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flowprep import codecs
from flowprep.config import StorageConfig
from flowprep.encode import SAMPLE_EVERY, VideoWriter
from flowprep.flow.metrics import end_point_error
from flowprep.quantise import dequantise, quantise
from flowprep.store.layout import ArrayName

STORAGE = StorageConfig(quality=60)


@pytest.mark.parametrize("length", [1, 3])
def test_the_added_error_is_of_one_field_of_every_sixteenth_row_by_turns(tmp_path: Path, length: int) -> None:
    height, width, rows = 16, 24, 4 * SAMPLE_EVERY + 1  # five of them are measured
    random = np.random.default_rng(0)
    flow = random.normal(0, 2, (rows, 2 * length, height, width)).astype(np.float32)
    flow[:, 2:4] /= 10  # no two errors are the same
    writer = VideoWriter(tmp_path, STORAGE)
    name = ArrayName("stack", height, width, 2 * length) if length > 1 else ArrayName("flow", height, width)
    given = {"mean": np.zeros((rows, 2 * length)), "frame": np.arange(rows)} if length > 1 else {}
    for part in (slice(0, 20), slice(20, rows)):
        writer.flow(name, flow[part], **{side: values[part] for side, values in given.items()})
    writer.finish()

    codec = codecs.field_codec(STORAGE)
    errors = []
    for k, row in enumerate(range(0, rows, SAMPLE_EVERY)):
        stored = quantise(flow[row : row + 1], STORAGE)
        levels = codec.decode(codec.encode(stored.levels[0], stored.scale[0]), name.row_shape())
        back = dequantise(levels[None], stored.scale, stored.zero)[0]
        u = 2 * (k % length)
        errors.append(end_point_error(back[u : u + 2], flow[row, u : u + 2]))
    columns = writer.columns()
    assert columns["sampled_fields"] == len(errors) == 5
    assert columns["added_epe"] == pytest.approx(np.mean(errors), rel=1e-6)
    assert columns["added_epe_max"] == pytest.approx(np.max(errors), rel=1e-6)
