"""Token buckets by key, as in GCRA: a single number per bucket, in a bounded table."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

# The bucket used longest ago is dropped, and starts full again.
BUCKETS_MAX = 10_000
# Tolerance for rounding of floats.
ROUNDING_S = 1e-9


@dataclass(slots=True, kw_only=True)
class Buckets:
    """`per_s` flow into each bucket, which holds `holds_s` seconds' worth, and at least one."""

    per_s: float
    holds_s: float
    buckets_max: int = BUCKETS_MAX
    # Key -> the time when its bucket is full again.
    _full_s: OrderedDict[Hashable, float] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._full_s)

    def take(self, key: Hashable, now_s: float, cost: float = 1.0) -> float:
        """Takes `cost` and returns 0.0, or takes nothing and returns the seconds until it is available.

        A cost beyond the bucket's size is taken from a full bucket, which then owes the rest.
        """
        full_s = max(self._full_s.get(key, now_s), now_s)
        holds_s = max(self.holds_s, 1 / self.per_s)
        over_s = full_s - now_s + min(cost / self.per_s, holds_s) - holds_s
        if over_s > ROUNDING_S:
            return over_s
        self._full_s[key] = full_s + cost / self.per_s
        self._full_s.move_to_end(key)
        if len(self._full_s) > self.buckets_max:
            self._full_s.popitem(last=False)
        return 0.0
