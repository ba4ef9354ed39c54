"""How the schema came to be what it is: a file in `versions` for each step, applied in order."""
