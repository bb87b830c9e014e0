"""The networks; the only users of flax.linen."""
from pdae_jax.models.architecture import GROUP_FIELDS, Architecture
from pdae_jax.models.networks import DTYPES, Networks, Params, Prediction, Time

__all__ = ["DTYPES", "GROUP_FIELDS", "Architecture", "Networks", "Params", "Prediction", "Time"]
