"""How the threads of a parallel region wait for each other; decided before torch is imported.

OpenMP's threads spin when a region ends, on processors that others could use. For how long, the
library reads from the environment when it is loaded, which importing torch does.
"""

from __future__ import annotations

import os
import sys

# Whoever set one of these has chosen.
VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
# Looks at whether there is work, of some 50 ns each; the library's own number is 300,000. A small
# retraining that was alone on a virtual machine, where a thread that sleeps takes 100 microseconds
# to wake, was 7 % slower with 5,000, a third with 1,000, and nearly twice as slow with none.
SPINS = "5000"


def choose_waiting() -> str:
    """Set ``GOMP_SPINCOUNT`` where nobody has chosen, for this process and those that it starts.

    Returns:
        How threads wait, and who says so.
    """
    for name in VARIABLES:
        if os.environ.get(name):
            return f"{name}={os.environ[name]} (set in the environment)"
    if "torch" in sys.modules:
        return (
            "long spins (torch was imported before ssfnas: import ssfnas first, or set "
            f"GOMP_SPINCOUNT={SPINS})"
        )
    os.environ["GOMP_SPINCOUNT"] = SPINS
    return f"GOMP_SPINCOUNT={SPINS} (set by ssfnas)"
