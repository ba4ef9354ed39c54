"""Full fine-tuning of an encoder on the user's examples."""
