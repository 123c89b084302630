"""No configuration comes twice in a sweep: it would only show once more what is known of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from ray.tune.search import Searcher
from ray.tune.search.variant_generator import generate_variants

from raylora.config.schema import SweepConfig

#: How often a searcher may suggest what has been, before a configuration is drawn for it.
TRIES = 20
#: A space that holds no more than so many times what is tried of it is shuffled: drawing would repeat itself too often.
_FEW = 2


def distinct(points: Iterable[dict[str, Any]], given: Iterable[Mapping[str, Any]] = ()) -> Iterator[dict[str, Any]]:
    """The points without those that have been, in `given` or among themselves."""
    seen = {_identity(point) for point in given}
    for point in points:
        if (identity := _identity(point)) not in seen:
            seen.add(identity)
            yield point


def combinations(sweep: SweepConfig) -> Iterator[dict[str, Any]]:
    """All points of a space that can be counted, the last key's values first.

    Raises:
        ValueError: a range of fractions cannot be counted.
    """
    values = [domain.listed() for domain in sweep.space.values()]
    return (dict(zip(sweep.space, combination, strict=True)) for combination in itertools.product(*values))


def draws(sweep: SweepConfig, domains: Mapping[str, Any], random: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Points of a space at random: some come again, but for small spaces, of which all come once.

    Args:
        sweep: whose space it is.
        domains: the same as Ray Tune's.
        random: decides.
    """
    count = sweep.combinations
    if count is not None and count <= _FEW * sweep.trials:
        every = list(combinations(sweep))
        yield from (every[index] for index in random.permutation(count))
        return
    while True:
        for _, spec in generate_variants({"config": dict(domains)}, random_state=random):
            yield dict(spec["config"])


class Distinct(Searcher):  # type: ignore[misc]
    """A searcher of Ray Tune's around another one, which is asked anew when it suggests what has been.

    Where it insists, as TPE does on a small space of which it has made up its mind, a configuration is drawn at random.

    Args:
        searcher: the other one.
        sweep: has more configurations than trials.
        domains: its space, as Ray Tune's.
        seed: of what is drawn.
        given: what has been given out before.
    """

    def __init__(
        self,
        searcher: Searcher,
        sweep: SweepConfig,
        domains: Mapping[str, Any],
        seed: int,
        given: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(metric=searcher.metric, mode=searcher.mode)
        self.searcher = searcher
        self._sweep = sweep
        self._domains = domains
        self._seed = seed
        self._given = [dict(point) for point in given]
        self._drawn: dict[str, dict[str, Any]] = {}
        self._names: dict[str, str] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next point; None where the other searcher has none now."""
        for attempt in range(TRIES):
            name = f"{trial_id}/{attempt}"
            point: dict[str, Any] | None = self.searcher.suggest(name)
            if point is None:
                return None
            if (new := next(distinct([point], self._given), None)) is not None:
                self._names[trial_id] = name
                self._given.append(new)
                return new
            self.searcher.on_trial_complete(name, error=True)
        random = np.random.default_rng((self._seed, len(self._given)))
        drawn = next(distinct(draws(self._sweep, self._domains, random), self._given))
        self._drawn[trial_id] = drawn
        self._given.append(drawn)
        return drawn

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Pass a report on."""
        if trial_id in self._names:
            self.searcher.on_trial_result(self._names[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Pass on what came of a trial, be it one that the other searcher did not suggest."""
        if trial_id in self._names:
            self.searcher.on_trial_complete(self._names.pop(trial_id), result, error)
        elif (point := self._drawn.pop(trial_id, None)) and result:
            self.searcher.add_evaluated_point(point, result[self.metric])

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """As the other searcher does."""
        return bool(self.searcher.set_search_properties(metric, mode, config, **spec))

    def get_state(self) -> dict[str, Any]:
        """Nothing: Tune asks for it as it saves, and what it saves is never read."""
        return {}


def _identity(point: Mapping[str, Any]) -> str:
    return json.dumps(point, sort_keys=True)
