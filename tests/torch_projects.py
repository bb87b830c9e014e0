"""Networks of projects that PyPI lacks, in PyTorch under their own names, for tests.

Written from the papers and the projects' documented structure: guided-diffusion's (and improved
diffusion's) UNetModel with its flags, DDIM's Model and EDM's DhariwalUNet with its preconditioning.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


def embedding(t, dim, shift=0, sin_first=False):
    half = dim // 2
    angles = t.float()[:, None] * torch.exp(
        -math.log(10000) * torch.arange(half, dtype=torch.float32) / (half - shift)
    )
    halves = [angles.sin(), angles.cos()] if sin_first else [angles.cos(), angles.sin()]
    return torch.cat(halves, -1)


def attend(q, k, v):
    """Of [B, heads, c, n]."""
    weights = torch.softmax(torch.einsum("bhci,bhcj->bhij", q, k) / q.shape[2] ** 0.5, -1)
    return torch.einsum("bhij,bhcj->bhci", weights, v)


# guided-diffusion and improved-diffusion.


class GuidedRes(nn.Module):
    def __init__(self, n_in, n_out, emb, scale_shift, up=False, down=False):
        super().__init__()
        self.scale_shift, self.up, self.down = scale_shift, up, down
        norm = [nn.GroupNorm(32, n) for n in (n_in, n_out)]
        self.in_layers = nn.Sequential(norm[0], nn.SiLU(), nn.Conv2d(n_in, n_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, n_out * (1 + scale_shift)))
        self.out_layers = nn.Sequential(
            norm[1], nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(n_out, n_out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1)

    def resized(self, x):
        if self.up:
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2) if self.down else x

    def forward(self, x, emb):
        h = self.in_layers[2](self.resized(self.in_layers[:2](x)))
        e = self.emb_layers(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, 1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + e)
        return self.skip_connection(self.resized(x)) + h


class GuidedAttention(nn.Module):
    def __init__(self, channels, heads, new_order):
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x, emb):
        B, C, H, W = x.shape
        qkv, c = self.qkv(self.norm(x.reshape(B, C, -1))), C // self.heads
        if self.new_order:
            q, k, v = (part.reshape(B, self.heads, c, -1) for part in qkv.chunk(3, 1))
        else:
            q, k, v = qkv.reshape(B, self.heads, 3 * c, -1).split(c, 2)
        return x + self.proj_out(attend(q, k, v).reshape(B, C, -1)).reshape(x.shape)


class GuidedDown(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x, emb):
        return self.op(x)


class GuidedUp(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x, emb):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class GuidedConv(nn.Conv2d):
    def forward(self, x, emb):
        return super().forward(x)


class Sequence(nn.Sequential):
    def forward(self, x, emb):
        for layer in self:
            x = layer(x, emb)
        return x


class Guided(nn.Module):
    """UNetModel; improved: improved-diffusion's, whose first convolution has no multiplier."""

    def __init__(
        self,
        image_size=16,
        num_channels=32,
        num_res_blocks=1,
        channel_mult=(1, 2),
        attention_resolutions=(8,),
        num_heads=4,
        num_heads_upsample=-1,
        num_head_channels=-1,
        use_scale_shift_norm=True,
        resblock_updown=False,
        use_new_attention_order=False,
        learn_sigma=False,
        classes=0,
        improved=False,
        channels=3,
    ):
        super().__init__()
        self.base, emb = num_channels, 4 * num_channels
        self.time_embed = nn.Sequential(nn.Linear(self.base, emb), nn.SiLU(), nn.Linear(emb, emb))
        if classes:
            self.label_emb = nn.Embedding(classes, emb)

        def res(n_in, n_out, **how):
            return GuidedRes(n_in, n_out, emb, use_scale_shift_norm, **how)

        def attention(width, heads=num_heads):
            heads = width // num_head_channels if num_head_channels > 0 else heads
            return GuidedAttention(width, heads, use_new_attention_order)

        up_heads = num_heads if num_heads_upsample == -1 else num_heads_upsample
        width = num_channels if improved else int(channel_mult[0] * num_channels)
        self.input_blocks = nn.ModuleList([Sequence(GuidedConv(channels, width, 3, padding=1))])
        skips, size, last = [width], image_size, len(channel_mult) - 1
        for level, mult in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                layers = [res(width, int(mult * num_channels))]
                width = int(mult * num_channels)
                layers += [attention(width)] if size in attention_resolutions else []
                self.input_blocks.append(Sequence(*layers))
                skips.append(width)
            if level != last:
                down = res(width, width, down=True) if resblock_updown else GuidedDown(width)
                self.input_blocks.append(Sequence(down))
                skips.append(width)
                size //= 2
        self.middle_block = Sequence(res(width, width), attention(width), res(width, width))
        self.output_blocks = nn.ModuleList()
        for level, mult in list(enumerate(channel_mult))[::-1]:
            for k in range(num_res_blocks + 1):
                layers = [res(width + skips.pop(), int(mult * num_channels))]
                width = int(mult * num_channels)
                if size in attention_resolutions:
                    layers.append(attention(width, up_heads))
                if level and k == num_res_blocks:
                    layers.append(
                        res(width, width, up=True) if resblock_updown else GuidedUp(width)
                    )
                    size *= 2
                self.output_blocks.append(Sequence(*layers))
        out = channels * (1 + learn_sigma)
        self.out = nn.Sequential(
            nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, out, 3, padding=1)
        )

    def forward(self, x, t, y=None):
        emb = self.time_embed(embedding(t, self.base))
        emb = emb if y is None else emb + self.label_emb(y)
        h, skips = x, []
        for block in self.input_blocks:
            h = block(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], 1), emb)
        return self.out(h)


# DDIM and SDEdit.


class DDIMRes(nn.Module):
    def __init__(self, n_in, n_out, emb):
        super().__init__()
        self.norm1 = nn.GroupNorm(32, n_in, eps=1e-6)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.temb_proj = nn.Linear(emb, n_out)
        self.norm2 = nn.GroupNorm(32, n_out, eps=1e-6)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1)
        if n_in != n_out:
            self.nin_shortcut = nn.Conv2d(n_in, n_out, 1)

    def forward(self, x, emb):
        h = self.conv1(F.silu(self.norm1(x))) + self.temb_proj(F.silu(emb))[:, :, None, None]
        h = self.conv2(F.silu(self.norm2(h)))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + h


class DDIMAttention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        for name in ("q", "k", "v", "proj_out"):
            setattr(self, name, nn.Conv2d(channels, channels, 1))

    def forward(self, x):
        B, C, H, W = x.shape
        h = self.norm(x)
        q, k, v = (layer(h).reshape(B, 1, C, -1) for layer in (self.q, self.k, self.v))
        return x + self.proj_out(attend(q, k, v).reshape(x.shape))


class DDIMDown(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class DDIMUp(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class DDIM(nn.Module):
    """DDIM's Model: levels numbered from the finest, on the way up too."""

    def __init__(self, size=16, ch=32, mult=(1, 2, 2), blocks=2, attention=(8,), channels=3):
        super().__init__()
        self.ch, self.mult, self.blocks, emb = ch, mult, blocks, 4 * ch
        self.temb = nn.Module()
        self.temb.dense = nn.ModuleList([nn.Linear(ch, emb), nn.Linear(emb, emb)])
        self.conv_in = nn.Conv2d(channels, ch, 3, padding=1)
        self.down, self.up, width, skips = nn.ModuleList(), nn.ModuleList(), ch, [ch]
        sizes = [size >> level for level in range(len(mult))]
        for level, factor in enumerate(mult):
            part = nn.Module()
            part.block, part.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(blocks):
                part.block.append(DDIMRes(width, ch * factor, emb))
                width = ch * factor
                skips.append(width)
                if sizes[level] in attention:
                    part.attn.append(DDIMAttention(width))
            if level < len(mult) - 1:
                part.downsample = DDIMDown(width)
                skips.append(width)
            self.down.append(part)
        self.mid = nn.Module()
        self.mid.block_1, self.mid.block_2 = DDIMRes(width, width, emb), DDIMRes(width, width, emb)
        self.mid.attn_1 = DDIMAttention(width)
        for level, factor in list(enumerate(mult))[::-1]:
            part = nn.Module()
            part.block, part.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(blocks + 1):
                part.block.append(DDIMRes(width + skips.pop(), ch * factor, emb))
                width = ch * factor
                if sizes[level] in attention:
                    part.attn.append(DDIMAttention(width))
            if level:
                part.upsample = DDIMUp(width)
            self.up.insert(0, part)
        self.norm_out = nn.GroupNorm(32, width, eps=1e-6)
        self.conv_out = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x, t):
        emb = embedding(t, self.ch, 1, sin_first=True)
        emb = self.temb.dense[1](F.silu(self.temb.dense[0](emb)))
        hs = [self.conv_in(x)]
        for part in self.down:
            for k, block in enumerate(part.block):
                h = block(hs[-1], emb)
                hs.append(part.attn[k](h) if len(part.attn) else h)
            if hasattr(part, "downsample"):
                hs.append(part.downsample(hs[-1]))
        h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(hs[-1], emb)), emb)
        for part in list(self.up)[::-1]:
            for k, block in enumerate(part.block):
                h = block(torch.cat([h, hs.pop()], 1), emb)
                h = part.attn[k](h) if len(part.attn) else h
            h = part.upsample(h) if hasattr(part, "upsample") else h
        return self.conv_out(F.silu(self.norm_out(h)))


# EDM.


class EDMBlock(nn.Module):
    def __init__(self, n_in, n_out, emb, up=False, down=False, attention=False):
        super().__init__()
        self.up, self.down, self.heads = up, down, n_out // 64 if attention else 0
        self.norm0, self.norm1 = edm_norm(n_in), edm_norm(n_out)
        self.conv0 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.conv1 = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.affine = nn.Linear(emb, 2 * n_out)
        if n_in != n_out:
            self.skip = nn.Conv2d(n_in, n_out, 1)
        if attention:
            self.norm2 = edm_norm(n_out)
            self.qkv, self.proj = nn.Conv2d(n_out, 3 * n_out, 1), nn.Conv2d(n_out, n_out, 1)

    def resized(self, x):
        if self.up:
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2) if self.down else x

    def forward(self, x, emb):
        h = self.conv0(self.resized(F.silu(self.norm0(x))))
        scale, shift = self.affine(emb)[:, :, None, None].chunk(2, 1)
        h = self.conv1(F.silu(torch.addcmul(shift, self.norm1(h), scale + 1)))
        x = self.resized(x)
        x = h + (self.skip(x) if hasattr(self, "skip") else x)
        if self.heads:
            B, C, H, W = x.shape
            qkv = self.qkv(self.norm2(x)).reshape(B * self.heads, C // self.heads, 3, -1)
            q, k, v = (part.reshape(B, self.heads, C // self.heads, -1) for part in qkv.unbind(2))
            x = x + self.proj(attend(q, k, v).reshape(x.shape))
        return x


def edm_norm(channels):
    return nn.GroupNorm(min(32, channels // 4), channels, eps=1e-5)


class EDM(nn.Module):
    """DhariwalUNet within EDMPrecond: x_0 of y = x_0 + sigma noise. forward(y, sigma)."""

    def __init__(
        self, size=16, channels=3, base=64, mult=(1, 2), blocks=1, attention=(8,), classes=0
    ):
        super().__init__()
        self.base, emb = base, 4 * base
        self.map_layer0, self.map_layer1 = nn.Linear(base, emb), nn.Linear(emb, emb)
        if classes:
            self.map_label = nn.Linear(classes, emb, bias=False)
        self.enc, self.dec, width, skips = nn.ModuleDict(), nn.ModuleDict(), channels, []
        for level, factor in enumerate(mult):
            res = size >> level
            name = f"{res}x{res}"
            if level == 0:
                self.enc[f"{name}_conv"] = nn.Conv2d(width, base * factor, 3, padding=1)
                width = base * factor
            else:
                self.enc[f"{name}_down"] = EDMBlock(width, width, emb, down=True)
            skips.append(width)
            for k in range(blocks):
                self.enc[f"{name}_block{k}"] = EDMBlock(
                    width, base * factor, emb, attention=res in attention
                )
                width = base * factor
                skips.append(width)
        for level, factor in list(enumerate(mult))[::-1]:
            res = size >> level
            name = f"{res}x{res}"
            if level == len(mult) - 1:
                self.dec[f"{name}_in0"] = EDMBlock(width, width, emb, attention=True)
                self.dec[f"{name}_in1"] = EDMBlock(width, width, emb)
            else:
                self.dec[f"{name}_up"] = EDMBlock(width, width, emb, up=True)
            for k in range(blocks + 1):
                self.dec[f"{name}_block{k}"] = EDMBlock(
                    width + skips.pop(), base * factor, emb, attention=res in attention
                )
                width = base * factor
        self.out_norm = edm_norm(width)
        self.out_conv = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, y, sigma, label=None):
        sigma, data = sigma.to(y.dtype).reshape(-1, 1, 1, 1), 0.5
        total = (sigma**2 + data**2).sqrt()
        emb = embedding(sigma.flatten().log() / 4, self.base).to(y.dtype)
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        if label is not None:
            emb = emb + self.map_label(label)
        emb, x, skips = F.silu(emb), y / total, []
        for block in self.enc.values():
            x = block(x, emb) if isinstance(block, EDMBlock) else block(x)
            skips.append(x)
        for name, block in self.dec.items():
            if "_block" in name:
                x = torch.cat([x, skips.pop()], 1)
            x = block(x, emb)
        F_x = self.out_conv(F.silu(self.out_norm(x)))
        return data**2 / (sigma**2 + data**2) * y + sigma * data / total * F_x
