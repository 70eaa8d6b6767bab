"""Forward beside reverse KL on text: which modes a small student keeps, and what a model forgets that learns anew."""
