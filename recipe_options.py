"""How INT8 is calibrated, as every command takes it that calibrates."""

import argparse
from typing import TYPE_CHECKING

from .calibration.targets import DEFAULT_TARGET, TARGETS

if TYPE_CHECKING:
    from .calibration.recipe import Recipe


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """The choices of ``recipe``."""
    group = parser.add_argument_group("calibration")
    group.add_argument(
        "--calibration-method",
        choices=("mse", "greedy", "percentile", "entropy", "minmax"),
        default="mse",
        help="how INT8 ranges are chosen (default: mse)",
    )
    group.add_argument(
        "--no-equalize",
        dest="equalize",
        action="store_false",
        help="leave the channels' sizes as they are; INT8 of many pose models collapses then",
    )
    group.add_argument(
        "--nearest-weights",
        dest="round_weights",
        action="store_false",
        help="round each weight to its nearest level, whatever that does to the output",
    )
    group.add_argument(
        "--learn",
        action="store_true",
        help="learn biases from the outputs of the float32 graph: minutes instead of seconds, no labels",
    )
    group.add_argument(
        "--target",
        choices=tuple(TARGETS),
        default=DEFAULT_TARGET,
        help=f"who will run the INT8 graph, which decides what is quantised (default: {DEFAULT_TARGET})",
    )


def recipe(options: argparse.Namespace) -> "Recipe":
    """What was typed for ``add_recipe_options``."""
    from .calibration.recipe import Recipe

    return Recipe(
        options.calibration_method,
        options.equalize,
        options.round_weights,
        target=options.target,
        learned=options.learn,
    )
