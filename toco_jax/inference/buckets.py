"""The few padded shapes for images of any size, so that few programs are compiled."""

from collections.abc import Iterable

# Longer and shorter side of most photos in VOC, which suit a network trained at 448 pixels.
_LONG, _SHORT, _TRAINED_AT = 500, 375, 448
# Larger images are padded to multiples of this many patches.
_COARSE = 8

Size = tuple[int, int]


class Buckets:
    """The few shapes, in patches, to which images are padded.

    There are three frames for photos: landscape, portrait and square. An image that fits in none of
    them gets a frame of its own, with sides rounded up to multiples of `_COARSE` patches.

    Attributes:
        longest: longer side of the photo frames, in pixels.

    Args:
        crop_size: side of the training images in pixels.
        patch: side of a patch in pixels.
        scales: all scales that will be used.
    """

    def __init__(self, crop_size: int, patch: int, scales: Iterable[float]):
        long, short = (round(side * crop_size / _TRAINED_AT) for side in (_LONG, _SHORT))
        self.longest = max(long, patch)
        self._patch = patch
        self._frames = [(short, long), (long, short), (long, long)]
        shapes = set()
        for scale in sorted(set(scales)):
            lying, standing, square = (self.grid(frame, scale) for frame in self._frames)
            # Small inputs are cheap, so all share the square. Square photos are rare, so they share
            # the next larger square instead of having a shape at every scale.
            shapes |= {square} if scale < 1 else {lying, standing}
            shapes |= {square} if scale > 1 or scale == max(scales) else set()
        self._shapes = sorted(shapes, key=lambda shape: shape[0] * shape[1])

    def frame(self, size: Size) -> Size:
        """Returns the frame of an image, in pixels; images of one frame share a shape per scale."""
        for frame in self._frames:
            if size[0] <= frame[0] and size[1] <= frame[1]:
                return frame
        step = _COARSE * self._patch
        return -(-size[0] // step) * step, -(-size[1] // step) * step

    def grid(self, size: Size, scale: float) -> Size:
        """Returns the rows and columns of whole patches in a scaled image, at least 1 each."""
        height, width = (side // self._patch for side in self.scaled(size, scale))
        return height, width

    def scaled(self, size: Size, scale: float) -> Size:
        """Returns the size of the scaled image in pixels, rounded down, and at least one patch."""
        height, width = (max(int(scale * side), self._patch) for side in size)
        return height, width

    def shape(self, frame: Size, scale: float) -> Size:
        """Returns the shape, in patches, to which images of a frame are padded at a scale."""
        height, width = self.grid(frame, scale)
        if frame in self._frames:
            return next(s for s in self._shapes if height <= s[0] and width <= s[1])
        return -(-height // _COARSE) * _COARSE, -(-width // _COARSE) * _COARSE
