"""The false alarms of a threshold on other audio: each kind of negatives is held out once.

A threshold fits the negatives that it was chosen on, and fires more often in others. What may be promised are
the false alarms in a kind of negatives at the threshold that the other kinds choose.
"""

from dataclasses import dataclass, replace

import numpy as np

from kws.base.settings import SENSITIVITIES, DetectorSettings, Sensitivity
from kws.detect.measure import GATES, SHOWN, Measured, Point, operating_point, rate_text, sweep

# The share of the accepted false alarms that each sensitivity may have: of 5 an hour it is 1, 5 and 20.
SENSITIVITY_RATES = {"low": 0.2, "normal": 1.0, "high": 4.0}


@dataclass(frozen=True)
class Kinds:
    """False alarms by kind of negatives, at each point of a sweep."""

    points: list[Point]
    names: list[str]
    hours: np.ndarray  # float [kinds]
    false_alarms: np.ndarray  # int [points, kinds]


@dataclass(frozen=True)
class Chosen:
    """A threshold for an accepted rate of false alarms, and what it gives."""

    threshold: float
    false_alarms: np.ndarray  # int [kinds]: on all kinds, all of which the threshold was chosen on
    held_out: np.ndarray  # int [kinds]: at the threshold that the other kinds choose
    miss_rate: float  # 0 to 1


def by_kind(measured: Measured, points: list[Point]) -> Kinds:
    """Count the false alarms of each kind at each of `points`, from `measure.sweep`."""
    recordings = measured.negatives or [measured.track]
    names = [one.kind or one.name for one in recordings]
    kinds = list(dict.fromkeys(names))
    # [recordings, kinds]: whether a recording is of a kind
    is_of = np.array([[name == kind for kind in kinds] for name in names])
    # [points, recordings]
    counts = np.array([measured.false_alarms(point.threshold).sum(1) for point in points])
    hours = np.array([one.hours for one in recordings])
    return Kinds(points, kinds, hours @ is_of, counts @ is_of)


def choose(kinds: Kinds, allowed: float) -> Chosen:
    """Choose the threshold with the fewest misses of which `allowed` false alarms an hour can be promised.

    If the kinds held out have n times as many, the threshold is chosen for an nth of the rate, or for the
    next point's rate if that is higher. If they have more at every rate, the threshold is taken at which they
    have the fewest.
    """
    most, best, rate = allowed * kinds.hours.sum(), None, allowed
    rates = [point.false_alarms_per_hour for point in kinds.points]
    while True:
        point, held_out = operating_point(kinds.points, rate), _held_out(kinds, rate)
        if best is None or held_out.sum() < best.held_out.sum():
            best = Chosen(point.threshold, _at(kinds, point.threshold), held_out, point.miss_rate)
        if held_out.sum() <= most or point.false_alarms_per_hour == 0:
            return best
        rate = max([rate * most / held_out.sum(), *(lower for lower in rates if lower < rate)])


def _held_out(kinds, allowed):
    """Return the false alarms of each kind, int [kinds], at the threshold the others choose for `allowed`.

    One kind alone cannot be held out: it chooses for itself.
    """
    found = np.zeros(len(kinds.names), int)
    for kind in range(len(found)):
        others = np.arange(len(found)) != kind if len(found) > 1 else np.array([True])
        rates = kinds.false_alarms[:, others].sum(1) / kinds.hours[others].sum()
        points = [
            point._replace(false_alarms_per_hour=rate)
            for point, rate in zip(kinds.points, rates, strict=True)
        ]
        found[kind] = _at(kinds, operating_point(points, allowed).threshold)[kind]
    return found


def _at(kinds, threshold):
    """Return the false alarms of each kind, int [kinds], at the threshold of a point; none at any other."""
    thresholds = [point.threshold for point in kinds.points]
    if threshold not in thresholds:
        return np.zeros(len(kinds.names), int)
    return kinds.false_alarms[thresholds.index(threshold)]


def with_best_gate(measured: Measured, allowed: float) -> Measured:
    """Choose the verifier's gate with the fewest misses, all sensitivities together.

    A sensitivity counts as worse by the share of false alarms that are more than its rate.
    """

    def misses(gate):
        # SHOWN has fewer thresholds than THRESHOLDS; each costs a pass over all tracks
        with_gate = replace(measured, parameters=replace(measured.parameters, gate=gate))
        found = detector_settings(with_gate, by_kind(with_gate, sweep(with_gate, SHOWN)), allowed)
        rates = ((getattr(found, name), rate * allowed) for name, rate in SENSITIVITY_RATES.items())
        return sum(
            one.miss_rate + max(0, one.false_alarms_per_hour - rate) / (rate or 1) for one, rate in rates
        )

    # of equal ones the highest, which asks the verifier least
    best = min(reversed(GATES), key=misses)
    return replace(measured, parameters=replace(measured.parameters, gate=best))


def detector_settings(measured: Measured, kinds: Kinds, allowed: float) -> DetectorSettings:
    """Return the detector with the best threshold for each of SENSITIVITY_RATES, and the rates promised.

    At normal sensitivity `allowed` false alarms an hour are accepted.
    All words have one threshold: chosen for each word, they overfit to the negatives.
    """
    sensitivities = {}
    for name, rate in SENSITIVITY_RATES.items():
        one = choose(kinds, rate * allowed)
        # with few recordings chance may favour the kinds that are held out
        promised = max(one.held_out.sum(), one.false_alarms.sum()) / kinds.hours.sum()
        sensitivities[name] = Sensitivity(one.threshold, round(float(promised), 2), round(one.miss_rate, 4))
    found = measured.parameters
    times = found.hop_ms, found.smoothing_ms, found.refractory_ms
    return DetectorSettings(*times, **sensitivities, gate=found.gate)


# ---- as text ----


def sensitivities_text(detector: DetectorSettings) -> str:
    """Return a line for each sensitivity: its threshold, and what may be expected of it."""
    lines = []
    for name in SENSITIVITIES:
        one = getattr(detector, name)
        figures = f"threshold {one.threshold:g}, {one.false_alarms_per_hour:g} false alarms an hour"
        lines.append(f"--sensitivity {name}: {figures}, {100 * one.miss_rate:.1f} % of the words missed")
        if one.miss_rate == 1:
            lines[-1] += ": no threshold has so few and finds any"
    return "\n  ".join(lines)


def text(kinds: Kinds, chosen: Chosen, allowed: float) -> str:
    """Return a line for each kind, and a line for all: false alarms at the threshold, and held out."""
    several, lines = len(kinds.names) > 1, []
    columns = kinds.names, kinds.hours, chosen.false_alarms, chosen.held_out
    for name, hours, count, held_out in zip(*columns, strict=True):
        lines.append(f"{name}: {count} false alarms in {60 * hours:.1f} minutes")
        if several:
            lines[-1] += f"; held out {rate_text(held_out, hours)}"
    if not several:
        return "\n  ".join([*lines, "one kind of recordings: none can be held out, others may have more"])
    total, hours = chosen.held_out.sum(), kinds.hours.sum()
    lines.append(f"on other audio expect, from each kind held out once: {rate_text(total, hours)}")
    if total > allowed * hours:
        lines[-1] += f": {allowed:g} cannot be promised from these kinds"
    return "\n  ".join(lines)
