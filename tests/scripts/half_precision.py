"""Older ways with CUDA: legacy tensor types, a static loss scale by hand, TorchScript, DataParallel."""

import torch
import torch.nn as nn

if not torch.cuda.is_available():
    raise RuntimeError("CUDA is required")

torch.cuda.init()
torch.cuda.manual_seed(3)
torch.manual_seed(3)
cuda = torch.device("cuda:0")
FloatTensor = torch.cuda.FloatTensor


@torch.jit.script
def gelu(x):
    return x * 0.5 * (1.0 + torch.tanh(0.79788456 * (x + 0.044715 * x * x * x)))


class Swish(torch.autograd.Function):
    @staticmethod
    @torch.cuda.amp.custom_fwd
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    @torch.cuda.amp.custom_bwd
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        s = torch.sigmoid(x)
        return grad * (s + x * s * (1 - s))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(16, 32)
        self.b = nn.Linear(32, 1)

    def forward(self, x):
        return self.b(Swish.apply(gelu(self.a(x))))


with torch.cuda.device(0):
    model = nn.DataParallel(Model().cuda(), device_ids=[0])
x = FloatTensor(64, 16).normal_()
target = x.sum(1, keepdim=True).type(FloatTensor)
assert isinstance(x, torch.cuda.FloatTensor) and x.is_cuda and model.module.a.weight.is_cuda
masters = [p.detach().clone().float().cuda().requires_grad_() for p in model.parameters()]
optimizer = torch.optim.SGD(masters, lr=0.01)
scale = 128.0
losses = []
copy_stream = torch.cuda.Stream(device=cuda, priority=-1)
for step in range(20):
    model.zero_grad()
    with torch.cuda.amp.autocast(dtype=torch.bfloat16):
        out = model(x)
    loss = torch.nn.functional.mse_loss(out.float(), target)
    (loss * scale).backward()
    with torch.cuda.stream(copy_stream):
        for master, p in zip(masters, model.parameters()):
            master.grad = p.grad.float().div(scale)
    torch.cuda.current_stream().wait_stream(copy_stream)
    optimizer.step()
    with torch.no_grad():
        for master, p in zip(masters, model.parameters()):
            p.copy_(master)
    losses.append(loss.item())
states = torch.cuda.get_rng_state_all()
torch.cuda.set_rng_state_all(states)
host = torch.empty(64, 16, pin_memory=True)
host.copy_(x, non_blocking=True)
event = torch.cuda.Event()
event.record()
event.synchronize()
print(torch.cuda.memory_summary(abbreviated=True).splitlines()[0])
print(f"first {losses[0]:.6f} last {losses[-1]:.6f}")
assert losses[-1] < losses[0]
print("done")
