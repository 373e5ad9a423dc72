"""``--backend auto``: of the backends of a method that work on this machine the one expected to be fastest, and why."""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

from flowprep import flow
from flowprep.errors import RefusedError, UsageError

AUTO = "auto"
FASTEST_FIRST = ("cuda", "opencv-cuda", "cpu", "opencv")  # on GPUs as is expected: not measured


class Choice(NamedTuple):
    """What ``auto`` stands for on this machine."""

    algorithm: type[flow.FlowAlgorithm]
    why: str  # "cpu (flowprep kernels 1), because cuda: no GPU is there"


def choose(method: str, parameters: dict[str, Any]) -> Choice:
    """The first backend of ``method``, in that order, that runs here and has these ``parameters``.

    Raises UsageError for an unknown method, and for parameters that no backend which runs here has; RefusedError where
    none runs.
    """
    known = flow.known_backends(method)
    reasons: dict[str, str] = {}
    mistakes: list[UsageError] = []
    for name in (name for name in FASTEST_FIRST if name in known):
        algorithm = flow.find(method, name, elsewhere=True)
        reasons[name] = algorithm.unavailable()
        if not reasons[name]:
            try:
                algorithm.parameters_type.of(method, parameters, name)
            except UsageError as error:
                mistakes.append(error)
                reasons[name] = str(error)
                continue
            because = "; ".join(f"{other}: {reason.rstrip('.')}" for other, reason in reasons.items() if reason)
            what = f"{name} ({algorithm.engine()})"
            return Choice(algorithm, f"{what}, because {because}" if because else what)
    if mistakes:
        raise mistakes[0]
    raise RefusedError(f"{method} cannot run here. " + " ".join(f"{name}: {why}" for name, why in reasons.items()))


def refuse_auto(who: str) -> NoReturn:
    """Raise UsageError where others compute: what they have is not seen from here, and may change while they work."""
    raise UsageError(
        f"--backend auto takes what this machine has, but {who} compute: name the backend that all of them have, "
        "for example --backend cuda or --backend cpu; flowprep doctor says on each what it has."
    )
