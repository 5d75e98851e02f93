"""The poster's figures of a trained network: what its encoder makes of photos, block by block."""
