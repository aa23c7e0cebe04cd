"""Errors for people: one or two lines that say what, where and what to do (DESIGN section 6)."""

import errno
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

USER_ERROR_EXIT = 2


class StageError(Exception):
    """A mistake or a limit outside the code: its text is all that the user needs to see."""


def describe_os_error(error: OSError) -> str:
    """One line for a failed file operation: the file, the cause and the remedy."""
    name = error.filename if error.filename is not None else "a file"
    if error.errno == errno.ENOSPC:
        return f"{name}: no space left on the device; free some and run again (nothing half-written is left)"
    if error.errno == errno.EDQUOT:
        return f"{name}: disk quota exceeded; free some and run again (nothing half-written is left)"
    return f"{name}: {error.strerror or error}"


def first_problem(error: "ValidationError") -> str:
    """What pydantic found first: the place in the data, if it is not all of it, and its words."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}"


def run_stage(main: Callable[[list[str]], None], arguments: list[str] | None = None) -> None:
    """Run a stage's `main(arguments)` and exit: 0 when its outputs are whole, 2 after a user's error.

    `--debug` among the arguments shows the traceback as well. A stage that DVC started dies with it:
    DVC killed outright leaves its stage running otherwise, beside the next one.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    script = Path(sys.argv[0]).name
    if "DVC_STAGE" in os.environ:
        from repro.processes import die_with_parent

        die_with_parent(os.getppid())
    try:
        main(arguments)
    except BrokenPipeError:  # whoever read our output has gone: nothing to tell, and nobody to tell it to
        os._exit(1)
    except (StageError, OSError) as error:
        if "--debug" in arguments:
            traceback.print_exc()
        text = str(error) if isinstance(error, StageError) else describe_os_error(error)
        print(f"{script}: {text}", file=sys.stderr, flush=True)
        sys.exit(USER_ERROR_EXIT)
    except KeyboardInterrupt:
        print(f"{script}: interrupted; the same command goes on from here", file=sys.stderr, flush=True)
        sys.exit(130)
