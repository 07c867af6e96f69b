"""`posedge demo`: the main job on drawn pictures and a network fitted to them, which the package carries."""

from pathlib import Path

from .deploy import Outcome, deploy
from .export.source import modules_needed
from .extras import DRAWING, MEASURING, require_all
from .files import directory_lock, remove_leftovers
from .options import DataPaths, DeployOptions
from .progress import SILENT, Progress

MODEL = "rsn_18_256x192"
CHECKPOINT = Path(__file__).parent / "benchmarks" / "drawn" / "rsn_18_drawn.pth"

# the network was fitted to drawings of other seeds (tools/training_data.py keeps to its own)
CALIBRATION_SEED = 1
MEASURED_SEED = 2
CALIBRATION_PICTURES = 48
MEASURED_PICTURES = 105
MEASURED_FIGURES = 200

DRAWN = (
    "These pictures are drawn, not photographed: the figures show that the job works and how its variants "
    "compare, not how good a network is on people."
)

NEXT = """
Next, with COCO (annotations/, val2017/, train2017/) and an official checkpoint:
  posedge deploy rsn_18_256x192 --checkpoint rsn18_coco_256x192-72f4b4a7_20201127.pth --coco DIR -o out
or with any top-down heatmap model:
  posedge deploy model.onnx --spec spec.json --images DIR --annotations val.json \\
      --calibration-annotations train.json -o out
"""


def demo(output: Path, progress: Progress = SILENT) -> Outcome:
    """Draw pictures into ``output``/pictures and deploy the carried RSN-18 on them.

    Raises OutputError at once when another run is writing there, MissingExtraError before any work when a
    package is missing, and the PosedgeError of the stage that failed.
    """
    require_all((*DRAWING, *MEASURING, *modules_needed(MODEL)))
    with directory_lock(output):
        return _draw_and_deploy(output, progress)


def _draw_and_deploy(output: Path, progress: Progress) -> Outcome:
    from .benchmarks.drawn.dataset import IMAGE_DIRECTORY, write_dataset

    progress.note(DRAWN)
    pictures = output / "pictures"
    for name in ("calibration", "measured"):
        for directory in (pictures / name, pictures / name / IMAGE_DIRECTORY):
            remove_leftovers(directory)
    calibration = write_dataset(pictures / "calibration", CALIBRATION_PICTURES, CALIBRATION_SEED, progress)
    measured = write_dataset(pictures / "measured", MEASURED_PICTURES, MEASURED_SEED, progress)
    options = DeployOptions(
        model=MODEL,
        output=output,
        data=DataPaths(measured.annotations, measured.images, calibration.annotations, calibration.images),
        checkpoint=CHECKPOINT,
        flip_test=False,
        limit=MEASURED_FIGURES,
        batch_sizes=(1, 8),
        notes=(DRAWN,),
    )
    return deploy(options, progress)
