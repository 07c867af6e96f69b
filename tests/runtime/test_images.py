"""Image files: what is read is what the file stores, and what cannot be read is named."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from posedge.errors import DataError, MissingExtraError, OutputError
from posedge.runtime.images import read_image, write_png


@pytest.fixture
def picture() -> np.ndarray:
    """A smooth colour gradient with a mark, so that order, mirroring and rotation show."""
    y, x = np.mgrid[0:48, 0:64]
    image = np.stack([x * 3, y * 4, (x + y) * 2], axis=-1).astype(np.uint8)
    image[5:9, 7:13] = (255, 0, 0)
    return image


def save(path: Path, image: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), image)
    return path


@pytest.fixture(params=["opencv", "pillow"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "pillow":
        monkeypatch.setitem(sys.modules, "cv2", None)  # makes `import cv2` raise ImportError
    return request.param


def test_png_is_read_exactly(decoder: str, tmp_path: Path, picture: np.ndarray) -> None:
    image = read_image(save(tmp_path / "a.png", picture))
    assert image.dtype == np.uint8
    assert np.array_equal(image, picture)


def test_jpeg_is_read_in_bgr(decoder: str, tmp_path: Path, picture: np.ndarray) -> None:
    image = read_image(str(save(tmp_path / "a.jpg", picture)))
    assert image.shape == picture.shape
    assert np.abs(image.astype(int) - picture).mean() < 4  # exchanged channels differ by 50


def test_grey_and_transparent_images_have_three_channels(
    decoder: str, tmp_path: Path, picture: np.ndarray
) -> None:
    grey = read_image(save(tmp_path / "grey.png", picture[..., 0]))
    assert np.array_equal(grey, np.repeat(picture[..., :1], 3, axis=2))
    alpha = np.dstack([picture, np.full(picture.shape[:2], 9, np.uint8)])
    assert np.array_equal(read_image(save(tmp_path / "alpha.png", alpha)), picture)


def test_exif_orientation_is_not_applied(decoder: str, tmp_path: Path, picture: np.ndarray) -> None:
    """COCO's annotations are for the stored pixels; orientation 6 would turn them by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    Image.fromarray(picture[..., ::-1].copy()).save(path, exif=exif, quality=95)
    assert read_image(path).shape == picture.shape


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("zero.jpg", b"", "empty"),
        ("text.jpg", b"not an image at all", "not an image"),
        ("noise.png", b"\x89PNG\r\n\x1a\n" + bytes(100) + b"IEND\xaeB`\x82", "not an image"),
    ],
)
def test_unusable_files_are_named(
    decoder: str, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_image(path)
    assert str(path) in str(error.value)


def test_missing_file_and_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such image"):
        read_image(tmp_path / "absent.jpg")
    with pytest.raises(DataError, match="directory"):
        read_image(tmp_path)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("kept", [0.3, 0.9, 0.99])
def test_cut_off_files_are_refused(
    decoder: str, tmp_path: Path, picture: np.ndarray, suffix: str, kept: float
) -> None:
    """A decoder would paint the rest grey and only warn."""
    noisy = picture ^ np.random.default_rng(0).integers(0, 64, picture.shape, np.uint8)
    path = save(tmp_path / f"cut.{suffix}", noisy)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(DataError, match="cut off"):
        read_image(path)


def test_sixteen_bits_are_not_clipped_by_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "deep.png", np.full((8, 8), 40000, np.uint16))
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(DataError, match="8 bits"):
        read_image(path)


def test_without_decoders_the_extra_is_named(
    tmp_path: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "a.png", picture)
    monkeypatch.setitem(sys.modules, "cv2", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtraError, match=r"posedge\[cpu\]"):
        read_image(path)


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 7, 3), (9, 1, 3), (48, 64, 3)])
def test_written_png_is_lossless(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    write_png(tmp_path / "a.png", image)
    assert np.array_equal(cv2.imread(str(tmp_path / "a.png")), image)
    with Image.open(tmp_path / "a.png") as other:
        other.verify()  # checks every checksum, which OpenCV may not


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
    ids=["two dimensions", "four channels", "floats", "no rows"],
)
def test_what_is_no_picture_is_not_written(tmp_path: Path, image: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"a\.png"):
        write_png(tmp_path / "a.png", image)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_place_is_an_output_error(tmp_path: Path, picture: np.ndarray) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OutputError, match=r"a\.png"):
        write_png(tmp_path / "a.png", picture)
