"""A completion's score: functions of token arrays that run in the compiled step, or Python functions of texts."""
