"""Memory queries that every device module of torch has, by torch's own names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def flat_stats(nested: Mapping[str, Any]) -> dict[str, int]:
    """Nested statistics as torch shows them: `allocated_bytes.all.current`, sorted."""
    found: dict[str, int] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), item)
        else:
            found[prefix] = value

    walk("", nested)
    return dict(sorted(found.items()))


def functions(kind: str, extension: Any, index_of: Callable[[Any], int]) -> dict[str, Any]:
    """`memory_allocated` and its like for devices of `kind`; bytes, as in torch.cuda.memory."""

    def stat(name: str, which: str) -> Callable[..., int]:
        def query(device: Any = None) -> int:
            return int(extension.stats(kind, index_of(device))[name]["all"][which])

        return query

    def memory_stats(device: Any = None) -> dict[str, int]:
        return flat_stats(extension.stats(kind, index_of(device)))

    def memory_stats_as_nested_dict(device: Any = None) -> dict[str, Any]:
        return dict(extension.stats(kind, index_of(device)))

    def mem_get_info(device: Any = None) -> tuple[int, int]:
        index = index_of(device)
        return extension.free_bytes(kind, index), extension.capacity(kind, index)

    def empty_cache() -> None:
        extension.empty_cache(kind)

    def reset_peak_memory_stats(device: Any = None) -> None:
        extension.reset_peak(kind, index_of(device))

    def reset_accumulated_memory_stats(device: Any = None) -> None:
        extension.reset_accumulated(kind, index_of(device))

    def set_per_process_memory_fraction(fraction: float, device: Any = None) -> None:
        if not 0 <= fraction <= 1:
            raise ValueError(f"Invalid fraction value: {fraction}. Allowed range: 0~1")
        extension.set_fraction(kind, index_of(device), fraction)

    def get_per_process_memory_fraction(device: Any = None) -> float:
        return float(extension.fraction(kind, index_of(device)))

    def memory_summary(device: Any = None, abbreviated: bool = False) -> str:
        index = index_of(device)
        stats = memory_stats(index)
        lines = [f"{kind}:{index} memory, in bytes (a simulated device)"]
        names = ("allocated_bytes", "active_bytes", "reserved_bytes", "requested_bytes")
        for name in names[:2] if abbreviated else names:
            values = (f"{which} {stats[f'{name}.all.{which}']}" for which in ("current", "peak"))
            lines.append(f"  {name}: {', '.join(values)}")
        return "\n".join(lines)

    return {
        "memory_allocated": stat("allocated_bytes", "current"),
        "max_memory_allocated": stat("allocated_bytes", "peak"),
        "memory_reserved": stat("reserved_bytes", "current"),
        "max_memory_reserved": stat("reserved_bytes", "peak"),
        "memory_cached": stat("reserved_bytes", "current"),
        "max_memory_cached": stat("reserved_bytes", "peak"),
        "memory_stats": memory_stats,
        "memory_stats_as_nested_dict": memory_stats_as_nested_dict,
        "memory_summary": memory_summary,
        "mem_get_info": mem_get_info,
        "empty_cache": empty_cache,
        "reset_peak_memory_stats": reset_peak_memory_stats,
        "reset_accumulated_memory_stats": reset_accumulated_memory_stats,
        "reset_max_memory_allocated": reset_peak_memory_stats,
        "reset_max_memory_cached": reset_peak_memory_stats,
        "set_per_process_memory_fraction": set_per_process_memory_fraction,
        "get_per_process_memory_fraction": get_per_process_memory_fraction,
    }
