"""What the kernels must know of each person: where the image is, and which part of it the crop shows.

One record a person, in device memory: it is all that changes from one image to the next, so that launches,
and a CUDA graph made of them, stay as they are.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import DataError
from ..preprocess import warp_matrix

# bytes of a pixel of each format that a device image may have; their order is that of kernels.cu
FORMATS = {"bgr": 3, "rgb": 3, "grey": 1, "nv12": 1}

# struct Crop of kernels.cu, field by field
CROP = np.dtype(
    [
        ("pixels", np.uint64),
        ("chroma", np.uint64),
        ("left", np.int64),
        ("top", np.int64),
        ("step_x", np.int64),
        ("step_y", np.int64),
        ("width", np.int32),
        ("height", np.int32),
        ("pitch", np.int32),
        ("chroma_pitch", np.int32),
        ("format", np.int32),
        ("centre", np.float32, 2),
        ("scale", np.float32, 2),
    ],
    align=True,
)

_FRACTION = float(2**32)
# kernels count pixels in 32 bits; this leaves room for roundings
_LARGEST_POSITION = float(2**30)


@dataclass(frozen=True)
class DeviceImage:
    """A uint8 image in device memory.

    address: of its first row; of "nv12" the luma plane's.
    width, height: in pixels.
    pitch: bytes from one row to the next, at least those of a row.
    format: "bgr" or "rgb" (three bytes a pixel), "grey" (one), or "nv12": a plane of luma and a plane of U, V
        pairs, each for 2 x 2 pixels, as cameras and video decoders give it.
    chroma, chroma_pitch: address and pitch of the second plane of "nv12".

    Raises DataError for an unknown format, an empty image or a pitch that is too small.
    """

    address: int
    width: int
    height: int
    pitch: int
    format: str = "bgr"
    chroma: int = 0
    chroma_pitch: int = 0

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise DataError(f"the image's format is {self.format!r}; it must be one of {', '.join(FORMATS)}.")
        if self.width < 1 or self.height < 1:
            raise DataError(f"the image is empty: {self.width}x{self.height} pixels.")
        _check_pitch("pitch", self.pitch, self.width * FORMATS[self.format])
        if self.format == "nv12":
            if not self.chroma:
                raise DataError(
                    "an nv12 image has two planes; the address of the second (chroma) is missing."
                )
            _check_pitch("chroma_pitch", self.chroma_pitch, (self.width + 1) // 2 * 2)


def crop_records(
    image: DeviceImage, centre: NDArray[np.float32], scale: NDArray[np.float32], input_wh: tuple[int, int]
) -> NDArray[np.void]:
    """The records (N,) of type CROP for crops of this centre and scale (N, 2) in image pixels.

    input_wh: width and height of the network's input. Positions come from warp_matrix in float64 and are
    kept as 32.32 fixed point, which is exact to 2^-32 pixel. A rectangle that is no rectangle (NaN, no
    area, too far away) gets a crop that is all border.
    """
    records = np.zeros(len(centre), CROP)
    records["centre"], records["scale"] = centre, scale
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        matrix = warp_matrix(centre, scale, input_wh)
        step = 1 / matrix[:, [0, 1], [0, 1]]
        first = -matrix[:, :, 2] * step
        last = np.abs(first) + np.abs(step) * np.asarray(input_wh)
        good = np.all(last < _LARGEST_POSITION, axis=1) & np.all(step > 0, axis=1)
    # rows that are not good keep width and height 0, which reads nothing
    for fields, values in ((("left", "top"), first), (("step_x", "step_y"), step)):
        for axis, field in enumerate(fields):
            records[field][good] = np.rint(values[good, axis] * _FRACTION).astype(np.int64)
    records["pixels"], records["chroma"] = image.address, image.chroma
    records["pitch"], records["chroma_pitch"] = image.pitch, image.chroma_pitch
    records["format"] = list(FORMATS).index(image.format)
    records["width"][good], records["height"][good] = image.width, image.height
    return records


def _check_pitch(name: str, pitch: int, row: int) -> None:
    if not row <= pitch < 2**31:
        raise DataError(
            f"the image's {name} is {pitch} bytes; a row has {row} bytes, and pitches are below 2 GiB."
        )
