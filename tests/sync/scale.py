"""How much the property tests of sync try: seconds by default, as long as `MYCOMESH_TEST_SCALE` says (a factor)."""

import itertools
import os
from collections import Counter

from hypothesis import HealthCheck, settings

SCALE = float(os.environ.get("MYCOMESH_TEST_SCALE", "1"))
# For `make lowest`: a library that has broken shows it in few rows and examples; `make test` tries the code itself with all.
ROWS = int(os.environ.get("MYCOMESH_TEST_ROWS", "0"))  # of each test at most, spread over its rows; 0: all
FEW = 4  # times fewer examples of a property then


def sweep(values, count):
    """Return a sample of so many of the values, spread evenly over them; all of them at another scale than 1 (`make long`)."""
    values = list(values)
    if SCALE != 1 or len(values) <= count:
        return values
    return [values[number * len(values) // count] for number in range(count)]


def each_pair(*choices):
    """Return rows in which any two values of different parameters meet; every combination at another scale than 1.

    Nearly all faults of a combination are faults of two of its values, and these rows are a fraction of all.
    """
    rows = list(itertools.product(*choices))
    if SCALE != 1:
        return rows
    chosen, missing = [], {pair for row in rows for pair in _pairs(row)}
    while missing:
        chosen.append(max(rows, key=lambda row: len(missing.intersection(_pairs(row)))))
        missing -= _pairs(chosen[-1])
    return chosen


def each_value(rows):
    """Return those keys of {key: pairs of (parameter, value)} in whose rows each value of each parameter occurs.

    Values of a parameter with few of them take turns beside the values of one with many.
    """
    chosen, used = [], Counter()
    missing = {pair for row in rows.values() for pair in row}
    while missing:
        chosen.append(
            max(rows, key=lambda key: (len(missing.intersection(rows[key])), -sum(used[pair] for pair in rows[key])))
        )
        used.update(rows[chosen[-1]])
        missing.difference_update(rows[chosen[-1]])
    return chosen


def _pairs(row):
    return set(itertools.combinations(enumerate(row), 2))


def examples(count, *, sample=None, **more):
    """Settings for that many examples times the scale, for `sample` of them at scale 1; no example is judged by its time."""
    if SCALE == 1 and sample is not None:
        count = sample
    if ROWS:
        count = -(-count // FEW)
    return settings(
        max_examples=max(1, round(count * SCALE)),
        deadline=None,
        derandomize=SCALE == 1,  # the default run is the same everywhere; a longer one explores
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        **more,
    )
