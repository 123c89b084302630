"""Card-hours on the head: how long cards were held, by month, owner and model of card.

The autoscaler counts them from what vCenter says of its workers, and keeps the sum in the head's machine: so it
survives the autoscaler and the head's restart, and whoever asks needs neither. What runs while no autoscaler does is
counted when it is back; of a worker that ends meanwhile the time since the last writing is lost, a quarter of an hour
at most.
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from raylora.cluster.config import ClusterConfig
from raylora.cluster.nodes.identity import HOURS_KEY
from raylora.cluster.nodes.inflight import InFlight
from raylora.cluster.nodes.on_head.writing import write
from raylora.cluster.vsphere.types import Machine
from raylora.sealed_json import sealed, unsealed

log = logging.getLogger(__name__)

_PERIOD: Final = 900.0  # seconds between two writings, while cards are held: each is a task in the vCenter
_SOON: Final = 60.0  # seconds between two writings when workers have gone

#: Month (2026-11), owner, card.
Row = tuple[str, str, str]


@dataclasses.dataclass(frozen=True)
class CardHours:
    """The card-hours of a cluster.

    Attributes:
        hours: by month, owner and card.
        until: up to when they were counted; None if they never were.
    """

    hours: Mapping[Row, float] = dataclasses.field(default_factory=dict)
    until: datetime.datetime | None = None

    def counted(
        self, workers: Iterable[Machine], owner: str, card_of: Callable[[str], str], now: datetime.datetime
    ) -> CardHours:
        """The same, counted until now.

        Args:
            workers: those that there are.
            owner: whose the cluster is since the last count.
            card_of: gives the card of a node type.
            now: by vCenter's clock, as the times at which machines were started.
        """
        hours = dict(self.hours)
        for machine in workers:
            if not (machine.on and machine.devices and machine.owner is not None):
                continue
            start = max(filter(None, (machine.booted, self.until)), default=now)
            for month, seconds in _months(start, now):
                row = (month, owner, card_of(machine.owner.identity.node_type))
                hours[row] = hours.get(row, 0.0) + len(machine.devices) * seconds / 3600
        return CardHours(hours, max(now, self.until or now))

    def text(self) -> str:
        """The text from which `read` makes it again."""
        rows = [[*row, round(hours, 4)] for row, hours in sorted(self.hours.items())]
        return sealed({"until": self.until and self.until.isoformat(), "hours": rows}, indent=None)

    @classmethod
    def read(cls, text: str) -> CardHours:
        """What `text` gave; none yet for an empty text.

        Raises:
            ValueError: it was altered, or is none.
        """
        if not text:
            return cls()
        content = unsealed(text)
        until = content["until"] and datetime.datetime.fromisoformat(content["until"])
        return cls({(month, owner, card): hours for month, owner, card, hours in content["hours"]}, until)


def card_of(config: ClusterConfig) -> Callable[[str], str]:
    """Gives the card of a node type; of one that is not in the configuration any more the type's name."""
    cards = {name: kind.card.name for name, kind in config.workers.items() if kind.card is not None}
    return lambda node_type: cards.get(node_type, node_type)


class HeadHours:
    """Counts the card-hours of one cluster and keeps them in its head's extraConfig. One process does."""

    def __init__(self, inflight: InFlight) -> None:
        self._inflight = inflight
        self._counted: CardHours | None = None
        self._on: frozenset[str] = frozenset()
        self._gone = False
        self._written = time.monotonic()

    def write(self) -> None:
        """Count, and write the sum down now and then. Trouble on the way is only logged.

        Raises: as `VCenter.read`.
        """
        inflight = self._inflight
        head = inflight.head()
        if head is None:
            return
        if self._counted is None:
            fresh = inflight.fresh(head.id)
            self._counted = _read(fresh.hours) if fresh is not None else CardHours()
        workers = [machine for machine in inflight.own(inflight.inventory.view()) if machine.on and machine.devices]
        config = inflight.config
        self._counted = self._counted.counted(workers, config.owner or "", card_of(config), inflight.vcenter.now())
        on = frozenset(machine.id for machine in workers)
        self._gone |= bool(self._on - on)
        self._on = on
        waited = time.monotonic() - self._written
        if (self._gone and waited > _SOON) or (on and waited > _PERIOD):
            self._written = time.monotonic()
            self._gone = not write(inflight, HOURS_KEY, self._counted.text())


def _read(text: str) -> CardHours:
    try:
        return CardHours.read(text)
    except (ValueError, KeyError, TypeError) as error:
        log.error("the card-hours in the head's machine %s: they are counted anew", error)
        return CardHours()


def _months(start: datetime.datetime, end: datetime.datetime) -> Iterator[tuple[str, float]]:
    """The months between two times, each with its seconds.

    >>> first, last = (datetime.datetime(2026, month, day) for month, day in ((1, 31), (3, 1)))
    >>> [(month, seconds / 86400) for month, seconds in _months(first, last)]
    [('2026-01', 1.0), ('2026-02', 28.0)]
    """
    while start < end:
        following = start.replace(day=1, hour=0, minute=0, second=0, microsecond=0) + datetime.timedelta(days=32)
        stop = min(end, following.replace(day=1))
        yield f"{start:%Y-%m}", (stop - start).total_seconds()
        start = stop
