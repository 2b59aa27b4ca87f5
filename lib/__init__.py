"""What the experiments share."""

import os

from lib.data.sources import cache_dir

# Compiled graphs are kept between runs and restarts. torch settles its folder when something is first compiled, so this
# comes before the rest of the library; a folder the user has chosen stands.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_dir() / "inductor"))
