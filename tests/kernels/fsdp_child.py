"""One of two ranks: LoRA on a quantised model under FSDP2, against the same model in one piece.

python fsdp_child.py FOLDER RENDEZVOUS RANK
"""

from __future__ import annotations

import sys
from typing import Any

import torch

import accel
import tiny_models

accel.auto("cpu")
torch.set_num_threads(1)

RANKS = 2


def adapted(folder: str) -> Any:
    """The model with adapters that do something from the first step on."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.float32)
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(model, config)


def batch(rank: int) -> torch.Tensor:
    made = torch.Generator().manual_seed(rank)
    return torch.randint(3, tiny_models.VOCABULARY, (2, 12), generator=made)


def loss_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    loss: torch.Tensor = model(input_ids=ids, labels=ids, use_cache=False).loss
    return loss


def main(folder: str, rendezvous: str, rank: int) -> None:
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group(
        "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=RANKS
    )
    whole, sharded = adapted(folder), adapted(folder)
    mesh = init_device_mesh("cpu", (RANKS,))
    for layer in sharded.base_model.model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)

    expected = [loss_of(whole, batch(number)) for number in range(RANKS)]
    torch.stack(expected).mean().backward()
    loss = loss_of(sharded, batch(rank))
    assert torch.allclose(loss, expected[rank], atol=1e-5), (loss, expected)
    loss.backward()
    right = {name: p.grad for name, p in whole.named_parameters() if p.grad is not None}
    assert len(right) == 2 * 7 * tiny_models.LAYERS
    for name, parameter in sharded.named_parameters():
        if name in right:
            found = parameter.grad.full_tensor()
            assert tiny_models.relative(found, right[name]) < 1e-4, name
    optimizer = torch.optim.SGD([p for p in sharded.parameters() if p.requires_grad], lr=0.1)
    optimizer.step()
    after = loss_of(sharded, batch(rank)).detach()
    distributed.all_reduce(after)
    assert after.item() / RANKS < torch.stack(expected).mean().item()
    distributed.destroy_process_group()
    print(f"rank {rank} agrees")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
