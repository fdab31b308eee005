"""What an HDR10 film says of the screen that it was graded on, and of how bright it gets."""

import struct

import av

# FFmpeg's AVMasteringDisplayMetadata: x and y of red, green, blue and white, the least and the greatest luminance, each
# as numerator and denominator; then whether there are primaries, and luminances.
_MASTERING = struct.Struct("20i2i")
_LIGHT = struct.Struct("2I")  # AVContentLightMetadata: of the brightest pixel, of the brightest frame's mean
_CHROMATICITY, _LUMINANCE = 50_000, 10_000  # steps of 0.00002, and of 0.0001 candela per square meter


def read_hdr(frame: av.VideoFrame) -> str:
    """HDR10's static metadata of a frame, in the words of x264's parameters; blank where there is none."""
    found = {data.type.name: bytes(data) for data in frame.side_data}
    words = []
    if mastering := found.get("MASTERING_DISPLAY_METADATA"):
        *numbers, has_primaries, has_luminance = _MASTERING.unpack_from(mastering)
        values = [
            _scaled(numbers[n], numbers[n + 1], _LUMINANCE if n >= 16 else _CHROMATICITY) for n in range(0, 20, 2)
        ]
        red, green, blue, white, (least, most) = (values[n : n + 2] for n in range(0, 10, 2))
        points = zip("GBR", (green, blue, red), strict=True)
        if has_primaries and has_luminance:
            text = "".join(f"{name}({x},{y})" for name, (x, y) in [*points, ("WP", white)])
            words.append(f"mastering-display={text}L({most},{least})")
    if light := found.get("CONTENT_LIGHT_LEVEL"):
        words.append("cll={},{}".format(*_LIGHT.unpack_from(light)))
    return ":".join(words)


def _scaled(numerator: int, denominator: int, steps: int) -> int:
    return round(numerator * steps / denominator) if denominator else 0
