"""What a folder of your own images holds."""
