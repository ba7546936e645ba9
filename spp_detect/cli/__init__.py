"""The command line: `spp-detect COMMAND`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
import cloup

from spp_detect import progress
from spp_detect.cli.classifying import classify, pretrain
from spp_detect.cli.comparing import benchmark, tables
from spp_detect.cli.measuring import evaluate, score
from spp_detect.cli.models import compress, detect, export, models, pack
from spp_detect.cli.photographs import demo, download, inspect, proposals
from spp_detect.cli.training import add_class, remove_class, train
from spp_detect.cli.transferring import transfer
from spp_detect.provenance import find_commit, find_version

# By the modules that define them. One that is raised comes from a module that is loaded.
USER_ERRORS = {
    "bbox_regression.targets": "RegressionError",
    "data.errors": "DataError",
    "eval.detections": "EvalError",
    "proposals.settings": "ProposalError",
    "spp_detect.backbones.weights": "WeightsError",
    "spp_detect.classification.network": "ClassifierError",
    "spp_detect.cluster.nodes": "ClusterError",
    "spp_detect.cluster.places": "PlaceError",
    "spp_detect.config": "ConfigError",
    "spp_detect.export": "ExportError",
    "spp_detect.experiments.download": "DownloadError",
    "spp_detect.experiments.speed": "BenchmarkError",
    "spp_detect.lock": "LockError",
    "spp_detect.model_folder": "ModelError",
    "spp_detect.report.folder": "ReportError",
    "spp_detect.training.finetuning": "TuningError",
    "spp_detect.training.run_folder": "TrainingError",
    "svm.linear": "SvmError",
}


@cloup.group(
    context_settings={"show_default": True, "help_option_names": ["-h", "--help"]},
    epilog="Bad input ends in one line on stderr and exit status 2; --debug shows a traceback.",
    align_sections=True,
)
@click.version_option(find_version("spp-detect") or "unknown", prog_name="spp-detect")
@click.pass_context
def app(context: click.Context) -> None:
    """SPP-net object detection: one convolution pass per photograph, any number of windows."""
    context.with_resource(progress.show())
    context.with_resource(_log_to_stderr())
    find_commit()


for title, commands in (
    ("Data", (demo, download, inspect, proposals)),
    ("Models", (train, add_class, remove_class, compress, pack, export, models)),
    ("Use", (detect, evaluate, score)),
    ("Classification", (pretrain, classify, transfer)),
    ("SPP-net beside R-CNN", (benchmark, tables)),
):
    app.section(title, *commands)


def main() -> None:
    """Run the command line; a user's error is one line on stderr and exit status 2."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    try:
        app([argument for argument in arguments if argument != "--debug"])
    except Exception as error:
        if debug or not isinstance(error, _find_user_errors()):
            raise
        print(f"spp-detect: error: {_one_line(error)}", file=sys.stderr)
        sys.exit(2)


def _find_user_errors() -> tuple[type[Exception], ...]:
    """Find the errors that a user's input raises, without importing what is not loaded."""
    loaded = {module: name for module, name in USER_ERRORS.items() if module in sys.modules}
    return (OSError, *(getattr(sys.modules[module], name) for module, name in loaded.items()))


@contextmanager
def _log_to_stderr() -> Iterator[None]:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("spp-detect: %(message)s"))
    logger = logging.getLogger("spp_detect")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
