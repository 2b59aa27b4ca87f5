"""`python -m experiments NAME ...` runs an experiment by name, and suggests the nearest one for a name it lacks."""

import runpy
import sys
from pathlib import Path

from lib.cli import fail, nearest

if len(sys.argv) < 2:
    fail("which experiment? just run exp_transformer_fr")
name = nearest(sys.argv[1], Path(__file__).parent)
del sys.argv[1]
runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
