"""Training: the loop, optimizers, checkpoints."""
