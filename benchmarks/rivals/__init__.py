"""What a competent engineer would write without edgeslm; each script runs by itself."""
