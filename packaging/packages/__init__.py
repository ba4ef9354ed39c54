"""What a device installs: Debian packages, wheelhouses, and what is in them."""
