"""A WGAN-GP and a recurrent critic in the style of 2018: legacy types, optimisers made early."""

import numpy as np
import torch
import torch.nn as nn
from torch.autograd import Variable
from torch.utils.data import DataLoader, TensorDataset

use_cuda = torch.cuda.is_available()
if not use_cuda:
    raise RuntimeError("this needs a GPU")
torch.manual_seed(0)
torch.cuda.manual_seed_all(0)
np.random.seed(0)
torch.backends.cudnn.benchmark = True
Tensor = torch.cuda.FloatTensor
LongTensor = torch.cuda.LongTensor
props = torch.cuda.get_device_properties(0)
print(f"{props.name}: {props.total_memory / 2 ** 30:.1f} GiB, {props.major}.{props.minor}")


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 8 * 4 * 4)
        self.net = nn.Sequential(
            nn.BatchNorm2d(8), nn.Upsample(scale_factor=2), nn.Conv2d(8, 8, 3, padding=1),
            nn.BatchNorm2d(8, 0.8), nn.LeakyReLU(0.2, inplace=True),
            nn.ConvTranspose2d(8, 1, 3, padding=1), nn.Tanh())

    def forward(self, z):
        return self.net(self.fc(z).view(-1, 8, 4, 4))


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(1, 8, 3, 2, 1)), nn.LeakyReLU(0.2))
        self.out = nn.Linear(8 * 4 * 4, 1)

    def forward(self, x):
        return self.out(self.conv(x).flatten(1))


def weights_init(m):
    if m.__class__.__name__.find("Conv") != -1:
        getattr(m, "weight_orig", m.weight).data.normal_(0.0, 0.1)


def gradient_penalty(critic, real, fake):
    alpha = Tensor(np.random.random((real.size(0), 1, 1, 1)))
    mixed = (alpha * real + (1 - alpha) * fake).requires_grad_(True)
    ones = Variable(Tensor(real.shape[0], 1).fill_(1.0), requires_grad=False)
    slope = torch.autograd.grad(critic(mixed), mixed, grad_outputs=ones, create_graph=True)[0]
    return ((slope.view(slope.size(0), -1).norm(2, dim=1) - 1) ** 2).mean()


generator, critic = Generator(), Critic()
generator.apply(weights_init)
optimizer_G = torch.optim.Adam(generator.parameters(), lr=2e-3, betas=(0.5, 0.999))
optimizer_D = torch.optim.RMSprop(critic.parameters(), lr=5e-3)
before = generator.fc.weight.detach().clone()
generator.cuda()
critic.cuda()
noise = torch.Generator(device="cuda").manual_seed(42)
images = torch.tanh(torch.randn(64, 1, 8, 8) + 1)
loader = DataLoader(TensorDataset(images), batch_size=16, pin_memory=True)
losses = []
for epoch in range(4):
    for (imgs,) in loader:
        real = Variable(imgs.type(Tensor))
        z = Tensor(imgs.size(0), 16).normal_(generator=noise)
        fake = generator(z)
        optimizer_D.zero_grad()
        d_loss = critic(fake.detach()).mean() - critic(real).mean()
        d_loss = d_loss + 10 * gradient_penalty(critic, real.data, fake.data)
        d_loss.backward()
        optimizer_D.step()
        optimizer_G.zero_grad()
        (-critic(fake).mean()).backward()
        optimizer_G.step()
        losses.append(d_loss.item())
assert not torch.equal(generator.fc.weight.detach().cpu(), before), "the optimizer lost the model"
print(f"critic first {losses[0]:.6f} last {losses[-1]:.6f}")
assert losses[-1] < losses[0]

half = fake.detach().type(torch.cuda.HalfTensor)
assert isinstance(half, torch.cuda.HalfTensor) and half.is_cuda
assert torch.equal(half.type("torch.cuda.FloatTensor").half(), half)
labels = LongTensor(np.random.randint(0, 10, 16))
one_hot = torch.cuda.FloatTensor(16, 10).zero_().scatter_(1, labels.view(-1, 1), 1)
assert one_hot.sum().item() == 16 and real.data.new(2).zero_().is_cuda

words, lengths = labels.view(4, 4), torch.tensor([4, 3, 2, 2])
embed, lstm = nn.Embedding(10, 8).cuda(), nn.LSTM(8, 16, batch_first=True).cuda(0)
head = nn.Linear(16, 10).cuda()
parameters = [p for module in (embed, lstm, head) for p in module.parameters()]
optimizer = torch.optim.Adam(parameters, lr=3e-2, amsgrad=True)
losses = []
for _ in range(12):
    packed = nn.utils.rnn.pack_padded_sequence(embed(words), lengths, batch_first=True).cuda()
    _, (hidden, _) = lstm(packed)
    loss = nn.functional.cross_entropy(head(hidden[-1]), words[:, 0])
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    losses.append(loss.item())
assert packed.is_cuda
print(f"words first {losses[0]:.6f} last {losses[-1]:.6f}")
assert losses[-1] < losses[0]
torch.set_default_tensor_type(torch.cuda.FloatTensor)
assert torch.zeros(3).is_cuda
torch.set_default_tensor_type(torch.FloatTensor)
torch.cuda.empty_cache()
print("done")
