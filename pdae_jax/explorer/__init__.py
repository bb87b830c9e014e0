"""A page of this machine on which a model is explored: what each number of z means."""
