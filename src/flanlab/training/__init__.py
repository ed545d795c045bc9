"""Training: methods, losses, optimizers, the loop, checkpoints."""
