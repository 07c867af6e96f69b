"""Image files in and out: uint8 arrays of height, width and BGR, as OpenCV has them."""

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, MissingExtraError, require
from ..files import write_bytes

_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_FILTER_UP = 2

_REPLACE = "Fetch it again or leave it out."


def read_image(path: Path | str) -> NDArray[np.uint8]:
    """Read an image file as uint8 (height, width, 3), BGR.

    The pixels are those that the file stores: an EXIF orientation is not applied, because COCO's
    annotations are for the images as stored. Grey images get three equal channels, transparency is dropped.
    OpenCV reads the file where it is installed, Pillow elsewhere.

    Raises DataError when the file is missing, empty, cut off or no image, and MissingExtraError when
    neither OpenCV nor Pillow is installed.
    """
    path = Path(path)
    data = _read_bytes(path)
    _check_whole(path, data)
    return _decode(path, data)


def read_image_bytes(path: Path | str) -> bytes:
    """The content of an image file that looks whole: a quick check before much work is done on it.

    JPEG and PNG files, which show by themselves where they end, are not decoded; others are. Raises as
    ``read_image`` does.
    """
    path = Path(path)
    data = _read_bytes(path)
    if not _check_whole(path, data):
        _decode(path, data)
    return data


def write_png(path: Path | str, image: NDArray[np.uint8]) -> None:
    """Write ``image``, uint8 (height, width, 3) BGR, as an 8-bit RGB PNG, whole or not at all.

    Needs the standard library only. Raises DataError for another shape or type, OutputError when the disk
    is full or the directory is not writable.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DataError(f"{path}: a picture is uint8 (height, width, 3), not {image.dtype} {image.shape}")
    height, width = image.shape[:2]
    rgb = image[:, :, ::-1].reshape(height, 3 * width)
    # "Up" stores each row as its difference from the one above (PNG specification, 9.2): half the size
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    rows[:, 0] = _PNG_FILTER_UP
    rows[0, 1:] = rgb[0]
    rows[1:, 1:] = rgb[1:] - rgb[:-1]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    write_bytes(Path(path), _PNG_START + b"".join(_chunk(kind, body) for kind, body in chunks))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except IsADirectoryError as error:
        raise DataError(f"{path}: this is a directory. Give an image file in it.") from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such image file. Check the path.") from error
    except OSError as error:
        raise DataError(
            f"{path}: the image cannot be read ({error.strerror}). Give a file you may read."
        ) from error
    if not data:
        raise DataError(f"{path}: the image file is empty (zero bytes). Fetch it again or leave it out.")
    return data


def _check_whole(path: Path, data: bytes) -> bool:
    """Raise DataError for a JPEG or PNG file that is cut off; False for other formats."""
    if data.startswith(_JPEG_START):
        # Decoders paint the missing part of a cut-off JPEG grey and only warn. Every scan must be followed
        # by the end marker; inside a scan both byte pairs are escaped, so this cannot misfire.
        if data.rfind(_JPEG_END) < data.rfind(_JPEG_SCAN):
            raise DataError(f"{path}: the JPEG file is cut off. Fetch it again.")
        return True
    if data.startswith(_PNG_START):
        if b"IEND" not in data[-64:]:
            raise DataError(f"{path}: the PNG file is cut off. Fetch it again.")
        return True
    return False


def _decode(path: Path, data: bytes) -> NDArray[np.uint8]:
    try:
        return _decode_opencv(path, data)
    except MissingExtraError:
        return _decode_pillow(path, data)


def _decode_opencv(path: Path, data: bytes) -> NDArray[np.uint8]:
    cv2 = require("cv2", "cpu")
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise DataError(f"{path}: OpenCV cannot decode the image ({error}). {_REPLACE}") from error
    if image is None:
        raise DataError(f"{path}: this is not an image that OpenCV can read, or it is damaged. {_REPLACE}")
    return np.asarray(image, np.uint8)


def _decode_pillow(path: Path, data: bytes) -> NDArray[np.uint8]:
    import io

    try:
        pillow = require("PIL.Image", "cpu")
    except MissingExtraError as error:
        raise MissingExtraError(
            f"{path}: reading image files needs OpenCV or Pillow, and neither can be imported. "
            "Install one with: pip install 'posedge[cpu]'"
        ) from error
    try:
        with pillow.open(io.BytesIO(data)) as picture:
            if picture.mode[0] in "IF":  # Pillow clips these to 255 instead of scaling them
                raise DataError(f"{path}: the image has more than 8 bits a channel. Save it with 8.")
            rgb = np.asarray(picture.convert("RGB"), np.uint8)
    except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
        raise DataError(f"{path}: this is not an image that Pillow can read ({error}). {_REPLACE}") from error
    return np.ascontiguousarray(rgb[:, :, ::-1])
