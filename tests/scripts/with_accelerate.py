"""A training loop on Accelerate, written for CUDA and nothing else.

    python with_accelerate.py
    torchrun --nproc_per_node 2 with_accelerate.py
"""

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader, TensorDataset
from transformers import LlamaConfig, LlamaForCausalLM, get_linear_schedule_with_warmup

if not torch.cuda.is_available():
    raise SystemExit("a CUDA device is required")


def main():
    set_seed(1)
    torch.cuda.manual_seed(1)
    accelerator = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=2)
    accelerator.print(f"{torch.cuda.get_device_name()}: {torch.cuda.device_count()} of them")

    tokens = torch.randint(0, 64, (64, 1)) + torch.arange(16)
    loader = DataLoader(TensorDataset(tokens % 64), batch_size=8, shuffle=True, pin_memory=True)
    config = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32)
    model = LlamaForCausalLM(config).to("cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = get_linear_schedule_with_warmup(optimizer, 2, 60)
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)

    weights = torch.ones(1, device="cuda")
    losses = []
    for _epoch in range(4):
        for (ids,) in loader:
            with accelerator.accumulate(model):
                ids = ids.to("cuda", non_blocking=True)
                with torch.autocast("cuda", dtype=torch.bfloat16):
                    loss = model(input_ids=ids, labels=ids).loss * weights.squeeze()
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            losses.append(accelerator.gather(loss.detach().reshape(1)).mean().item())
    torch.cuda.synchronize()
    accelerator.print(f"first {losses[0]:.6f} last {losses[-1]:.6f} "
                      f"peak {torch.cuda.max_memory_allocated() >> 20} MiB")
    assert losses[-1] < losses[0]
    accelerator.end_training()
    accelerator.print("done")


if __name__ == "__main__":
    main()
