"""Fit a model of the zoo to drawn figures, or to any COCO-format keypoint set.

    python tools/train_demo.py -o rsn_18_drawn.pth --minutes 90
    python tools/train_demo.py --annotations train.json --images DIR --steps 2000 -o fitted.pth

Drawn pictures are made while it runs. On a CPU it computes in bfloat16 (autocast, channels last), which is
many times faster than float32. The checkpoint has the layout of the official files, float16, and is written
every few minutes; Ctrl-C keeps the state beside it, from which --resume goes on.
"""

import argparse
import math
import signal
import sys
import time
from pathlib import Path

import numpy as np
from trainer import Accuracy, Options, Trainer
from training_data import Batch, CropWorker, Source, check_batches

from posedge.errors import PosedgeError


def train(options: Options) -> Accuracy:
    """Run a training to its end; returns the accuracy on unseen figures, or on the set that was given."""
    trainer = Trainer(options)
    if options.resume:
        trainer.restore()
    worker = CropWorker(options.source, trainer.spec, options.batch, start=trainer.state.samples)
    try:
        checks = check_batches(options.source, trainer.spec, 16, options.check_batches)
        _run(trainer, worker, checks)
        return _save_and_check(trainer, worker, checks, options.norm_batches)
    except KeyboardInterrupt:
        trainer.save_state()
        _say(f"stopped at step {trainer.state.step}; the same command with --resume goes on")
        raise
    finally:
        worker.close()


def _run(trainer: Trainer, worker: CropWorker, checks: list[Batch]) -> None:
    options = trainer.options
    origin = time.monotonic() - trainer.state.seconds
    saved = checked = said = time.monotonic()
    losses: list[float] = []
    samples = trainer.state.samples
    while trainer.progress() < 1:
        losses.append(trainer.step(worker.batch()))
        now = time.monotonic()
        trainer.state.seconds = now - origin
        if now - said >= 20:
            rate = (trainer.state.samples - samples) / (now - said)
            _say(
                f"{100 * trainer.progress():5.1f} %  step {trainer.state.step}  loss {np.mean(losses):.4f}  "
                f"{rate:.1f} samples/s  {trainer.state.samples} samples  {worker.waiting()} batches ahead"
            )
            said, samples, losses = now, trainer.state.samples, []
        if now - checked >= options.check_minutes * 60:
            _save_and_check(trainer, worker, checks, 20)
            saved = checked = time.monotonic()
        elif now - saved >= options.save_minutes * 60:
            _save_and_check(trainer, worker, [], 12)
            saved = time.monotonic()
        trainer.state.seconds = time.monotonic() - origin


def _save_and_check(trainer: Trainer, worker: CropWorker, checks: list[Batch], norm_batches: int) -> Accuracy:
    trainer.settle_norms([worker.batch() for _ in range(norm_batches)])
    accuracy = trainer.accuracy(checks) if checks else None
    trainer.save(accuracy)
    if accuracy:
        _say(
            f"accuracy: error {accuracy.error:.2f} heatmap pixels, {100 * accuracy.within_2_pixels:.1f} % "
            f"within 2, similarity {accuracy.similarity:.3f}, recall {accuracy.recall:.3f}"
        )
    return accuracy or Accuracy(math.nan, math.nan, math.nan, math.nan)


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S ", time.gmtime()) + text, flush=True)


def _parse(arguments: list[str] | None) -> Options:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="rsn_18_256x192", help="a model of the zoo")
    parser.add_argument("--drawn", action="store_true", help="fit to drawn figures (the default)")
    parser.add_argument("--annotations", type=Path, help="COCO keypoint file to fit to instead")
    parser.add_argument("--images", type=Path, help="directory of its images")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--minutes", type=float, default=80.0, help="length of the schedule by the clock")
    parser.add_argument("--steps", type=int, help="length of the schedule in steps, instead of --minutes")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="torch's threads")
    parser.add_argument("--resume", action="store_true", help="go on from the state beside the output file")
    parser.add_argument("-o", "--output", type=Path, required=True, help="checkpoint file to write")
    given = parser.parse_args(arguments)
    if (given.annotations is None) != (given.images is None):
        parser.error("--annotations and --images come together")
    if given.drawn and given.annotations is not None:
        parser.error("--drawn and --annotations exclude each other")
    return Options(
        model=given.model,
        source=Source(given.seed, given.annotations, given.images),
        output=given.output,
        device=given.device,
        minutes=given.minutes,
        steps=given.steps,
        batch=given.batch,
        learning_rate=given.lr,
        threads=given.threads,
        resume=given.resume,
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: keep the state and go
    try:
        train(_parse(arguments))
    except PosedgeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
