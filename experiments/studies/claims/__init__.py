"""The claims of the field, recomputed: a check gives rows, a row is what is stated beside what this code computes."""
