"""Seeds and generator states that every device module of torch has, by torch's own names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


def functions(kind: str, extension: Any, index_of: Callable[[Any], int]) -> dict[str, Any]:
    """`manual_seed` and its like for devices of `kind`."""
    import torch

    def generator(device: Any = None) -> Any:
        return extension.generator(kind, index_of(device))

    def count() -> int:
        return int(extension.count(kind))

    def get_rng_state(device: Any = None) -> torch.Tensor:
        state: torch.Tensor = generator(device).get_state()
        return state

    def get_rng_state_all() -> list[torch.Tensor]:
        return [get_rng_state(index) for index in range(count())]

    def set_rng_state(new_state: torch.Tensor, device: Any = None) -> None:
        generator(device).set_state(new_state)

    def set_rng_state_all(new_states: Iterable[torch.Tensor]) -> None:
        for index, new_state in enumerate(new_states):
            set_rng_state(new_state, index)

    def manual_seed(seed: int) -> None:
        generator().manual_seed(int(seed))

    def manual_seed_all(seed: int) -> None:
        for index in range(count()):
            generator(index).manual_seed(int(seed))

    def seed() -> None:
        generator().seed()

    def seed_all() -> None:
        first = 0
        for index in range(count()):
            if index == 0:
                generator(0).seed()
                first = generator(0).initial_seed()
            else:
                generator(index).manual_seed(first)

    def initial_seed() -> int:
        return int(generator().initial_seed())

    return {
        "get_rng_state": get_rng_state,
        "get_rng_state_all": get_rng_state_all,
        "set_rng_state": set_rng_state,
        "set_rng_state_all": set_rng_state_all,
        "manual_seed": manual_seed,
        "manual_seed_all": manual_seed_all,
        "seed": seed,
        "seed_all": seed_all,
        "initial_seed": initial_seed,
    }
