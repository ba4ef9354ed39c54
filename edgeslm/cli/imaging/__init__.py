"""What `edgeslm image` consists of: what is laid, out of which units, and how it gets there."""
