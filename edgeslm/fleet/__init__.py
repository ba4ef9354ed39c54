"""The manager's side: repository and keys, assignments, the server of metadata and blocks."""
