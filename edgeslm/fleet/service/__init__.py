"""The fleet's service: what devices say goes into the database, roll-outs come out of it."""
