"""Uses of a model: arrays in, arrays out."""
