"""How a device gets its certificate, and keeps it good."""
