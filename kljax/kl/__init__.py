"""The mathematics of KL: arrays in, arrays out."""
