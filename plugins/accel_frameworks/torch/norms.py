"""SyncBatchNorm on a CPU: torch's own is CUDA code, so the same sums are made with collectives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from accel.resolving import Capabilities
from accel.values import Patch
from accel_frameworks.torch.patches import instead, patch
from accel_frameworks.torch.target import Target


def patches(target: Target, capabilities: Capabilities) -> Iterable[Patch]:
    """Only for the CPU: accelerators have it themselves, or their vendor's torch does."""
    if target.kind != "cpu":
        return
    yield patch("torch.nn:SyncBatchNorm.forward", _forward)
    yield patch(
        "torch.nn.parallel.distributed:DistributedDataParallel._passing_sync_batchnorm_handle",
        instead(_accepts),
    )


def _accepts(self: Any, module: Any) -> None:
    """DistributedDataParallel's check that SyncBatchNorm is on a GPU."""


def _forward(original: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: Any, input: Any) -> Any:  # noqa: A002 - torch's own name
        import torch
        import torch.distributed as dist

        if input.device.type != "cpu":
            return original(self, input)
        self._check_input_dim(input)
        self._check_non_zero_input_channels(input)
        training = self.training or (self.running_mean is None and self.running_var is None)
        group = self.process_group
        if not (training and dist.is_initialized() and dist.get_world_size(group) > 1):
            return torch.nn.modules.batchnorm._BatchNorm.forward(self, input)
        mean, variance, count = _statistics(input, group)
        if self.training and self.track_running_stats:
            _remember(self, mean.detach(), variance.detach(), count)
        shape = [1, -1, *[1] * (input.dim() - 2)]
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight.to(mean.dtype)
        out = (input.to(mean.dtype) - mean.view(shape)) * scale.view(shape)
        if self.bias is not None:
            out = out + self.bias.to(mean.dtype).view(shape)
        return out.to(input.dtype)

    return forward


def _statistics(values: Any, group: Any) -> tuple[Any, Any, Any]:
    """Mean, biased variance and count of each channel over all ranks; gradients go back to all."""
    import torch
    import torch.distributed as dist
    from torch.distributed.nn.functional import all_reduce

    over = [dim for dim in range(values.dim()) if dim != 1]
    full = values if values.dtype.itemsize > 2 else values.float()
    count = full.new_tensor([values.numel() // values.size(1)])
    sums = torch.cat([full.sum(over), count])
    sums = all_reduce(sums, group=group or dist.group.WORLD)
    mean = sums[:-1] / sums[-1]
    shape = [1, -1, *[1] * (values.dim() - 2)]
    # a second round, because E[x²] - E[x]² loses what float32 has to give
    squares = ((full - mean.view(shape)) ** 2).sum(over)
    variance = all_reduce(squares, group=group or dist.group.WORLD) / sums[-1]
    return mean, variance, sums[-1].detach()


def _remember(module: Any, mean: Any, variance: Any, count: Any) -> None:
    module.num_batches_tracked.add_(1)
    factor = module.momentum
    if factor is None:
        factor = 1.0 / float(module.num_batches_tracked)
    unbiased = variance * (count / (count - 1).clamp(min=1))
    module.running_mean.lerp_(mean.to(module.running_mean.dtype), factor)
    module.running_var.lerp_(unbiased.to(module.running_var.dtype), factor)
