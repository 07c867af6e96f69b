"""From an image on the device to the network's input: which kernel runs, and how NV12 becomes colours."""

from ...errors import DataError
from ..spec import ModelSpec
from .kernels import WARP_NORMALIZE, Launch, WarpArguments

_BLOCK = (32, 8, 1)  # columns and rows of the crop: a warp writes whole cache lines
_MOST_CROPS = 65535  # of a grid's third dimension

# weight of red and of blue in luma
_STANDARDS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}
YUV_STANDARDS = tuple(f"{name}{suffix}" for name in _STANDARDS for suffix in ("", "-full"))


def yuv_factors(standard: str = "bt601") -> tuple[float, float, float, float, float, float]:
    """How NV12 becomes RGB: zero and gain of luma; red of V; green of U and of V; blue of U.

    standard: "bt601" or "bt709" (ITU-R), luma 16 to 235 as video has it, or with "-full" 0 to 255.
    "bt601" is what OpenCV's COLOR_YUV2BGR_NV12 assumes. Raises DataError for another name.
    """
    if standard not in YUV_STANDARDS:
        raise DataError(
            f"the colour standard of NV12 is {standard!r}; it must be one of {', '.join(YUV_STANDARDS)}."
        )
    name, _, full = standard.partition("-")
    red, blue = _STANDARDS[name]
    green = 1 - red - blue
    zero, gain, chroma = (0.0, 1.0, 1.0) if full else (16.0, 255 / 219, 255 / 224)
    from_v, from_u = 2 * (1 - red) * chroma, 2 * (1 - blue) * chroma
    return zero, gain, from_v, -from_u * blue / green, -from_v * red / green, from_u


def warp_launch(
    spec: ModelSpec,
    count: int,
    crops: int,
    batch: int,
    mirrored: int = 0,
    *,
    half: bool = False,
    whole_levels: bool = True,
    yuv: str = "bt601",
) -> list[Launch]:
    """The launch that fills the network's input with ``count`` crops; none for 0.

    crops: address of ``count`` records of CROP. batch: address of the result (count, 3, H, W), float16 where
    ``half``, else float32. mirrored: where the mirrored crops of the flip test go, 0 for nowhere.
    whole_levels: make the bytes that OpenCV 5 makes on the CPU, which the model was calibrated and measured
        with, rounding to whole grey levels; else the crop is exactly bilinear.
    yuv: the colour standard of NV12 images. Raises DataError for too many crops or an unknown standard.
    """
    if count == 0:
        return []
    if count > _MOST_CROPS:
        raise DataError(
            f"{count} crops are more than one batch can hold ({_MOST_CROPS}). Use smaller batches."
        )
    width, height = spec.input_wh
    arguments = WarpArguments(
        crops=crops,
        batch=batch,
        mirrored=mirrored,
        count=count,
        height=height,
        width=width,
        half=half,
        bgr=spec.colour_order == "bgr",
        whole_levels=whole_levels,
        mean=spec.mean,
        std=spec.std,
        yuv=yuv_factors(yuv),
    )
    across, down, _ = _BLOCK
    grid = (-(-width // across), -(-height // down), count)
    return [Launch(WARP_NORMALIZE, grid, _BLOCK, arguments)]
