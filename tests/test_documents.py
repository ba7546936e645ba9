"""README, docs and the examples in help: every command in them is run, and the site is built.

What a command is run on is small, and some get options that make it shorter; nothing is taken away.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import click
import cloup
import cv2
import pytest
import torch
import torch.distributed.run
from safetensors.torch import load_file, save_file

from data import make_synthetic_set
from spp_detect import cli
from spp_detect.backbones import build_backbone, weights

ROOT = Path(__file__).resolve().parents[1]
TRUNK = ROOT.parent / "shared" / "weights" / "resnet18_conv1_layer3.safetensors"
DOCUMENTS = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
OBJECTS = {"cross": "cat", "disc": "dog", "ring": "person", "star": "car", "triangle": "bird"}

# Of what needs a network, a new environment or an hour: only the options are looked at.
PARSED = ("spp-detect download", "spp-detect demo", "python benchmarks/alternatives.py")
OF_THE_SHELL = (
    "git clone",
    "cd ",
    "pip install",
    "make ",
    "ray start",
    ". .venv",
    'eval "$(_SPP',
    "_SPP_DETECT_COMPLETE=fish",
)
FEW = "--max-windows 30 --set norm_photographs=4 --set norm_windows=20"
SHORTER = {
    "train": f"--scales 120 {FEW}",
    "tables": "--scale 120 --scales 96,120 --max-windows 8 --rcnn-windows 8 --finetune 2 "
    "--fc-width 8 --images 1",
    "pretrain": "--backbone small5 --sizes 48 --epochs 1 --fc-width 8 --batch 4",
    "benchmark": "--images 1 --rcnn-images 1 --windows 8 --scale 120 --scales 96,120",
}
RCNN, TUNED = " --max-windows 8", " --max-windows 8 --finetune 2"


def list_commands(text: str) -> list[str]:
    """The lines of a document's blocks of commands, without their comments."""
    fenced = re.findall(r"^```(.*?)\n(.*?)^```$", text, re.S | re.M)
    blocks = [block for language, block in fenced if language in ("", "sh")]
    lines = [re.sub(r"\s+# .*", "", line) for block in blocks for line in block.splitlines()]
    return [part for line in lines for part in line.split(" && ") if part.strip()]


def list_examples() -> list[str]:
    """The examples of all commands' help, in an order in which each finds what it needs."""
    first = ["train", "evaluate", "detect", "pretrain"]
    names = [*first, *(name for name in sorted(cli.app.commands) if name not in first)]
    epilogs = [cli.app.commands[name].epilog or "" for name in names]
    return [line.strip() for one in epilogs for line in one.splitlines() if "  spp-detect" in line]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Sets, photographs, a clip, weights and models under the names that the documents use."""
    root = tmp_path_factory.mktemp("world")
    voc = make_synthetic_set(root / "voc/VOCdevkit/VOC2007", train=6, val=5, test=3, seed=1)
    rename_classes(voc, OBJECTS)
    copy_under_new_names(voc, root / "VOCdevkit/VOC2012")
    shutil.copytree(voc, root / "shapes")
    for name, changes in (("pets", {}), ("zoo", {"cat": "zebra"}), ("DATA", {"cat": "zebra"})):
        (root / name).mkdir()
        for path in [*voc.glob("JPEGImages/*"), *voc.glob("Annotations/*.xml")]:
            shutil.copy(path, root / name)
        rename_classes(root / name, changes)
    for split in ("train", "val"):
        for path in sorted(voc.glob("JPEGImages/*"))[:6]:
            shape = root / "imagenet" / split / ("n01", "n02")[path.stem[-1] in "02468"]
            shape.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, shape)
    (root / "photos").mkdir()
    for path in sorted(voc.glob("JPEGImages/*"))[:3]:
        shutil.copy(path, root / "photos")
    write_class_folders(root / "pets_by_class", voc)
    write_coco(root / "pets.json", voc)
    make_clip(root / "clip.mp4", sorted((root / "photos").iterdir()))
    (root / "results/mini_set").mkdir(parents=True)
    for split, ours in (("trainval", "mini_trainval"), ("test", "mini_test")):
        shutil.copy(voc / f"ImageSets/Main/{split}.txt", root / f"results/mini_set/{ours}.txt")
    shutil.copytree(ROOT / "docs", root / "docs")
    shutil.copytree(ROOT / "benchmarks", root / "benchmarks")
    shutil.copytree(ROOT / "spp_detect/models", root / "spp_detect/models")
    if TRUNK.is_file():
        (root / "trunk.safetensors").symlink_to(TRUNK)
    else:
        torch.manual_seed(0)
        state = build_backbone("resnet18").layers.state_dict()
        save_file(state, root / "trunk.safetensors")
    return root


def copy_under_new_names(voc: Path, out: Path) -> None:
    shutil.copytree(voc, out)
    for path in [*out.glob("JPEGImages/*"), *out.glob("Annotations/*")]:
        path.rename(path.with_name(f"new_{path.name}"))
    for path in out.glob("ImageSets/Main/*.txt"):
        path.write_text("".join(f"new_{line}\n" for line in path.read_text().splitlines()))


def rename_classes(folder: Path, names: dict[str, str]) -> None:
    for path in folder.rglob("*.xml"):
        tree = ElementTree.parse(path)
        for name in tree.iterfind("object/name"):
            name.text = names.get(name.text, name.text)
        tree.write(path)


def write_class_folders(path: Path, voc: Path) -> None:
    """Copy three photographs for each of two classes, whatever they show."""
    photographs = sorted(voc.glob("JPEGImages/*"))
    for name, some in (("cats", photographs[:3]), ("dogs", photographs[3:6])):
        (path / name).mkdir(parents=True)
        for photo in some:
            shutil.copy(photo, path / name)


def write_coco(path: Path, voc: Path) -> None:
    """Write the photographs in `photos` beside the file as a COCO set."""
    classes = list(OBJECTS.values())
    names = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]
    coco = {"images": [], "annotations": [], "categories": names}
    for number, photo in enumerate(sorted((path.parent / "photos").iterdir())):
        tree = ElementTree.parse(voc / "Annotations" / f"{photo.stem}.xml")
        width, height = (int(tree.findtext(f"size/{side}")) for side in ("width", "height"))
        image = {"file_name": f"photos/{photo.name}", "width": width, "height": height}
        coco["images"].append({"id": number, **image})
        for one in tree.iterfind("object"):
            x1, y1, x2, y2 = (int(corner.text) for corner in one.find("bndbox"))
            box = {"bbox": [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1], "iscrowd": 0}
            box |= {"category_id": classes.index(one.findtext("name")) + 1, "image_id": number}
            coco["annotations"].append({"id": len(coco["annotations"]) + 1, "area": 1.0, **box})
    path.write_text(json.dumps(coco))


def make_clip(path: Path, photographs: list[Path]) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 2.0, (160, 120))
    for photo in photographs * 2:
        writer.write(cv2.resize(cv2.imread(str(photo)), (160, 120)))
    writer.release()


@pytest.fixture(scope="module")
def models(world, tmp_path_factory) -> Path:
    """The models that a document takes for given: pooled features, and fc layers that are tuned."""
    folder = tmp_path_factory.mktemp("given")
    tuned = ["--finetune", "2", "--fc-width", "300", "--set", "fc_start=random"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        replace_download(patch, world)
        for name, more in (("pool5", []), ("fc7", tuned)):
            out = ["--out", str(folder / name)]
            assert call(patch, ["train", "voc", *out, *SHORTER["train"].split(), *more]) == 0
    return folder


def replace_download(patch: pytest.MonkeyPatch, world: Path) -> None:
    patch.setattr(weights, "_download", lambda name: load_file(world / "trunk.safetensors"))


def call(patch: pytest.MonkeyPatch, arguments: list[str]) -> int:
    """Run the command line in this process: the exit status."""
    patch.setattr(sys, "argv", ["spp-detect", *arguments])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def run_ours(patch: pytest.MonkeyPatch, words: list[str], models: Path) -> int:
    """Run a command of ours; models that it reads and that no command before it made are given."""
    outs = {words[i + 1] for i, word in enumerate(words[:-1]) if word == "--out"}
    resumed = outs if "--resume" in words else set()
    for word in {*words[1:]} - outs | resumed:
        if re.fullmatch(r"(runs|small)/\w+", word) and not Path(word).exists():
            shutil.copytree(models / ("fc7" if word in ("runs/fc7", "runs/one") else "pool5"), word)
    if "--resume" in words and words[0] in ("train", "pretrain"):
        return call(patch, words)
    shorter = SHORTER.get(words[0], "")
    shorter += RCNN if "rcnn" in words else TUNED if "tuned-trunk" in words else ""
    return call(patch, [*words, *shorter.split()])


def run_command(
    command: str,
    patch: pytest.MonkeyPatch,
    models: Path,
    capsys: pytest.CaptureFixture[str],
    seen: set[tuple[str, ...]],
) -> None:
    """Run one line of a document, or where it cannot be run here look at its options.

    A cluster takes long to start: what was run on one, with another model, is not run again, and
    who trains on one is tested in cluster/test_training.py.
    """
    if command.startswith(OF_THE_SHELL):
        return
    line, _, target = command.partition(" > ")
    words = shlex.split(line)
    if words[0] == "torchrun":  # what is run by it stands in test_team.py
        asked = torch.distributed.run.get_args_parser().parse_args(words[1:])
        assert asked.training_script == "spp_detect" and asked.module
        # Each machine is told which it is: else all would be the first.
        assert asked.standalone or ("--node-rank" in words and "--master-addr" in words)
        check_options(["spp-detect", *asked.training_script_args])
    elif command.startswith(PARSED) or (
        "--ray" in words and (words[1] == "train" or tuple(words[3:]) in seen)
    ):
        check_options(words)
    elif words[0] == "spp-detect":
        seen.add(tuple(words[3:]))
        capsys.readouterr()
        status = run_ours(patch, words[1:], models)
        printed = capsys.readouterr()
        assert status == 0, f"{command}: {printed.err}"
        if target:
            Path(target.strip()).write_text(printed.out)
            assert [json.loads(one) for one in printed.out.splitlines()]
    elif words[0] == "python":
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, *words[1:]], check=True, env=environment)
    else:
        subprocess.run(["bash", "-c", command], check=True)


def check_options(words: list[str]) -> None:
    """Check that a command knows the options that it is given."""
    if words[0] == "spp-detect":
        command = cli.app.commands[words[1]]
        command.make_context(words[1], words[2:], resilient_parsing=False)
        return
    said = subprocess.run(
        [sys.executable, str(ROOT / words[1]), "--help"], check=True, capture_output=True, text=True
    ).stdout
    assert all(word in said for word in words if word.startswith("--"))


@pytest.fixture(scope="module")
def seen() -> set[tuple[str, ...]]:
    """What follows the models in the commands that were run."""
    return set()


@pytest.mark.parametrize("document", [*DOCUMENTS, "help"])
def test_every_command_runs(document, world, models, tmp_path, monkeypatch, capsys, seen):
    text = (ROOT / document).read_text(encoding="utf-8") if document != "help" else ""
    commands = list_commands(text) if text else list_examples()
    for path in world.iterdir():
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, tmp_path / path.name)
    monkeypatch.chdir(tmp_path)
    replace_download(monkeypatch, world)
    assert commands or document in ("docs/python.md",)
    for command in commands:
        if "--model" in command and not TRUNK.is_file():
            continue  # the ready model refuses another trunk
        run_command(command, monkeypatch, models, capsys, seen)


def test_targets_of_make_are_there():
    makefile = (ROOT / "Makefile").read_text()
    told = re.findall(r"\bmake (\w+)", "\n".join((ROOT / one).read_text() for one in DOCUMENTS))
    blocks = {one for one in told if one in ("demo", "test", "install", "bench", "docs", "gpu")}
    assert {"demo", "test", "install", "bench"} <= blocks
    for target in blocks:
        assert re.search(rf"^{target}:", makefile, re.M)


def test_every_command_has_an_example_and_groups_many_options():
    for name, command in cli.app.commands.items():
        assert name == "models" or f"spp-detect {name} " in command.epilog
        with cloup.Context(command, info_name=name) as context:
            said = command.get_help(context)
        count = sum(isinstance(one, click.Option) for one in command.params)
        assert count < 9 or len(re.findall(r"^[A-Z][\w -]+:$", said, re.M)) >= 4, name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if not target.startswith("http"):
            assert (ROOT / document).parent.joinpath(target).exists(), target


def test_the_site_is_built_without_a_warning(tmp_path):
    sphinx = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q"]
    built = subprocess.run(
        [*sphinx, str(ROOT / "docs"), str(tmp_path)], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "python.html").read_text(encoding="utf-8")
    assert "detect_folder" in page and "(tmp" not in page


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("spp-detect det", "plain,detect"),
        ("spp-detect train --pres", "plain,--preset"),
        ("spp-detect train --preset tuned-t", "plain,tuned-trunk"),
    ],
)
def test_shells_complete(words, expected):
    count = len(words.split()) - 1
    environment = os.environ | {"COMP_WORDS": words, "COMP_CWORD": str(count)}
    environment |= {"_SPP_DETECT_COMPLETE": "bash_complete"}
    program = Path(sys.executable).parent / "spp-detect"
    said = subprocess.run([program], env=environment, capture_output=True, text=True).stdout
    assert expected in said.splitlines()
