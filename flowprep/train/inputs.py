"""What a network gets to see: batches for training, whole inputs for testing."""

from __future__ import annotations

from flowprep.config import Stacking, StreamConfig
from flowprep.errors import UsageError
from flowprep.stacks import Augmentation, Jitter, StackLoader
from flowprep.stacks.sources import MUST_AGREE
from flowprep.store.reader import Dataset
from flowprep.train.nets import normalisation


def stack_loader(
    config: StreamConfig,
    dataset: Dataset,
    *,
    part: str,
    batch: int,
    seed: int,
    batches: int | None = None,
    workers: int = 0,
    split: int | None = None,
    share: tuple[int, int] = (0, 1),
    without: frozenset[str] = frozenset(),
) -> StackLoader:
    """Training batches of ``dataset`` as the stream of ``config`` sees them: augmented, and normalised for its net.

    part, split: which videos; an empty part is all of them, the default split that of the configuration.
    seed, batches, workers, share, without: as of :class:`~flowprep.stacks.loader.StackLoader`.

    Raises UsageError where the dataset has not what the stream needs.
    """
    data = config.data
    return StackLoader(
        dataset,
        _stacking(config, dataset),
        frames=_frames(config, dataset),
        split=split or data.split,
        part=part,
        batch_size=batch,
        seed=seed,
        batches=batches,
        augmentation=Augmentation(
            data.crop, data.position, tuple(data.scales), data.flip, Jitter() if data.jitter else None
        ),
        normalise=normalisation(config.net.name, config.stream == "spatial", config.net.init),
        workers=workers,
        on_damage=data.on_damage,
        share=share,
        without=without,
    )


def test_loader(
    config: StreamConfig,
    dataset: Dataset,
    *,
    part: str,
    split: int | None,
    without: frozenset[str] = frozenset(),  # noqa: PT028 - no test
) -> StackLoader:
    """Inputs for testing, through ``test_batch``: whole frames, normalised as in training, neither cut nor changed.

    part, split, without: which videos, as in :func:`stack_loader`; split None is that of the configuration.
    """
    return StackLoader(
        dataset,
        _stacking(config, dataset),
        frames=_frames(config, dataset),
        split=split or config.data.split,
        part=part,
        batch_size=1,
        augmentation=Augmentation(config.data.crop, "centre", flip=False, jitter=None),
        normalise=normalisation(config.net.name, config.stream == "spatial", config.net.init),
        on_damage=config.data.on_damage,
        without=without,
    )


def channels_of(config: StreamConfig, dataset: Dataset) -> int:
    """Channels of an input: 3 of an RGB frame, 2L of a stack of L fields.

    Raises UsageError where the dataset has not what the stream needs.
    """
    _frames(config, dataset)
    stacking = _stacking(config, dataset)
    return 3 if stacking is None else 2 * stacking.length


def _frames(config: StreamConfig, dataset: Dataset) -> bool:
    """Whether inputs are RGB frames. Raises UsageError where they should be and the dataset has none."""
    if config.stream == "temporal":
        return False
    if dataset.settings.stack is not None:
        raise UsageError(f"{dataset.path} holds stacks, without RGB frames: give the dataset of flow behind them.")
    if not dataset.settings.storage.rgb:
        raise UsageError(
            f"{dataset.path} has no RGB frames, which the spatial stream is trained on: extract it again with --rgb."
        )
    return True


def _stacking(config: StreamConfig, dataset: Dataset) -> Stacking | None:
    """Stacks of the temporal stream. Of stored ones only the mean flow can be changed; UsageError for anything else."""
    if config.stream == "spatial":
        return None
    stored = dataset.settings.stack
    for name in MUST_AGREE if stored else ():
        here, there = getattr(stored, name), getattr(config.stack, name)
        if here != there:
            raise UsageError(
                f"{dataset.path}: its stacks have {name} {here}, not {there}: set stack.{name} to {here}, or give the "
                "dataset of flow that they were made from."
            )
    return config.stack
