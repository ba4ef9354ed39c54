"""What the README's figures come from, each with its rival run beside it."""
