"""What a model is to do with text: rows as prompts and targets, and how well it is done."""
