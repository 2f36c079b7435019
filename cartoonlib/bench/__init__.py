"""How fast all of it is, beside the original code and what the machine can do."""
