"""The networks; the only users of flax.linen."""
