"""Overfitting: what weight decay, dropout, augmentation and early stopping do where a model is fitted to too few rows."""
