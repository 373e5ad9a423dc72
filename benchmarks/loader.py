"""How quickly do training samples come out of a dataset? Of ten fields, cropped to 224x224.

    python -m benchmarks.loader DATASET [--samples 64] [--rounds 5] [--crop 224] [--json loader.json]
    python -m benchmarks.loader DATASET --memory 10000      resident memory while so many batches of 8 are read

The floor is the time that the decoder takes for ten fields that are in memory already, measured in the same rounds. The
other ways read the same fields: zarr-python from the dataset itself, a folder of JPEG files (flow_x, flow_y) and a
webdataset tar of the stored fields from copies of a few videos. Rounds are interleaved; medians are printed. CPU time,
but for workers, where time on the clock counts. The page cache is warm.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import zarr

import flowprep
from flowprep import opencv
from flowprep.codecs import field_codec
from flowprep.config import Stacking
from flowprep.stacks.augment import Augmentation, Crop
from flowprep.stacks.loader import StackLoader
from flowprep.stacks.sampler import Sample
from flowprep.store.reader import Dataset

LENGTH = 10  # fields in a stack
COPIED = 8  # videos that the folder and the tar hold


class Ways:
    """Each method reads one batch; names as they appear in the table."""

    def __init__(self, dataset: Dataset, samples: int, crop: int, folder: Path) -> None:
        self.dataset = dataset
        self.folder = folder
        self.augmentation = Augmentation(crop)
        self.loader = self.stack_loader(samples)
        self.out = self.loader.batch(0, 0).levels
        self.drawn = [self.loader.sampler.sample(0, number) for number in range(samples)]
        self.rows = dataset.rows
        self.codec = field_codec(dataset.settings.storage)
        self.arrays = {clip.array for clip in self.loader.sampler.clips}
        self.zarr = {array: zarr.open_array(dataset.path / str(array), mode="r") for array in self.arrays}
        # Decoders keep nothing of a payload, so that a few of them stand for all.
        self.payloads = [(sample, self.payloads_of(sample)) for sample in self.drawn]

    def stack_loader(self, samples: int, **options: Any) -> StackLoader:
        stacking = options.pop("stacking", Stacking(length=LENGTH))
        return StackLoader(
            self.dataset, stacking, part="", batch_size=samples, augmentation=self.augmentation, **options
        )

    def payloads_of(self, sample: Sample) -> list[bytes]:
        first = sample.clip.start + sample.frame
        return self.rows.payloads(sample.clip.array, range(first, first + LENGTH))

    def window(self, sample: Sample) -> Crop:
        return self.augmentation.window(sample.clip.array.height, sample.clip.array.width, sample.draws)

    def all(self) -> dict[str, Callable[[], Any]]:
        found: dict[str, Callable[[], Any]] = {"floor: decoding alone": self.floor}
        if self.dataset.settings.storage.codec == "jpeg" and find_spec("simplejpeg"):
            found["floor: simplejpeg"] = self.floor_simplejpeg
        found["flowprep"] = partial(self.loader.batch, 0, 0)
        trajectories = self.stack_loader(len(self.drawn), stacking=Stacking("trajectory", LENGTH))
        trajectories.batch(0, 0)  # compiles
        found["flowprep, trajectories"] = partial(trajectories.batch, 0, 0)
        found["zarr-python a[i:i+10]"] = self.zarr_python
        if self.dataset.settings.storage.codec == "jpeg":
            found["folder of JPEG, cv2.imread"] = self.copied_folder()
            if find_spec("webdataset"):
                found["webdataset, in its order"] = self.webdataset()
        return found

    def floor(self) -> None:
        for sample, payloads in self.payloads:
            shape = sample.clip.array.row_shape()
            field = np.empty(shape, self.codec.dtype)
            for payload in payloads:
                self.codec.decode(payload, shape, field)

    def floor_simplejpeg(self) -> None:
        import simplejpeg

        for sample, payloads in self.payloads:
            _, height, width = sample.clip.array.row_shape()
            field = np.empty((2 * height, width, 1), np.uint8)
            for payload in payloads:
                simplejpeg.decode_jpeg(payload, "GRAY", buffer=field)

    def zarr_python(self) -> None:
        for slot, sample in enumerate(self.drawn):
            first = sample.clip.start + sample.frame
            fields = np.asarray(self.zarr[sample.clip.array][first : first + LENGTH])
            self.cut(fields, sample, slot)

    def cut(self, fields: Any, sample: Sample, slot: int) -> None:
        """Crop fields (10, 2, H, W) into the batch."""
        top, left, height, width = self.window(sample)
        self.out[slot] = fields[:, :, top : top + height, left : left + width].reshape(self.out.shape[1:])

    def copied_folder(self) -> Callable[[], None]:
        """The fields of a few videos as files, as other tools write them."""
        clips = self.loader.sampler.clips[:COPIED]
        cv2 = opencv.load()
        for number, clip in enumerate(clips):
            (self.folder / str(number)).mkdir()
            for i, field in enumerate(self.dataset.levels(clip.id)):
                for name, plane in zip("xy", field, strict=True):
                    cv2.imwrite(str(self.folder / f"{number}/flow_{name}_{i:05d}.jpg"), plane)

        def read() -> None:
            for slot, drawn in enumerate(self.drawn):
                number = slot % len(clips)
                sample = drawn._replace(clip=clips[number], frame=drawn.frame % len(clips[number].frames))
                files = [
                    str(self.folder / f"{number}/flow_{name}_{sample.frame + i:05d}.jpg")
                    for i in range(LENGTH)
                    for name in "xy"
                ]
                planes = [cv2.imread(file, cv2.IMREAD_GRAYSCALE) for file in files]
                top, left, height, width = self.window(sample)
                for plane, out in zip(planes, self.out[slot], strict=True):
                    out[:] = plane[top : top + height, left : left + width]

        return read

    def webdataset(self) -> Callable[[], None]:
        """A tar of whole clips, which is read from its beginning to its end; one stack of each clip."""
        import webdataset

        path = self.folder / "clips.tar"
        clips = self.loader.sampler.clips
        with tarfile.open(path, "w") as tar:
            for number in range(len(self.drawn)):
                clip = clips[number % len(clips)]
                rows = self.rows.payloads(clip.array, range(clip.start, clip.start + clip.length))
                data = b"".join([len(row).to_bytes(4, "little") + row for row in rows])
                info = tarfile.TarInfo(f"{number:05d}.fields")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))

        def read() -> None:
            items: Iterator[Any] = iter(webdataset.WebDataset(str(path), shardshuffle=False))
            for slot, (drawn, item) in enumerate(zip(self.drawn, items, strict=True)):
                clip = clips[slot % len(clips)]
                sample = drawn._replace(clip=clip, frame=drawn.frame % len(clip.frames))
                data, rows = memoryview(item["fields"]), []
                while data:
                    size = int.from_bytes(data[:4], "little")
                    rows.append(data[4 : 4 + size])
                    data = data[4 + size :]
                shape = clip.array.row_shape()
                fields = np.empty((LENGTH, *shape), self.codec.dtype)
                for row, field in zip(rows[sample.frame : sample.frame + LENGTH], fields, strict=True):
                    self.codec.decode(row, shape, field)
                self.cut(fields, sample, slot)

        return read


def one_core(ways: Ways, rounds: int) -> list[dict[str, Any]]:
    """Samples a second of CPU time, and the share of the floor in the same round."""
    todo = ways.all()
    for read in todo.values():
        read()  # caches
    rates: dict[str, list[float]] = {name: [] for name in todo}
    for _ in range(rounds):
        for name, read in todo.items():
            start = time.process_time()
            read()
            rates[name].append(len(ways.drawn) / (time.process_time() - start))
    floor = rates["floor: decoding alone"]
    return [
        {
            "way": name,
            "samples_per_second": statistics.median(found),
            "share_of_floor": statistics.median(rate / most for rate, most in zip(found, floor, strict=True)),
        }
        for name, found in rates.items()
    ]


def many_cores(ways: Ways, rounds: int) -> list[dict[str, Any]]:
    """Samples a second on the clock, with threads and with processes of a DataLoader, and the ratio to one of them."""
    kinds: dict[str, Callable[[int], Iterator[Any]]] = {
        "threads": lambda workers: iter(ways.stack_loader(len(ways.drawn), batches=8, workers=workers))
    }
    if find_spec("torch"):
        from flowprep.stacks.torch_loader import data_loader

        kinds["processes"] = lambda workers: iter(
            data_loader(ways.stack_loader(len(ways.drawn), batches=8), workers=workers)
        )
    rates: dict[tuple[str, int], list[float]] = {(kind, workers): [] for kind in kinds for workers in (1, 2)}
    for _ in range(rounds):
        for (kind, workers), found in rates.items():
            batches = kinds[kind](workers)
            next(batches)  # workers have started
            start = time.perf_counter()
            count = sum(len(batch.labels) for batch in batches)
            found.append(count / (time.perf_counter() - start))
    return [
        {
            "way": f"{workers} {kind if workers > 1 else kind.removesuffix('es' if kind == 'processes' else 's')}",
            "samples_per_second": statistics.median(found),
            "ratio_to_one": statistics.median(a / b for a, b in zip(found, rates[kind, 1], strict=True)),
        }
        for (kind, workers), found in rates.items()
    ]


def memory(dataset: Dataset, batches: int, crop: int) -> list[dict[str, float]]:
    """Resident memory in MB, at ten points on the way through batches of 8."""
    loader = StackLoader(dataset, part="", batch_size=8, batches=batches, augmentation=Augmentation(crop))
    process, points = psutil.Process(), []
    for number, _ in enumerate(loader, 1):
        if number == 1 or number % max(1, batches // 10) == 0:
            points.append({"batches": number, "megabytes": process.memory_info().rss / 1e6})
    return points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("dataset", type=Path, help="flow in one direction or both")
    parser.add_argument("--samples", type=int, default=64, help="in a batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--crop", type=int, default=224, help="px")
    parser.add_argument("--memory", type=int, default=0, metavar="BATCHES", help="measure memory over so many batches")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()

    dataset = flowprep.open(options.dataset)
    result: dict[str, Any] = {"codec": dataset.settings.storage.codec}
    if options.memory:
        result["memory"] = memory(dataset, options.memory, options.crop)
        print("| batches | MB |\n|---|---|")
        print("\n".join(f"| {row['batches']} | {row['megabytes']:.0f} |" for row in result["memory"]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            ways = Ways(dataset, options.samples, options.crop, Path(folder))
            result["one_core"] = one_core(ways, options.rounds)
            result["many_cores"] = many_cores(ways, options.rounds)
        print(f"{result['codec']}, one core\n\n| way | samples/s | of the floor |\n|---|---|---|")
        for row in result["one_core"]:
            print(f"| {row['way']} | {row['samples_per_second']:.0f} | {row['share_of_floor']:.0%} |")
        print("\n| workers | samples/s | of one |\n|---|---|---|")
        for row in result["many_cores"]:
            print(f"| {row['way']} | {row['samples_per_second']:.0f} | {row['ratio_to_one']:.2f} |")
        missing = [name for name in ("simplejpeg", "torch", "webdataset") if not find_spec(name)]
        if missing:
            print(f"\nLeft out, since they are not installed: {', '.join(missing)}.")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
