"""The original networks in PyTorch, under the original files' names: the reference of `verify`.

Written from the same description as the Flax networks but sharing no code that computes with
them; a state dict of an original file loads into it strictly. Other projects' blocks are here under
guided-diffusion's names. Images are NCHW.
"""

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pdae_jax.networks.architecture import Architecture


def norm(channels: int, arch: Architecture | None = None) -> nn.GroupNorm:
    if arch is None:
        return nn.GroupNorm(math.gcd(32, channels), channels)
    groups = max(1, min(arch.norm_groups, channels // arch.group_channels))
    return nn.GroupNorm(math.gcd(groups, channels), channels, eps=arch.norm_eps)


def timestep_embedding(
    t: torch.Tensor, dim: int, shift: float = 0.0, order: str = "cos_sin"
) -> torch.Tensor:
    half = dim // 2
    angles = t[:, None].float() * torch.exp(
        -math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / (half - shift)
    )
    halves = [angles.cos(), angles.sin()]
    return torch.cat(halves if order == "cos_sin" else halves[::-1], -1)


class ResBlock(nn.Module):
    """A residual block under the embedding of t and, where there is one, that of z."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        arch: Architecture,
        resample: str = "",
        with_z: bool = False,
        divisor: float = 1.0,
    ):
        super().__init__()
        self.resample, self.divisor, emb = resample, divisor, arch.embedding
        self.added = arch.condition == "shift"
        self.in_layers = nn.Sequential(
            norm(n_in, arch), nn.SiLU(), nn.Conv2d(n_in, n_out, 3, padding=1)
        )
        parts = 1 if self.added else 2
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, parts * n_out))
        if with_z:
            self.emb_z_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * n_out))
        self.out_layers = nn.Sequential(
            norm(n_out, arch),
            nn.SiLU(),
            nn.Dropout(arch.dropout),
            nn.Conv2d(n_out, n_out, 3, padding=1),
        )
        self.skip_connection = nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1)

    def resampled(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.resample == "up" else x

    def forward(self, x: Tensor, emb: Tensor, emb_z: Tensor | None = None) -> Tensor:
        h = self.in_layers[2](self.resampled(self.in_layers[:2](x)))
        layers = [self.emb_layers(emb)] + ([] if emb_z is None else [self.emb_z_layers(emb_z)])
        if self.added:
            h = h + layers.pop(0)[:, :, None, None]
        h = self.out_layers[0](h)
        for condition in layers:
            scale, shift = condition[:, :, None, None].chunk(2, 1)
            h = h * (1 + scale) + shift
        return (self.skip_connection(self.resampled(x)) + self.out_layers[1:](h)) / self.divisor


class Attention(nn.Module):
    """Self-attention over all places of a map, with a residual."""

    def __init__(
        self,
        channels: int,
        heads: int,
        order: str = "legacy",
        arch: Architecture | None = None,
        bare: bool = False,
        divisor: float = 1.0,
    ):
        super().__init__()
        self.heads, self.order, self.divisor = heads, order, divisor
        if not bare:
            self.norm = norm(channels, arch)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, *conditions: Tensor) -> Tensor:
        B, C, H, W = x.shape
        h = self.norm(x) if hasattr(self, "norm") else x
        h = self.qkv(h.reshape(B, C, H * W))
        width = C // self.heads
        if self.order == "legacy":
            q, k, v = h.reshape(B, self.heads, 3, width, H * W).unbind(2)
        else:
            q, k, v = h.reshape(B, 3, self.heads, width, H * W).unbind(1)
        h = F.scaled_dot_product_attention(*(part.transpose(-1, -2) for part in (q, k, v)))
        h = h.transpose(-1, -2).reshape(B, C, H * W)
        return (x + self.proj_out(h).reshape(B, C, H, W)) / self.divisor


class Smaller(nn.Module):
    """Down-sampling by a convolution, padded on all sides or right and below only."""

    def __init__(self, channels: int, how: str):
        super().__init__()
        self.pads = (0, 1, 0, 1) if how == "conv_right" else (1, 1, 1, 1)
        self.op = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor, *conditions: Tensor) -> Tensor:
        return self.op(F.pad(x, self.pads))


class Larger(nn.Module):
    """Up-sampling: every pixel twice along both axes, and a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, *conditions: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Same(nn.Module):
    def forward(self, x: Tensor, *conditions: Tensor) -> Tensor:
        return x


class Blocks(nn.ModuleList):
    """Layers in a row, all but the first convolution's under the same conditions."""

    def forward(self, h: Tensor, *conditions: Tensor) -> Tensor:
        for layer in self:
            h = layer(h) if isinstance(layer, nn.Conv2d) else layer(h, *conditions)
        return h


def way_up(
    arch: Architecture, n_out: int, with_z: bool
) -> tuple[Blocks, nn.ModuleList, nn.Sequential]:
    """The middle, the blocks of the way up and the head: eps_theta's, or G's."""
    width, divisor = arch.width(-1), arch.middle_scale
    between: nn.Module = Same()
    if arch.middle != "plain":
        heads, bare = arch.heads_of(width), arch.middle == "bare_attention"
        between = Attention(width, heads, arch.qkv_order, arch, bare, divisor)
    middle = Blocks(
        [
            ResBlock(width, width, arch, "", with_z, divisor),
            between,
            ResBlock(width, width, arch, "", with_z, divisor),
        ]
    )
    ups = nn.ModuleList()
    for block in arch.up_path():
        layers = Blocks([ResBlock(width + block.skip, block.channels, arch, "", with_z)])
        width = block.channels
        if block.attention:
            layers.append(Attention(width, arch.heads_of(width, True), arch.qkv_order, arch))
        if block.resample == "residual":
            layers.append(ResBlock(width, width, arch, "up", with_z))
        elif block.resample:
            layers.append(Larger(width))
        ups.append(layers)
    out = nn.Sequential(norm(width, arch), nn.SiLU(), nn.Conv2d(width, n_out, 3, padding=1))
    return middle, ups, out


class UNet(nn.Module):
    """eps_theta and, `with_z`, G beside it: the original decoder file's network.

    forward(x, t, z) -> eps (eps and v on 2 C channels where the variance is learned), and G.
    """

    def __init__(self, arch: Architecture, with_z: bool):
        super().__init__()
        self.arch, emb, channels = arch, arch.embedding, arch.image_shape[2]
        self.time_embed = nn.Sequential(nn.Linear(arch.base, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.input_blocks = nn.ModuleList()
        width = channels
        for block in arch.down_path():
            if block.kind == "conv":
                layers = Blocks([nn.Conv2d(width, block.channels, 3, padding=1)])
            elif block.conditioned:
                resample = "down" if block.kind == "down" else ""
                layers = Blocks([ResBlock(width, block.channels, arch, resample)])
            else:
                layers = Blocks([Smaller(width, block.resample)])
            if block.attention:
                heads = arch.heads_of(block.channels)
                layers.append(Attention(block.channels, heads, arch.qkv_order, arch))
            self.input_blocks.append(layers)
            width = block.channels
        ups = way_up(arch, arch.out_channels, False)
        self.middle_block, self.output_blocks, self.out = ups
        if with_z:
            self.label_emb = nn.Linear(arch.z_size, emb)
            ups = way_up(arch.estimator, channels, True)
            self.shift_middle_block, self.shift_output_blocks, self.shift_out = ups

    def forward(
        self, x: Tensor, t: Tensor, z: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        arch = self.arch
        emb = self.time_embed(
            timestep_embedding(t, arch.base, arch.frequency_shift, arch.frequencies)
        )
        h, skips = x, []
        for block in self.input_blocks:
            h = block(h, emb)
            skips.append(h)

        def up(
            middle: nn.Module, blocks: Iterable[nn.Module], out: nn.Module, *conditions: Tensor
        ) -> Tensor:
            g = middle(h, *conditions)
            for block, skip in zip(blocks, reversed(skips)):
                g = block(torch.cat([g, skip], 1), *conditions)
            return out(g)

        eps = up(self.middle_block, self.output_blocks, self.out, emb)
        if z is None:
            return eps, None
        return eps, up(
            self.shift_middle_block,
            self.shift_output_blocks,
            self.shift_out,
            emb,
            self.label_emb(z),
        )


class Encoder(nn.Module):
    """x_0 [B, C, H, W] -> z [B, d]."""

    def __init__(self, arch: Architecture):
        super().__init__()
        height, width, n = arch.image_shape
        layers: list[nn.Module] = []
        for channels in arch.encoder_widths:
            layers.append(nn.Conv2d(n, channels, 3, stride=2, padding=1))
            height, width, n = -(-height // 2), -(-width // 2), channels
            if 8 < min(height, width) <= 16:
                layers.append(Attention(channels, arch.encoder_heads))
            layers += [norm(channels), nn.SiLU()]
        layers += [nn.Flatten(), nn.Linear(n * height * width, arch.z_size)]
        self.encoder = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)


class LatentLayer(nn.Module):
    """A linear layer and, where cond > 0, a norm and an activation under t's embedding."""

    def __init__(self, n_in: int, n_out: int, cond: int):
        super().__init__()
        self.linear = nn.Linear(n_in, n_out)
        if cond:
            self.linear_emb = nn.Linear(cond, n_out)
            self.cond_layers = nn.Sequential(nn.SiLU(), self.linear_emb)  # one tensor, two names
            self.norm = nn.LayerNorm(n_out)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        if not hasattr(self, "norm"):
            return self.linear(x)
        return F.silu(self.norm(self.linear(x) * (1 + self.cond_layers(cond))))


class LatentMLP(nn.Module):
    """eps_omega(z_t, t)."""

    def __init__(self, arch: Architecture):
        super().__init__()
        d, hidden, n = arch.z_size, arch.latent_hidden, arch.latent_layers
        self.time = arch.latent_time
        self.time_embed = nn.Sequential(nn.Linear(self.time, d), nn.SiLU(), nn.Linear(d, d))
        self.layers = nn.ModuleList(
            LatentLayer(
                d if k == 0 else hidden + d, d if k == n - 1 else hidden, 0 if k == n - 1 else d
            )
            for k in range(n)
        )

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        cond = self.time_embed(timestep_embedding(t, self.time))
        h = z
        for k, layer in enumerate(self.layers):
            h = layer(torch.cat([h, z], 1) if k else h, cond)
        return h


NETWORKS: dict[str, Callable[[Architecture], nn.Module]] = {
    "unet": lambda arch: UNet(arch, False),
    "decoder": lambda arch: UNet(arch, True),
    "encoder": Encoder,
    "latent": LatentMLP,
}


def load(name: str, arch: Architecture, state_dict: Mapping[str, np.ndarray]) -> nn.Module:
    """Loads network `name` with a state dict of NumPy arrays, strictly, in evaluation mode."""
    network = NETWORKS[name](arch)
    network.load_state_dict(
        {key: torch.from_numpy(np.array(value, np.float32)) for key, value in state_dict.items()},
        strict=True,
    )
    return network.eval()
