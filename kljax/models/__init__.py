"""Language models and what is asked of them: scoring and sampling. Nothing here knows of RL."""
