"""Programs in a process of their own, where nobody but the library looks at types."""

import subprocess
import sys


def unchecked(program: str) -> str:
    """What a program prints."""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout
