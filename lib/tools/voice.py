"""Speech by espeak-ng, where that is installed."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lib import sound
from lib.answers import Answer, Note, Sound
from lib.faults import DataError, RunError

LONGEST, SECONDS = 2000, 30  # characters; of work


def speak(text: str, out: Path) -> Iterator[Answer]:
    program = shutil.which("espeak-ng")
    if program is None:
        raise RunError("espeak-ng is not installed: apt install espeak-ng, or brew install espeak-ng")
    if not 0 < len(text.strip()) <= LONGEST:
        raise DataError(f"{len(text):,} characters to speak: from 1 to {LONGEST:,}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "speech.wav"
        try:
            subprocess.run(
                [program, "--stdin", "-v", "en", "-w", str(file)], input=text.encode(), check=True,
                capture_output=True, timeout=SECONDS,
            )  # fmt: skip
            samples, rate = sound.samples(file.read_bytes())
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise RunError(f"espeak-ng could not speak it: {error}") from error
    yield Sound(samples, rate, out)
    yield Note("spoken by espeak-ng")
