"""The fleet's page and its API: FastAPI, rendered here, with a little JavaScript of our own."""
