"""The decision: which number of workers, given what was measured. Plain Python, no clock in it.

Every candidate comes with the seconds per step of its repeats. Repeats of one round ran within seconds of
each other, so a busy neighbour slows them alike: candidates are compared by the *ratios within a round*, and
the median of these ratios decides. One disturbed repeat then moves neither the median nor its spread by much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import median

TOLERANCE = 0.05
"""A candidate this little above the best counts as equal: less than that does not pay for another process."""

NOT_SLOWER = 0.02
"""How far above the current value a suggestion may measure (a clock's scatter) and not count as slower."""

AT_MOST = 0.07
"""However large the noise, a candidate this far above the best does not count as equal."""

UNCLEAR = 0.15
"""A comparison with more noise than this cannot tell two candidates apart."""

# Three repeats tell little about their own noise; that of all candidates counts as much as so many repeats more.
_SHARED = 4

# The median absolute deviation of few values is too small on average; factors of Croux and Rousseeuw (1992).
_SMALL_SAMPLE = {2: 1.196, 3: 1.495, 4: 1.363, 5: 1.206, 6: 1.200, 7: 1.140, 8: 1.129, 9: 1.107}


def scatter(values: list[float]) -> float:
    """Robust standard deviation of ``values``: their median absolute deviation, scaled for a normal
    distribution.

    Returns:
        The deviation in the unit of ``values``; ``inf`` for fewer than two values, whose scatter nobody
        knows.

    Example:
        >>> round(scatter([1.00, 1.01, 1.02, 1.50]), 3)
        0.02
        >>> scatter([1.0])
        inf
    """
    n = len(values)
    if n < 2:
        return math.inf
    middle = median(values)
    factor = _SMALL_SAMPLE.get(n, n / (n - 0.8))
    return 1.4826 * factor * median(abs(value - middle) for value in values)


@dataclass(frozen=True)
class Comparison:
    """How one candidate's time per step compares with another's.

    Attributes:
        ratio: Its time over the other's: 1.1 is 10 % slower.
        noise: How far ``ratio`` may be off, relative (0.03 is 3 %); twice the standard error of the median.
        paired: Whether the ratios were taken within rounds.
        repeats: How many repeats ``ratio`` rests on.
    """

    ratio: float
    noise: float
    paired: bool
    repeats: int = 1

    @property
    def unclear(self) -> bool:
        """Whether the noise could hide a difference that matters."""
        return self.noise > UNCLEAR and abs(math.log(self.ratio)) <= self.noise

    def hides_a_gain(self, of: float) -> bool:
        """Whether it might be faster by more than ``of``, a share of the other's time."""
        return self.unclear and self.ratio * (1 - self.noise) < 1 - of

    @property
    def equal(self) -> bool:
        """Whether it is as fast as the other: within the noise, or within :data:`TOLERANCE`."""
        return not self.unclear and self.ratio <= 1 + max(TOLERANCE, min(self.noise, AT_MOST))

    @property
    def slower(self) -> bool:
        """Whether it is slower, small differences (:data:`NOT_SLOWER`) and noise aside."""
        return self.ratio > 1 + max(NOT_SLOWER, min(self.noise, TOLERANCE))


def compare(times: Mapping[int, float], other: Mapping[int, float], *, paired: bool = True) -> Comparison:
    """Compare two candidates by their seconds per step, each a mapping from round to seconds.

    Args:
        times: The candidate's seconds per step by round.
        other: The reference's.
        paired: Use ratios within the rounds that both have, where these are at least two.

    Returns:
        The comparison; its noise is ``inf`` where one of the two was measured once only.

    Example:
        >>> quiet_then_busy = {0: 0.020, 1: 0.021, 2: 0.040}
        >>> with_more_workers = {0: 0.010, 1: 0.0105, 2: 0.0205}
        >>> result = compare(with_more_workers, quiet_then_busy)
        >>> round(result.ratio, 2), result.unclear
        (0.5, False)
    """
    shared = sorted(times.keys() & other.keys())
    if paired and len(shared) >= 2:
        logs = [math.log(times[key] / other[key]) for key in shared]
        return Comparison(math.exp(median(logs)), _median_noise(scatter(logs), len(logs)), True, len(logs))
    mine = [math.log(value) for value in times.values()]
    theirs = [math.log(value) for value in other.values()]
    noise = math.hypot(_median_noise(scatter(mine), len(mine)), _median_noise(scatter(theirs), len(theirs)))
    repeats = min(len(mine), len(theirs))
    return Comparison(math.exp(median(mine) - median(theirs)), noise, False, repeats)


def _median_noise(deviation: float, n: int) -> float:
    return 2 * 1.2533 * deviation / math.sqrt(n)


@dataclass(frozen=True)
class Choice:
    """What :func:`choose` decided.

    Attributes:
        suggestion: The number of workers.
        fastest: The candidate with the least measured time per step.
        equal: Candidates as fast as that one, within the noise.
        unclear: Candidates whose noise hides whether they are.
        conclusive: False where an unclear candidate could change the suggestion.
        against_fastest: Each candidate compared with the fastest.
        against_current: The suggestion compared with the current value; None where that was not measured.
    """

    suggestion: int
    fastest: int
    equal: tuple[int, ...]
    unclear: tuple[int, ...]
    conclusive: bool
    against_fastest: dict[int, Comparison] = field(repr=False)
    against_current: Comparison | None


def choose(
    times: Mapping[int, Mapping[int, float]], current: int | None = None, *, paired: bool = True
) -> Choice:
    """Choose the fewest workers within the noise of the fastest, never slower than the current value.

    Args:
        times: For each candidate (number of workers) its seconds per step by round.
        current: The value in use now.
        paired: Whether equal round numbers mean "measured right after one another".

    Returns:
        The choice. While it is inconclusive, its suggestion is the likeliest value: the fewest workers that measured
        as fast as the fastest, and no slower than the current value.

    Raises:
        ValueError: If no candidate has a time.

    Example:
        >>> none = {0: 0.060, 1: 0.061, 2: 0.060}
        >>> two = {0: 0.0205, 1: 0.0207, 2: 0.0204}
        >>> four = {0: 0.0203, 1: 0.0204, 2: 0.0205}
        >>> choose({0: none, 2: two, 4: four}, current=4).suggestion
        2
    """
    measured = {workers: dict(rounds) for workers, rounds in times.items() if rounds}
    if not measured:
        raise ValueError("Expected argument `times` to hold at least one measured candidate but got none")
    fastest = _fastest(measured, paired)
    against = _share_noise(
        {w: compare(measured[w], measured[fastest], paired=paired) for w in measured if w != fastest}
    )
    against[fastest] = Comparison(1.0, 0.0, paired, len(measured[fastest]))
    equal = tuple(sorted(w for w, result in against.items() if result.equal))
    unclear = tuple(sorted(w for w, result in against.items() if result.unclear))
    hidden = [w for w in unclear if w < equal[0] or against[w].hides_a_gain(AT_MOST)]
    if current is not None and current in unclear and against[current].hides_a_gain(TOLERANCE):
        hidden.append(current)
    wanted = [_likeliest(against)] if hidden else list(equal)
    against_current = None
    if current in measured:
        compared = {w: compare(measured[w], measured[current], paired=paired) for w in (*wanted, current)}
        wanted = [w for w in (*wanted, current) if not _slower(compared[w], bool(hidden))]
        against_current = compared[wanted[0]]
    return Choice(wanted[0], fastest, equal, unclear, not hidden, against, against_current)


def _likeliest(against: Mapping[int, Comparison]) -> int:
    """Without a clear answer: the fewest that measured as fast as the fastest, whatever the noise."""
    return min(w for w, result in against.items() if result.ratio <= 1 + TOLERANCE)


def _slower(than_current: Comparison, guessed: bool) -> bool:
    """Whether a suggestion is slower than the current value. A guess gets no allowance for its noise."""
    return than_current.ratio > 1 + NOT_SLOWER if guessed else than_current.slower


def _fastest(measured: Mapping[int, Mapping[int, float]], paired: bool) -> int:
    """The candidate that no other beats pair by pair, starting from the least median."""
    order = sorted(measured, key=lambda workers: (median(measured[workers].values()), workers))
    best = order[0]
    for workers in order[1:]:
        if compare(measured[workers], measured[best], paired=paired).ratio < 1:
            best = workers
    return best


def _share_noise(against: Mapping[int, Comparison]) -> dict[int, Comparison]:
    """Draw each candidate's noise towards the typical one: of three repeats, some agree or differ by luck."""
    single = {w: r.noise * math.sqrt(r.repeats) for w, r in against.items() if math.isfinite(r.noise)}
    if not single:
        return dict(against)
    typical = median(single.values())
    shared = dict(against)
    for workers, own in single.items():
        result, weight = against[workers], against[workers].repeats - 1
        drawn = math.sqrt((weight * own**2 + _SHARED * typical**2) / (weight + _SHARED))
        shared[workers] = replace(result, noise=drawn / math.sqrt(result.repeats))
    return shared
