"""Which pairs are still going, as the host sees it: a little late."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda


class Watch:
    """Looks at flags on the device without ever letting it run out of work.

    Every look asks for a copy of the flags as they will be once everything enqueued so far is done, and waits for the
    copy that the look before asked for: meanwhile the device does what was enqueued between the two.
    """

    def __init__(self, pairs: int) -> None:
        self._copies = [(cuda.pinned_array(pairs, np.int32), cuda.event()) for _ in range(2)]
        self._looks = 0

    def begin(self) -> None:
        """What was asked for before does not matter any more."""
        self._looks = 0

    def all_stopped(self, going: Any, pairs: int, stream: Any) -> bool:
        """Whether, at the look before this one, no flag was set. ``going``: (P,) int32 on the device."""
        flags, event = self._copies[self._looks % 2]
        going[:pairs].copy_to_host(flags[:pairs], stream=stream)
        event.record(stream)
        self._looks += 1
        if self._looks == 1:
            return False
        flags, event = self._copies[self._looks % 2]
        event.synchronize()
        return not flags[:pairs].any()
