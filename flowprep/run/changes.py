"""What a source has that the plans of its dataset have not: new, changed, relabelled videos, and those to try again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flowprep.annotations import Source
from flowprep.config import RunConfig, Settings
from flowprep.errors import RefusedError
from flowprep.plan import Plan
from flowprep.store.plans import planned_videos
from flowprep.types import LedgerRow, Video
from flowprep.wording import some


class Changes:
    """The differences between a source and the plans of a dataset."""

    def __init__(self, source: Source, plans: list[Plan], rows: Mapping[str, LedgerRow], run: RunConfig) -> None:
        """``rows``: those in force, by video id; needed only where failures are to be tried again."""
        planned = planned_videos(plans)
        verdicts = run.retry_verdicts()
        self._extend = run.extend
        self._new = [video for video in source.videos if _is_new(video, planned)]
        self._relabelled = [video for video in source.videos if _is_relabelled(video, planned)]
        self._retried = [video for video in source.videos if video.id in rows and rows[video.id].verdict in verdicts]
        self.gone = sorted(planned.keys() - {video.id for video in source.videos})

    def refuse(self, output: object) -> None:
        """Raise RefusedError for differences that need --extend and have it not."""
        if self._extend:
            return
        retried = {video.id for video in self._retried}
        if new := [video.id for video in self._new if video.id not in retried]:
            raise RefusedError(
                f"The source has changed since {output} was planned. New or of another size: {some(new)}. "
                "Add --extend to take them in."
            )
        if self._relabelled:
            raise RefusedError(
                f"Labels or splits are not those that {output} was planned with: "
                f"{some([video.id for video in self._relabelled])}. "
                "Add --extend to take over the new ones; no flow is computed again for that."
            )

    @property
    def videos(self) -> list[Video]:
        """For a new generation: new or changed ones with --extend, failed ones with --retry-status."""
        again = {video.id: video for video in [*(self._new if self._extend else []), *self._retried]}
        return [again[id] for id in sorted(again)]

    @property
    def described(self) -> list[Video]:
        """With --extend: planned videos whose labels or splits are to be taken over."""
        return self._relabelled if self._extend else []


def _is_new(video: Video, planned: Mapping[str, Video]) -> bool:
    old = planned.get(video.id)
    return old is None or (old.size, old.content) != (video.size, video.content)


def _is_relabelled(video: Video, planned: Mapping[str, Video]) -> bool:
    old = planned.get(video.id)
    return old is not None and (old.label, old.splits) != (video.label, video.splits)


def refuse_other_settings(output: object, plans: Sequence[Plan], settings: Settings) -> None:
    """Raise RefusedError if ``plans`` were made with other settings, naming what differs."""
    written = plans[0].settings
    if written.unit != settings.unit or written.derived != settings.derived:
        raise RefusedError(
            f"{output} holds {_what(written)}, this command makes {_what(settings)}: name another folder."
        )
    if settings.auto and written.flow.backend != settings.flow.backend and written.flow.method == settings.flow.method:
        theirs = written.flow.backend
        raise RefusedError(
            f"{output} was begun on the backend {theirs}, and a dataset has one; --backend auto would now take "
            f"{settings.auto}. Continue it with --backend {theirs}, where that runs, or write to another folder "
            f"with --backend {settings.flow.backend}."
        )
    if written.fingerprint() != settings.fingerprint():
        changes = "\n  ".join(written.differences(settings))
        raise RefusedError(
            f"{output} was made with other settings ({written.fingerprint()[:12]} there, "
            f"{settings.fingerprint()[:12]} here); what differs:\n  {changes}\n"
            "Give the same settings again, or write to another folder."
        )


def _what(settings: Settings) -> str:
    return "stacks" if settings.stack else "transcoded flow" if settings.derived else "flow of videos"
