"""The same work in PyTorch, as well as PyTorch is known to do it: the peer of `speed`.

The networks are `pdae_jax.convert.torch_twin`'s. "float32" and "bfloat16" have channels_last (but
for training on a CPU without torch.compile, which crashes with it), TF32 where there is any, fused
Adam and torch.compile where it works (PDAE_JAX_BENCHMARK_EAGER=1 leaves it out); bfloat16 adds
autocast. "plain" is float32 with PyTorch's defaults, as the authors released it.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch

from pdae_jax import samplers
from pdae_jax.convert import torch_twin
from pdae_jax.networks.architecture import Architecture
from pdae_jax.schedule import SCHEDULES

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def versions() -> str:
    return f"torch {torch.__version__}"


def device() -> str:
    return torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"


def peak_bytes() -> int | None:
    """Most bytes of the device's memory in use so far; None on a CPU."""
    return torch.cuda.max_memory_allocated() if DEVICE.type == "cuda" else None


def synchronise() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def prepare(
    task: str, arch: Architecture, batch: int, precision: str, steps: int
) -> tuple[Callable[[int], None], float, str]:
    """Returns (run, compile seconds, settings).

    run(n) trains n steps, or decodes n batches in `steps` steps each.
    """
    torch.manual_seed(0)
    strong = precision != "plain"
    compiles = strong and not os.environ.get("PDAE_JAX_BENCHMARK_EAGER")
    if strong:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    kind: type[Work] = {"train": Training, "decode": Decoding}[task]
    work, began = None, 0.0
    if compiles:
        work = kind(arch, batch, precision, steps, torch.channels_last)
        began = time.perf_counter()
        try:
            work.compute = torch.compile(work.compute)
            work.run(1)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # torch.compile raises kinds of its own, and compilers' errors
            print(
                f"torch.compile does not work here: {str(error).splitlines()[0][:150]}",
                file=sys.stderr,
            )
            work = None  # whose memory the next one needs
    if work is None:
        # On a CPU the backward pass of a channels_last group norm crashes in eager mode (torch
        # 2.13).
        last = strong and (DEVICE.type != "cpu" or task == "decode")
        layout = torch.channels_last if last else torch.contiguous_format
        work, compiles = kind(arch, batch, precision, steps, layout), False
        began = time.perf_counter()
    work.run(1)
    settings = ["channels_last"] * (work.format == torch.channels_last)
    return (
        work.run,
        time.perf_counter() - began,
        ", ".join([*settings, "torch.compile" if compiles else "eager"]),
    )


Network = TypeVar("Network", bound=torch.nn.Module)


class Work:
    """Networks with nothing at zero and fixed inputs, in a memory format.

    A subclass gives `build`, all beside the UNet, `compute`, which torch.compile may replace, and
    `run`.
    """

    compute: Callable[..., torch.Tensor]

    def __init__(
        self,
        arch: Architecture,
        batch: int,
        precision: str,
        steps: int,
        format: torch.memory_format,
    ):
        self.arch, self.batch, self.precision = arch, batch, precision
        self.steps, self.format = steps, format
        self.schedule = SCHEDULES[arch.schedule](arch.T)
        self.unet = self.place(torch_twin.UNet(arch, with_z=True))
        height, width, channels = arch.image_shape
        self.shape = batch, channels, height, width
        self.build()

    def build(self) -> None:
        raise NotImplementedError

    def run(self, n: int) -> None:
        raise NotImplementedError

    def place(self, network: Network) -> Network:
        network = network.to(DEVICE)
        # torch's stubs lack the overload.
        return network.to(memory_format=self.format).eval()  # pyright: ignore[reportCallIssue]

    def precise(self) -> torch.autocast:
        return torch.autocast(DEVICE.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def noise(self) -> torch.Tensor:
        return torch.randn(self.shape, device=DEVICE).contiguous(memory_format=self.format)


class Training(Work):
    """Algorithm 1 with Adam and the average of the weights."""

    def build(self) -> None:
        self.encoder = self.place(torch_twin.Encoder(self.arch)).train()
        self.unet.requires_grad_(False)
        trained = [
            self.unet.label_emb,
            self.unet.shift_middle_block,
            self.unet.shift_output_blocks,
            self.unet.shift_out,
        ]
        for module in trained:  # dropout in what is trained, none in what is frozen
            module.train().requires_grad_(True)
        self.params: list[torch.Tensor] = [
            p for module in (self.encoder, *trained) for p in module.parameters()
        ]
        self.ema: list[torch.Tensor] = [p.detach().clone() for p in self.params]
        self.adam = torch.optim.Adam(self.params, 1e-4, fused=self.precision != "plain")
        images = torch.randint(0, 256, self.shape, dtype=torch.uint8, device=DEVICE)
        self.images = images.contiguous(memory_format=self.format)
        schedule = self.schedule
        self.tables = [
            torch.as_tensor(np.asarray(values, np.float32), device=DEVICE)
            for values in (
                np.sqrt(schedule.alpha_bar),
                np.sqrt(1 - schedule.alpha_bar),
                schedule.mean_shift * schedule.posterior_variance,
                schedule.loss_weight(),
            )
        ]

    def compute(self, images: torch.Tensor, t: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        a, b, k_t, lambda_t = (table[t][:, None, None, None] for table in self.tables)
        x_0 = images.float() / 127.5 - 1
        with self.precise():
            z = self.encoder(x_0)
            eps_theta, gradient = self.unet(a * x_0 + b * eps, t, z)
        return (lambda_t * (eps - (eps_theta.float() - k_t * gradient.float())) ** 2).mean()

    def run(self, n: int) -> None:
        loss = torch.tensor(torch.nan)
        for _ in range(n):
            t = torch.randint(0, self.arch.T, (self.batch,), device=DEVICE)
            loss = self.compute(self.images, t, self.noise())
            self.adam.zero_grad(set_to_none=True)
            loss.backward()
            self.adam.step()
            with torch.no_grad():
                torch._foreach_lerp_(self.ema, list(self.params), 1 - 0.9999)  # pyright: ignore[reportPrivateImportUsage]
        synchronise()
        if not bool(torch.isfinite(loss)):
            raise ValueError(f"the measured steps do not train: loss {float(loss)}")


class Decoding(Work):
    """Algorithm 3 from z."""

    def build(self) -> None:
        self.unet.requires_grad_(False)
        self.z = torch.randn(self.batch, self.arch.z_size, device=DEVICE)
        times = samplers.ddim_times(self.arch.T, self.steps)[::-1]
        self.t = (
            torch.as_tensor(times.copy(), device=DEVICE)[:, None]
            .expand(-1, self.batch)
            .contiguous()
        )
        alpha_bar = np.asarray(self.schedule.alpha_bar[times], np.float32)
        self.alpha_bar = torch.as_tensor(alpha_bar, device=DEVICE)

    def compute(
        self, x: torch.Tensor, t: torch.Tensor, a: torch.Tensor, a_next: torch.Tensor
    ) -> torch.Tensor:
        with self.precise():
            eps, gradient = self.unet(x, t, self.z)
        eps = eps.float() - (1 - a).sqrt() * gradient.float()
        x_0 = ((x - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1)
        eps = (x - a.sqrt() * x_0) / (1 - a).sqrt()
        return a_next.sqrt() * x_0 + (1 - a_next).sqrt() * eps

    @torch.inference_mode()
    def run(self, n: int) -> None:
        x = torch.tensor(torch.nan)
        for _ in range(n):
            x = self.noise()
            for t, a, a_next in zip(self.t, self.alpha_bar, self.alpha_bar[1:]):
                x = self.compute(x, t, a, a_next)
        synchronise()
        if not bool(torch.isfinite(x).all()):
            raise ValueError("the measured decoding gives no finite numbers")
