"""How fast a step is: measured, beside what this machine could do and beside other libraries."""
