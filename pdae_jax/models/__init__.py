"""The networks; the only users of flax.linen."""
from pdae_jax.models.architecture import ADM_64, ADM_128, GROUP_FIELDS, Architecture
from pdae_jax.models.networks import DTYPES, Networks, Params, Prediction, Time

__all__ = ["ADM_64", "ADM_128", "DTYPES", "GROUP_FIELDS", "Architecture", "Networks", "Params",
           "Prediction", "Time"]
