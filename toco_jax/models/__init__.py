"""The network: encoder, heads and their assembly."""
