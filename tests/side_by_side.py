"""What `make test` runs: the unit tests, and beside them the notebooks under nbval, on a core each.

With one thread each: two on the same cores wait for each other, and sums that are not split come to the same bits on
every machine. What nbval says follows that of the units, unless it fails before them: then it is shown at once.
Ctrl-C, or a signal to end, stops both, which tidy up after themselves.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

PYTEST = [sys.executable, "-m", "pytest"]
NBVAL = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=300", "-x", "-p", "no:cacheprovider"]


def run(units: list[str], notebooks: list[str]) -> int:
    """Run two commands side by side -> the first exit status that is not 0. The second's results are thrown away."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as results:
        here = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        there, said = here | {"CARTOONLIB_RESULTS": results}, Path(results, "said")
        started = []
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to both; this waits for them
        signal.signal(signal.SIGTERM, lambda *_: [each.send_signal(signal.SIGINT) for each in started])
        stoppable = partial(subprocess.Popen, preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL))
        with said.open("wb") as log:
            started.append(second := stoppable(notebooks, env=there, stdout=log, stderr=subprocess.STDOUT))
        started.append(first := stoppable(units, env=here))
        while first.poll() is None and not second.poll():
            time.sleep(0.2)
        if first.poll() is not None:
            second.wait()
        print(said.read_text(encoding="utf-8"), end="", flush=True)
        return first.wait() or second.returncode


if __name__ == "__main__":
    sys.exit(run([*PYTEST, "tests"], [*PYTEST, *NBVAL, *sys.argv[1:]]))
