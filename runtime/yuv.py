"""How NV12 becomes colours: the standards by which cameras and video decoders write luma and chroma."""

from ..errors import DataError

# weight of red and of blue in luma
_STANDARDS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}
YUV_STANDARDS = tuple(f"{name}{suffix}" for name in _STANDARDS for suffix in ("", "-full"))


def check_yuv(standard: str) -> None:
    """Raise DataError unless a name is one of YUV_STANDARDS."""
    if standard not in YUV_STANDARDS:
        raise DataError(
            f"the colour standard of NV12 is {standard!r}; it must be one of {', '.join(YUV_STANDARDS)}."
        )


def yuv_factors(standard: str = "bt601") -> tuple[float, float, float, float, float, float]:
    """How NV12 becomes RGB: zero and gain of luma; red of V; green of U and of V; blue of U.

    standard: "bt601" or "bt709" (ITU-R), luma 16 to 235 as video has it, or with "-full" 0 to 255.
    "bt601" is what OpenCV's COLOR_YUV2BGR_NV12 assumes. Raises DataError for another name.
    """
    check_yuv(standard)
    name, _, full = standard.partition("-")
    red, blue = _STANDARDS[name]
    green = 1 - red - blue
    zero, gain, chroma = (0.0, 1.0, 1.0) if full else (16.0, 255 / 219, 255 / 224)
    from_v, from_u = 2 * (1 - red) * chroma, 2 * (1 - blue) * chroma
    return zero, gain, from_v, -from_u * blue / green, -from_v * red / green, from_u
