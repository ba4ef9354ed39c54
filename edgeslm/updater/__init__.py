"""The other daemon: owns slots, trust and downloads; decides what is tried, kept and taken back."""
