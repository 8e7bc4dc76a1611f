"""What every command shares: its parser, its errors and exit codes, and the frameworks by name."""

import argparse
import contextlib
import importlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import FrameType, ModuleType
from typing import Any, NoReturn, TextIO

BACKENDS = {"torch": "torch_ref", "flax": "flax_impl"}
_NEEDS = {"torch": ("torch", ("torch",)), "flax": ("jax", ("jax", "flax", "optax", "chex"))}  # the extra, its modules

_AGAIN = 0.05  # seconds after which a Ctrl-C that fell into a callback is raised again


class _Print(argparse.Action):
    """Prints a text as it is, and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        print(self.const)
        parser.exit()


class Parser(argparse.ArgumentParser):
    """A parser with a short usage, whose error is one line.

    Args:
        command: the name after `twohead`.
        description: what the command does.
        required: the arguments without a default.
        short: what `--help` prints, where the list of all options fits no screen: that is `--help-all`.
    """

    def __init__(self, command: str, description: str | None, required: str = "", short: str = "") -> None:
        name = f"twohead {command}"
        super().__init__(prog=name, description=description, usage=f"{name} {required}[OPTIONS]", add_help=not short)
        if short:
            self.add_argument("-h", "--help", action=_Print, const=short, nargs=0, help="show the most used options")
            self.add_argument("--help-all", action="help", help="show all options")

    def error(self, message: str) -> NoReturn:
        """Prints the message in one line, and exits with 2."""
        self.exit(2, f"error: {_line(message)}; {self.prog} --help lists the options\n")


def run_command(command: Callable[[], int], at_once: bool = False) -> int:
    """Returns the exit code: the command's own, 1 where a training diverged, 130 for Ctrl-C, 2 for other errors.

    Args:
        command: what to run; its error is printed as one line.
        at_once: ends this process where the command fails: others that share the training would wait for it.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    with warnings.catch_warnings(), _ctrl_c() as pressed:
        warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr, flush=True)
        try:
            try:
                return command()
            finally:
                _flush()
        except (KeyboardInterrupt, Exception) as error:
            if pressed() or isinstance(error, KeyboardInterrupt):
                code, message = 130, "interrupted"
            elif isinstance(error, FloatingPointError):
                code, message = 1, f"error: {error}"
            elif isinstance(error, (ValueError, OSError, ImportError, MemoryError, RuntimeError)):
                code, message = 2, f"error: {error or type(error).__name__}"
            else:
                raise
    try:
        print(_line(message), file=sys.stderr, flush=True)
    except OSError:  # where nobody can hear it, the exit code is left
        _drop(sys.stderr)
    if at_once:
        with contextlib.suppress(OSError):
            _flush()
        os._exit(code)
    return code


def _flush() -> None:
    """Writes what was printed, while an error in it can still be told in one line.

    Raises:
        OSError: it cannot be written.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        _drop(sys.stdout)
        raise


def _drop(stream: TextIO | Any) -> None:
    """Lets a stream that cannot be written lead nowhere, or Python's own end would stumble over it."""
    with contextlib.suppress(OSError):  # no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def _ctrl_c() -> Iterator[Callable[[], bool]]:
    """Lets Ctrl-C end a command wherever it falls, and yields a function that says whether it was pressed.

    Libraries turn the KeyboardInterrupt into errors of their own, and Python drops one that falls into a callback, such
    as one of garbage collection. That one is raised again.
    """
    found: list[int] = []

    def handle(number: int, _: FrameType | None) -> NoReturn:
        found.append(number)
        raise KeyboardInterrupt

    def dropped(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            threading.Timer(_AGAIN, signal.raise_signal, [signal.SIGINT]).start()
        else:
            hook(unraisable)

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
        yield lambda: bool(found)
        return
    handler, hook = signal.signal(signal.SIGINT, handle), sys.unraisablehook
    sys.unraisablehook = dropped
    try:
        yield lambda: bool(found)
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, handler)


def import_backend(backend: str, dtype: str = "float32") -> ModuleType:
    """Returns a framework's package, ready to compute in a dtype for the rest of the process.

    Args:
        backend: one of `BACKENDS`.
        dtype: of the parameters; float64 turns on JAX's 64-bit mode.

    Raises:
        ImportError: the framework is not installed; the message names the extra.
    """
    extra, modules = _NEEDS[backend]
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ImportError(f"{BACKENDS[backend]} needs {module}: pip install 'twohead[{extra}]'") from error
    if backend == "flax" and dtype == "float64":
        importlib.import_module("jax").config.update("jax_enable_x64", True)
    return importlib.import_module(BACKENDS[backend])


def join_processes(
    package: ModuleType, coordinator: str | None, processes: int | None, process_id: int | None
) -> tuple[dict[str, Any], bool]:
    """Joins this process to the others; returns the arguments of `fit` that share a training, and if this is process 0.

    Raises:
        ValueError: only some of the three are given, or one is out of bounds.
        ConnectionError: the other processes do not answer.
    """
    package.training.initialize_distributed(coordinator, processes, process_id)
    if package.__name__ == "torch_ref":
        distributed = importlib.import_module("torch.distributed")
        first = distributed.get_rank() == 0
        return {"process_group": distributed.group.WORLD, "progress": first}, first
    first = importlib.import_module("jax").process_index() == 0
    return {"mesh": package.training.make_mesh(), "progress": first}, first


def _line(text: str) -> str:
    return " ".join(text.splitlines())
