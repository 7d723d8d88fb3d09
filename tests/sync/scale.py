"""How much the property tests of sync try: seconds by default, as long as `MYCOMESH_TEST_SCALE` says (a factor)."""

import os

from hypothesis import HealthCheck, settings

SCALE = float(os.environ.get("MYCOMESH_TEST_SCALE", "1"))


def examples(count, **more):
    """Settings for that many examples times the scale; no example is judged by how long it took."""
    return settings(
        max_examples=max(1, round(count * SCALE)),
        deadline=None,
        derandomize=SCALE == 1,  # the default run is the same everywhere; a longer one explores
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        **more,
    )
