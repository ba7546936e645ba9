"""Options and arguments that several commands have, and what is read from them."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from data.photo import DEFAULT_MAX_SIDE
from spp_detect.config import (
    BACKBONES,
    PRESETS,
    TEST_TIME,
    TIMM,
    ConfigError,
    parse_setting,
    read_settings,
)
from spp_detect.ready_models import FOLDER, find_model, is_ready, list_names


def show_examples(*commands: str) -> str:
    """Format a command's examples as the end of its help; tests run them."""
    return "\b\nExamples:\n" + "\n".join(f"  spp-detect {command}" for command in commands)


class FiniteFloat(click.ParamType):
    """A number, and not NaN or infinite."""

    name = click.FLOAT.name

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Turn a word into a number."""
        number = float(click.FLOAT.convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class FiniteRange(click.FloatRange):
    """A number within a range, and not NaN or infinite."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Turn a word into a number."""
        return float(super().convert(FiniteFloat().convert(value, param, ctx), param, ctx))


class BackboneName(click.Choice[str]):
    """A trunk of the program's own list, or any of timm's."""

    def __init__(self) -> None:
        super().__init__([*BACKBONES, f"{TIMM}NAME"])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check a name of the list; timm knows its own."""
        name = str(value)
        if name.startswith(TIMM) and name != f"{TIMM}NAME":
            return name
        return str(super().convert(value, param, ctx))


class PlaceType(click.ParamType):
    """A path, or with --ray a URL as s3://bucket/folder."""

    name = "path"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path | str:
        """Turn a word into a path, or leave a URL as it is."""
        return value if "://" in str(value) else Path(value)


path_type = click.Path(path_type=Path)
labelled_data = click.argument("data", type=path_type)
model_folder = click.argument("run", type=path_type)
model_folders = click.argument("runs", metavar="[RUN...]", nargs=-1, type=path_type)
ready_option = click.option(
    "--model",
    "ready",
    multiple=True,
    type=click.Choice(list_names()),
    hidden=not list_names(),
    help="A ready model, see `models`, instead of RUN or together with it.",
)
trunk_option = click.option(
    "--weights",
    help="Of a packed model's trunk: a .safetensors or .pth file; torchvision's download if not "
    "given.",
)
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    help="Where maps are computed and windows pooled.",
)
boxes_option = click.option(
    "--boxes", type=path_type, help="Windows from this .npz or .mat file, not from the method."
)
seed_option = click.option("--seed", type=click.IntRange(0), default=0, help="Seed of all chance.")
max_side_option = click.option(
    "--max-side",
    type=click.IntRange(1),
    default=DEFAULT_MAX_SIDE,
    help="Largest side in pixels of a photograph that is read.",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(1),
    expose_value=False,
    callback=lambda context, option, count: _set_threads(count),
    help="Threads that compute; if not given, the cores that this process may use.",
)


map_budget_option = click.option(
    "--map-budget",
    type=FiniteRange(0),
    default=8.0,
    help="GB of maps, or of R-CNN's features, kept on disk.",
)
memory_option = click.option(
    "--memory",
    type=FiniteRange(0.1),
    default=8.0,
    help="GB of examples that SVMs are trained on at once; a class with more of them takes longer.",
)
backbone_option = click.option(
    "--backbone",
    type=BackboneName(),
    help="Trunk: a network's convolutions, up to where a cell is about 16 pixels; with the extra "
    "timm any of its nets that has such a map.",
)
weights_option = click.option(
    "--weights",
    default="imagenet",
    help="imagenet, none, a .safetensors or .pth file, the folder of a classifier, see "
    "`pretrain`, whose trunk and pyramid are then taken, too, or that of a detector, not "
    "packed, whose trunk may have learnt, and whose fc layers, where they are of one shape, "
    "learn on.",
)
preset_option = click.option(
    "--preset",
    type=click.Choice(PRESETS),
    help="Whose constants, where the other options and --config say nothing. paper, release: all "
    "that SPP-net's paper or its Matlab code fixes. tuned-fc: fc layers, a softmax and boxes learn "
    "on the frozen trunk, and the softmax scores. tuned-trunk: the trunk's last layers learn "
    "under a linear layer, then SVMs as by default. fast-rcnn: trunk, fc layers, a softmax and "
    "boxes learn together, and the softmax scores.",
)
train_from_option = click.option(
    "--train-from",
    help="First of the trunk's layers that learns, too, as layer3 of a ResNet or conv5 of zf5; a "
    "wrong name lists those of the trunk.",
)
fc_width_option = click.option(
    "--fc-width", type=click.IntRange(1), help="Values of fc6 and of fc7."
)


def _parse_changes(
    context: click.Context, option: click.Parameter, words: tuple[str, ...]
) -> dict[str, Any]:
    return dict(map(parse_setting, words))


set_option = click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_parse_changes,
    help="Any constant by its name in a model's config.json; repeatable.",
)
test_time_option = click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_parse_changes,
    help=f"A constant of test time: {', '.join(TEST_TIME)}; repeatable.",
)
config_option = click.option(
    "--config", type=path_type, help="A .json of constants, as a model's config.json."
)


def _set_threads(count: int | None) -> None:
    from spp_detect.threads import set_threads

    set_threads(count)


def is_given(context: click.Context, name: str) -> bool:
    """Whether an option stands on the command line."""
    return context.get_parameter_source(name) == ParameterSource.COMMANDLINE


def parse_scales(text: str) -> tuple[int, ...]:
    """Parse short sides joined by commas."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--scales {text}: expected numbers joined by commas") from error


def collect_settings(
    options: dict[str, Any], changes: dict[str, Any], config: Path | None
) -> dict[str, Any]:
    """Constants that differ from the preset's: a file's, then --set's, then the options'."""
    given = {name: value for name, value in options.items() if value is not None}
    if "scales" in given:
        given["scales"] = parse_scales(given["scales"])
    read = read_settings(config) if config is not None else {}
    return read | changes | given


def join_models(runs: tuple[Path, ...], ready: tuple[str, ...]) -> list[Path]:
    """Folders of all models that detect together, those of RUNs first."""
    if not runs and not ready:
        raise click.UsageError("no model: give a RUN, or --model NAME of one in `models`")
    return [*map(find_model, runs), *(FOLDER / name for name in ready)]


def name_model(folder: Path) -> str:
    """Name a model: a ready one by its name, another by its folder."""
    return folder.name if is_ready(folder) else str(folder)


@contextmanager
def needing_ray() -> Iterator[None]:
    """Refuse --ray where what it needs cannot be imported."""
    try:
        yield
    except ImportError as error:
        raise click.UsageError(f"--ray: {error}; expected `pip install spp-detect[ray]`") from error


@contextmanager
def telling_how_to_go_on(told: str) -> Iterator[None]:
    """End an interrupted command with one line, and the status that shells give to such."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"spp-detect: stopped; {told}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
