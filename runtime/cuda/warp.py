"""From an image on the device to the network's input: which kernel runs."""

from ...errors import DataError
from ..spec import ModelSpec
from ..yuv import yuv_factors
from .kernels import WARP_NORMALIZE, Launch, WarpArguments

_BLOCK = (32, 8, 1)  # columns and rows of the crop: a warp writes whole cache lines
_MOST_CROPS = 65535  # of a grid's third dimension


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
