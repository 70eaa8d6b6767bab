"""What a command line says: whose configs it chooses, which jobs it makes, what they are called, and what is wrong with it."""
