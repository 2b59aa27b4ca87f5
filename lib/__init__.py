"""What the experiments share."""

import os

from lib.cache import cache_dir

# Compiled graphs are kept between runs and restarts. torch settles its folder when something is first compiled, so this
# comes before the rest of the library; a folder the user has chosen stands.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "inductor"))

# OpenMP's threads spin while they wait for each other. Where two runs share the cores, each spins away the other's
# time: on two cores both were many times slower than alone. Sleeping costs a run alone nothing (LOG.md). OpenMP reads
# this when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
