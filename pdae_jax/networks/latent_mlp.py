"""eps_omega(z_t, t), the latent diffusion model's network: an MLP that re-reads its input."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from pdae_jax.arrays import Array, Codes, Times
from pdae_jax.networks.architecture import Architecture
from pdae_jax.networks.layers import Dense, EmbeddingMLP


class LatentMLP(nn.Module):
    """z_t (normalised) and t's projection -> predicted noise, float32 (paper, Table 2).

    Each layer but the last: Linear, times 1 + its share of t, LayerNorm, SiLU; each but the first
    reads [h, z_t].
    """

    arch: Architecture
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        arch = self.arch
        n, width = arch.latent_layers, arch.latent_hidden
        self.time_embedding = EmbeddingMLP(arch.latent_time, arch.z_size, self.dtype)
        self.time_projection = Dense((n - 1) * width, dtype=self.dtype)
        self.layers = [Dense(width, dtype=self.dtype) for _ in range(n - 1)]
        self.norms = [nn.LayerNorm(epsilon=1e-5, dtype=self.dtype) for _ in range(n - 1)]
        self.out = Dense(arch.z_size, dtype=self.dtype)

    def time(self, t: Int[Array, " N"]) -> Float[Array, "N width"]:
        """Every layer's share of t in one matmul; width = (layers - 1) hidden."""
        return self.time_projection(nn.silu(self.time_embedding(t)))

    def output(self, z_t: Codes, projection: Float[Array, "#B width"]) -> Codes:
        h = z_t = z_t.astype(self.dtype)
        shares = jnp.split(projection, self.arch.latent_layers - 1, axis=-1)
        for k, (layer, norm, share) in enumerate(zip(self.layers, self.norms, shares)):
            h = layer(jnp.concatenate([h, z_t], axis=-1) if k else h)
            h = nn.silu(norm(h * (1 + share)))
        return self.out(jnp.concatenate([h, z_t], axis=-1)).astype(jnp.float32)

    def __call__(self, z_t: Codes, t: Times) -> Codes:
        return self.output(z_t, self.time(t))
