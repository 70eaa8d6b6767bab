"""Estimators and penalties over random trees: how far each value and each gradient is from the truth."""
