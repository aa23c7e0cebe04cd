"""Training loop, data order, gradient tree, optimizers and continuation."""
