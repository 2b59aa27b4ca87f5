"""`python -m experiments NAME ...` runs an experiment by name, and suggests the nearest one for a name it lacks.

Without a name it lists them.
"""

import runpy
import signal
import sys
from pathlib import Path

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not one that is started in the background
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `cli.main`: imports take seconds, and a traceback says nothing

from lib.run.cli import nearest, overview

here = Path(__file__).parent
if sys.argv[1:] in ([], ["sample"]) or sys.argv[1] in ("-h", "--help"):
    print(overview(here))
    sys.exit()
name = nearest(sys.argv[1], here)
del sys.argv[1]
runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
