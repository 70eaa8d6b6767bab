"""The parts that models are made of: arrays in, arrays out."""
