"""Reads folders of your own images: classes, labels, splits and masks."""
