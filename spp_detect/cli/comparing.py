"""Commands that compare SPP-net with R-CNN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import cloup
from cloup import option_group

from spp_detect.cli.options import (
    backbone_option,
    collect_settings,
    config_option,
    device_option,
    fc_width_option,
    labelled_data,
    map_budget_option,
    max_side_option,
    model_folder,
    parse_scales,
    path_type,
    preset_option,
    seed_option,
    set_option,
    show_examples,
    telling_how_to_go_on,
    threads_option,
    train_from_option,
    trunk_option,
    weights_option,
)
from spp_detect.config import (
    PAPER_SCALES,
    SINGLE_SCALE,
    ConfigError,
    make_training_config,
)
from spp_detect.experiments.published import COLUMNS
from spp_detect.ready_models import find_model, is_ready

TABLE_ITERATIONS = 4000


@cloup.command(
    epilog=show_examples(
        "benchmark runs/voc07 voc --images 100 --rcnn-images 5",
        "benchmark runs/voc07 photos --windows 500 --out runs/speed",
    )
)
@model_folder
@click.argument("data", type=path_type)
@option_group(
    "Photographs",
    click.option(
        "--images", type=click.IntRange(1), default=100, help="Random photographs of DATA."
    ),
    click.option("--split", default="test", help="Split, where DATA is labelled."),
    click.option("--windows", type=click.IntRange(1), default=2000, help="Most, per photograph."),
    click.option(
        "--repeats", type=click.IntRange(1), default=1, help="Per photograph; their median counts."
    ),
    seed_option,
    max_side_option,
)
@option_group(
    "Both sides",
    click.option(
        "--scale", type=click.IntRange(16), default=SINGLE_SCALE, help="Of SPP-net at one scale."
    ),
    click.option(
        "--scales",
        default=",".join(map(str, PAPER_SCALES)),
        help="Short sides in pixels of SPP-net at several scales.",
    ),
    click.option(
        "--rcnn", type=path_type, help="Model folder whose heads are R-CNN's; RUN's if not given."
    ),
    click.option(
        "--rcnn-images",
        type=click.IntRange(1),
        help="R-CNN takes only so many of the photographs; it is slow without a GPU.",
    ),
    trunk_option,
)
@option_group(
    "Run",
    click.option(
        "--out", type=path_type, help="Folder for the results; RUN/benchmark if not given."
    ),
    device_option,
    threads_option,
)
def benchmark(
    run: Path,
    data: Path,
    weights: str | None,
    images: int,
    split: str,
    scale: int,
    scales: str,
    windows: int,
    rcnn: Path | None,
    rcnn_images: int | None,
    repeats: int,
    out: Path | None,
    seed: int,
    device: str,
    max_side: int,
) -> None:
    """Time SPP-net at one scale and at several, and R-CNN with the same weights.

    DATA is labelled or just a folder of photographs.
    """
    from spp_detect.detector import Detector
    from spp_detect.experiments.speed import (
        BenchmarkSettings,
        run_benchmark,
        sample_photographs,
    )
    from spp_detect.files import write_json
    from spp_detect.report.chart import plot_seconds
    from spp_detect.report.runs import PAGE, write_benchmark_page
    from spp_detect.report.terminal import show_benchmark

    if out is None and is_ready(find_model(run)):
        raise click.UsageError("--out: expected with a ready model, into whose folder none writes")
    detector = Detector.load(run, device, weights)
    settings = BenchmarkSettings(
        scale, parse_scales(scales), windows, rcnn_images, repeats, max_side
    )
    paths = sample_photographs(data, split, images, seed, max_side)
    result = run_benchmark(detector, paths, settings, Detector.load(rcnn, device) if rcnn else None)
    show_benchmark(result)
    out = out or run / "benchmark"
    write_json(out / "benchmark.json", result)
    plot_seconds(result, out / "benchmark.png")
    write_benchmark_page(out, result, "benchmark.png")
    print(out / PAGE)


@cloup.command(epilog=show_examples("tables voc --out runs/tables --columns '1 scale,R-CNN'"))
@labelled_data
@option_group(
    "Data",
    click.option("--split", default="trainval", help="Split to train on."),
    click.option("--test-split", default="test", help="Split to measure on."),
    max_side_option,
)
@option_group(
    "Tables",
    click.option(
        "--columns", default=",".join(COLUMNS), help="Those of the paper to fill, joined by commas."
    ),
    click.option(
        "--scale", type=click.IntRange(16), default=SINGLE_SCALE, help="Of the column with one."
    ),
    click.option("--scales", help="Of the column with several; the preset's, else the paper's."),
    click.option(
        "--rcnn-windows",
        type=click.IntRange(1),
        help="First windows of a photograph on which R-CNN is trained, each a pass of the trunk; "
        "all of --max-windows if not given.",
    ),
    click.option("--images", type=click.IntRange(1), default=10, help="Photographs to time."),
)
@option_group(
    "Constants",
    preset_option,
    set_option,
    config_option,
    weights_option,
    backbone_option,
    click.option(
        "--finetune",
        "finetune_iterations",
        type=click.IntRange(1),
        help=f"Iterations; the preset's, {TABLE_ITERATIONS} where it has none.",
    ),
    train_from_option,
    fc_width_option,
    click.option("--max-windows", type=click.IntRange(1), help="Per photograph."),
    click.option("--seed", type=click.IntRange(0), help="Seed of all chance."),
)
@option_group(
    "Run",
    click.option(
        "--out", type=path_type, required=True, help="Folder for the models and the tables."
    ),
    device_option,
    map_budget_option,
    threads_option,
)
def tables(
    data: Path,
    out: Path,
    split: str,
    test_split: str,
    weights: str,
    scale: int,
    columns: str,
    rcnn_windows: int | None,
    images: int,
    device: str,
    map_budget: float,
    max_side: int,
    changes: dict[str, Any],
    config: Path | None,
    **options: Any,
) -> None:
    """Fill the paper's tables 9 and 10: train and measure each cell; run it again to go on.

    Extractor, feature and scales are each cell's own, whatever the settings say.
    """
    from spp_detect.backbones import Backbone, read_fc_weights
    from spp_detect.experiments.paper_tables import TableMaker, TablePlan, render_tables
    from spp_detect.features import choose_device
    from spp_detect.opening import open_checked
    from spp_detect.training.assembly import make_settings, make_trunk
    from spp_detect.training.feature_cache import Resources

    resources = Resources(choose_device(device), int(map_budget * 1e9), max_side)
    train_set = open_checked(data, split, None, max_side)
    test_set = open_checked(data, test_split, train_set.classes, max_side)
    settings = collect_settings(options, changes, config) | {"weights": Path(weights).name}
    preset = settings.pop("preset", "default")
    if not make_training_config(preset).finetune_iterations:
        settings = {"finetune_iterations": TABLE_ITERATIONS} | settings
    whole = make_settings(preset, settings)
    several = whole.model.scales if len(whole.model.scales) > 1 else PAPER_SCALES
    plan = TablePlan(
        train_set,
        test_set,
        whole,
        ((scale,), several),
        _parse_columns(columns),
        images,
        min(rcnn_windows or whole.model.max_windows, whole.model.max_windows),
    )

    def make_backbone() -> Backbone:
        return make_trunk(whole.model.backbone, weights, whole.model.seed)[0]

    fc_weights = read_fc_weights(whole.model.backbone, weights)
    with telling_how_to_go_on("go on with the same command"):
        result = TableMaker(out, plan, make_backbone, resources, fc_weights).fill()
    print(render_tables(result))


def _parse_columns(text: str) -> tuple[str, ...]:
    columns = tuple(text.split(","))
    unknown = [column for column in columns if column not in COLUMNS]
    if unknown:
        raise ConfigError(f"--columns {unknown[0]}: expected some of {', '.join(COLUMNS)}")
    return columns
