"""Which pairs are still going, as the host sees it: a little late."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from flowprep.flow.cuda.launch import fetch, record, wait_for


class Watch:
    """Looks at flags on the device without ever letting it run out of work.

    Every look asks for a copy of the flags as they will be once everything enqueued so far is done, and waits for the
    copy that the look before asked for: meanwhile the device does what was enqueued between the two.
    """

    def __init__(self, going: Any, stream: Any) -> None:
        """``going``: (P,) int32 on the device, set while a pair is going."""
        self._going, self._stream = going, stream
        self._copies = [(cuda.pinned_array(len(going), np.int32), cuda.event()) for _ in range(2)]
        self._looks = 0

    def begin(self) -> None:
        """What was asked for before does not matter any more."""
        self._looks = 0

    def all_stopped(self, pairs: int) -> bool:
        """Whether, at the look before this one, none of the first ``pairs`` pairs was going."""
        flags, event = self._copies[self._looks % 2]
        fetch(self._going, flags, pairs, self._stream)
        record(event, self._stream)
        self._looks += 1
        if self._looks == 1:
            return False
        flags, event = self._copies[self._looks % 2]
        wait_for(event)
        return not flags[:pairs].any()
