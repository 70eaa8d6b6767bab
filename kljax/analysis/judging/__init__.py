"""People as judges: a blinded page of completions, and what its answers say."""
