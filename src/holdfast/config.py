"""Options: one table, four places (call, environment, file, default, in that order), unknown names refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from .errors import ConfigError
from .policy import Keep
from .units import parse_bytes, parse_seconds

if TYPE_CHECKING:
    from .levels import Level

FILE = "holdfast.toml"
PREFIX = "HOLDFAST_"

# Variables of that prefix that are no options: the supervisor's words to the program, and what says where it runs.
INTERNAL = frozenset(
    {
        "HOLDFAST_REPORT",
        "HOLDFAST_SUPERVISED",
        "HOLDFAST_CONFIG",
        "HOLDFAST_DEADLINE",
        "HOLDFAST_SPARES",
        "HOLDFAST_FAILURE_DOMAIN",
        "HOLDFAST_NODE_MEMORY",
        "HOLDFAST_NODE_SCRATCH",
    }
)


@dataclass(frozen=True)
class Options:
    """Everything that can be set for a run, with its default."""

    keep: Keep = field(default_factory=Keep)
    on_error: str = "raise"  # "raise" | "warn": what a failed checkpoint does to the program
    takeover: bool = False  # take the run from a holder that lives
    signals: bool = True  # SIGTERM, SIGINT, SIGUSR1 ask for a last checkpoint
    params_changed: str = "error"  # "error" | "accept": other params than the stored ones
    objects_changed: str = "error"  # "error" | "accept": missing, new or mismatching objects
    ranks_changed: str = "error"  # "error" | "accept": another number of ranks
    timeout: float = 600.0  # seconds a collective call waits for other ranks
    lease: float = 60.0  # seconds after which a holder on another host that gives no sign counts as dead
    threads: int = 4  # threads that digest and write, or read and verify, on each rank
    capture: str = "auto"  # "auto" | "copy" | "cow" | "reference" | "direct": how the state is frozen
    staging: int | None = None  # bytes of memory for captured state; None ("auto"): the state's size, within bounds
    arena: str = "auto"  # "auto" | "private" | "shared": the kind of that memory; shared where a helper can't read private
    incremental: str = "auto"  # "auto" | "pages" | "blocks" | "off": what is not written again
    max_chain: int = 16  # versions that reading one may touch
    overlap: str = "wait"  # "wait" | "skip" a checkpoint that is due while another is in flight | "off": none is ever in flight
    engine: str = "thread"  # "thread" | "process": who digests and writes
    time_limit: float | str = "auto"  # seconds after which the program has left; "auto": HOLDFAST_DEADLINE, or the job's; "off"
    stall_timeout: float | None = None  # seconds without progress after which a rank is ended as hung; None ("off"): never
    levels: tuple[Level, ...] | None = None  # where checkpoints are kept; None: chosen when the run is opened


def _choice(*names: str) -> Callable[[Any], Any]:
    def parse(value: Any) -> Any:
        if value not in names:
            raise ValueError(f"one of {', '.join(map(repr, names))} is needed")
        return value

    return parse


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise ValueError("true or false is needed")


def _positive(value: Any) -> float:
    needed = "a positive number of seconds is needed, at most 100 000 000"
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(needed) from None
    if isinstance(value, bool) or not 0 < number <= 1e8:
        raise ValueError(needed)
    return number


def _duration(value: Any) -> float:
    return _positive(parse_seconds(value) if isinstance(value, str) else value)


def _time_limit(value: Any) -> float | str:
    return value if value in ("auto", "off") else _duration(value)


def _stall_timeout(value: Any) -> float | None:
    return None if value in (None, "off") else _duration(value)


def _threads(value: Any) -> int:
    if isinstance(value, bool) or int(value) != float(value) or not 1 <= int(value) <= 64:
        raise ValueError("a whole number from 1 to 64 is needed")
    return int(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or int(value) != float(value) or not 1 <= int(value) <= 1000:
        raise ValueError("a whole number from 1 to 1000 is needed")
    return int(value)


def _staging(value: Any) -> int | None:
    if value in (None, "auto"):
        return None
    nbytes = parse_bytes(value)
    if nbytes < 16 << 20:
        raise ValueError("at least 16 MiB are needed")
    return nbytes


def parse_keep(value: Any) -> Keep:
    """What retention leaves, from a Keep, a mapping of its fields, or the number of checkpoints, also as text. ValueError for
    what is none of these, ConfigError for fields or numbers that can't be. Local."""
    if isinstance(value, Keep):
        return value
    if isinstance(value, Mapping):
        check_names(value, [f.name for f in fields(Keep)], "keep option")
        return Keep(**value)
    try:
        if isinstance(value, bool):
            raise ValueError
        return Keep(last=int(value))
    except (ValueError, TypeError, OverflowError):
        raise ValueError("holdfast.Keep(...) or the number of checkpoints to keep is needed") from None


def _levels(value: Any) -> tuple[Level, ...]:
    from .leveltext import parse_levels  # which needs this module's check_names

    return parse_levels(value)


_PARSE: dict[str, Callable[[Any], Any]] = {
    "keep": parse_keep,
    "on_error": _choice("raise", "warn"),
    "takeover": _flag,
    "signals": _flag,
    "params_changed": _choice("error", "accept"),
    "objects_changed": _choice("error", "accept"),
    "ranks_changed": _choice("error", "accept"),
    "timeout": _duration,
    "lease": _duration,
    "threads": _threads,
    "capture": _choice("auto", "copy", "cow", "reference", "direct"),
    "staging": _staging,
    "arena": _choice("auto", "private", "shared"),
    "incremental": _choice("auto", "pages", "blocks", "off"),
    "max_chain": _count,
    "overlap": _choice("wait", "skip", "off"),
    "engine": _choice("thread", "process"),
    "time_limit": _time_limit,
    "stall_timeout": _stall_timeout,
    "levels": _levels,
}


def load(call: Mapping[str, Any], config: str | os.PathLike[str] | Mapping[str, Any] | None = None) -> Options:
    """The options that hold: `call` (values that are None were not given), environment, file, defaults.

    `config`: a file's path or a mapping in its place; None: the file that HOLDFAST_CONFIG names, else
    `holdfast.toml` in the working directory if there is one. Local. ConfigError names the place of a bad value.
    """
    values: dict[str, Any] = {}
    _take(values, _file(config), "configuration")
    environment = {
        name[len(PREFIX) :].lower(): text
        for name, text in os.environ.items()
        if name.startswith(PREFIX) and name not in INTERNAL
    }
    _take(values, environment, "environment (HOLDFAST_*)")
    _take(values, {k: v for k, v in call.items() if v is not None}, "call")
    return Options(**values)


def check_names(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """ConfigError for the first name of `given` that is not known, with the nearest that is."""
    known = list(known)
    for name in given:
        if name not in known:
            import difflib  # only when it is needed: importing holdfast must stay cheap

            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}."
            raise ConfigError(f"There is no {what} {name!r}; {hint}")


def _take(values: dict[str, Any], given: Mapping[str, Any], place: str) -> None:
    check_names(given, _PARSE, f"option in the {place} named")
    for name, value in given.items():
        try:
            values[name] = _PARSE[name](value)
        except ConfigError as error:
            raise ConfigError(f"Option {name!r} in the {place}: {error.message}") from None
        except (ValueError, TypeError, OverflowError) as error:
            raise ConfigError(f"Option {name!r} in the {place} can't be {value!r}: {error}.") from None


def _file(config: str | os.PathLike[str] | Mapping[str, Any] | None) -> Mapping[str, Any]:
    if isinstance(config, Mapping):
        return config
    path = os.fspath(config or os.environ.get("HOLDFAST_CONFIG") or FILE)
    if not os.path.exists(path):
        if config is None and "HOLDFAST_CONFIG" not in os.environ:
            return {}
        raise ConfigError(f"The configuration file {path!r} does not exist.", file=path)
    try:
        import tomllib as toml
    except ImportError:  # Python 3.10
        import tomli as toml  # type: ignore[no-redef, import-not-found, unused-ignore]
    try:
        with open(path, "rb") as f:
            return toml.load(f)
    except (toml.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"The configuration file {path!r} is not readable: {error}.", file=path) from None
