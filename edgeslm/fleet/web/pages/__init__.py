"""The pages, one module each; the first part of their addresses is its name."""
