"""What torchrun starts as each rank of `accel llamafactory train`: accel first, then the training.

Where torch loads its bridges, accel comes with torch. Where it may not (see bridges), this is the
only way in.
"""

from __future__ import annotations

import os

from accel import autoload


def main() -> None:
    """LLaMA-Factory's `launcher.py` as a program, repaired."""
    if os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD", "1") == "0":
        autoload.load()
    from llamafactory.train.tuner import run_exp

    run_exp()


if __name__ == "__main__":
    main()
