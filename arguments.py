"""Values of the command line: what argparse does not tell apart or check by itself."""

import re
from collections.abc import Sequence

_NUMBERS = re.compile(r"-[\d.][^=]*,")


def marked_numbers(arguments: Sequence[str]) -> list[str]:
    """The arguments, with a space before each list of numbers that begins with a negative one.

    argparse takes "-20,-20,100,100" for an option and an argument that begins with a space never. Readers of
    numbers skip the space.
    """
    return [f" {text}" if _NUMBERS.match(text) else text for text in arguments]
