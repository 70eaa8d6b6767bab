"""Policy gradients: arrays in, arrays out."""
