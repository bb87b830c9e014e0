"""What one does with a model: arrays in, arrays out. No config and no files here."""
