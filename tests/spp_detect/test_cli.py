"""The command line as its users meet it: what it leaves, and one line for every bad input."""

import csv
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from data import open_dataset
from proposals import load_boxes
from spp_detect import cli, files, ready_models
from spp_detect.cli.models import EXPORTS
from spp_detect.detector import Detector
from spp_detect.report import exports
from spp_detect.training.feature_scale import MeasureScales


def run(capsys, monkeypatch, *arguments) -> tuple[int, str, str]:
    """Run the command line in this process: exit status, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["spp-detect", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    return stop.value.code or 0, captured.out, captured.err


@pytest.fixture()
def spp(capsys, monkeypatch):
    return lambda *arguments: run(capsys, monkeypatch, *arguments)


def error_line(result) -> str:
    """The one line of an error: the last on stderr, exit status 2."""
    status, _, errors = result
    assert status == 2
    lines = errors.strip().splitlines()
    assert lines[-1].startswith("spp-detect: error: ")
    assert "Traceback" not in errors
    return lines[-1]


@pytest.fixture()
def voc(small_voc, tmp_path):
    """A copy of the small set, to damage."""
    return shutil.copytree(small_voc, tmp_path / "voc")


@pytest.fixture()
def photos(small_set, tmp_path):
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    for i, photograph in enumerate(small_set.photographs[:3]):
        shutil.copy(photograph.path, folder / ("deeper" if i else "") / f"photo {i}.jpg")
    return folder


def test_train_then_evaluate_then_score(spp, small_voc, tmp_path):
    model, out = tmp_path / "run", tmp_path / "evaluation"
    options = ("--backbone", "small5", "--weights", "none", "--scales", "160")
    assert spp("train", small_voc, "--out", model, *options)[0] == 0
    assert {"model.safetensors", "config.json", "metrics.json", "history.jsonl"} <= {
        path.name for path in model.iterdir()
    }
    page = (model / "index.html").read_text()
    trained = json.loads((model / "metrics.json").read_text())
    for stage in trained["stages"]:
        assert f"{stage['stage']}</th><td>{stage['seconds']:.1f}</td>" in page
    learnt = open_dataset(small_voc, "trainval")
    easy = [c for photograph in learnt for c in photograph.labels.easy.classes]
    assert f"disc</th><td>{easy.count(learnt.classes.index('disc'))}</td>" in page
    for data in ((small_voc,), ()):
        assert spp("train", *data, "--out", model, "--resume")[1].strip().endswith("already")
    line = error_line(spp("train", "--out", model, "--resume", "--set", "svm_c=0.5"))
    assert "svm_c 0.001, now it is 0.5" in line
    line = error_line(spp("train", "--out", model, "--resume", "--split", "train"))
    assert "other photographs" in line
    assert "no run there" in error_line(
        spp("train", small_voc, "--out", tmp_path / "x", "--resume")
    )
    status, _, errors = spp("train", "--out", tmp_path / "x")
    assert status == 2 and "no DATA" in errors
    assert not (tmp_path / "x").exists()
    assert "--resume" in error_line(spp("train", small_voc, "--out", model, *options))

    status, table, _ = spp("evaluate", model, small_voc, "--split", "test", "--out", out)
    assert status == 0
    assert "mean" in table
    metrics = json.loads((out / "metrics.json").read_text())
    assert 0 <= metrics["mAP"] <= 1
    assert set(metrics["ap"]) == set(json.loads((model / "config.json").read_text())["classes"])
    assert metrics["record"]["machine"]["cores"] > 0
    for name in ("precision_recall.png", "errors.png"):
        assert (out / name).stat().st_size > 1000
    errors = json.loads((out / "errors.json").read_text())
    assert set(errors["shares"]) == set(metrics["ap"])
    worst = max(errors["worth"], key=lambda cause: errors["worth"][cause])
    lines = table.strip().splitlines()
    assert lines[-4].startswith("without ") and worst in lines[-4]
    assert lines[-1] == str(out / "index.html")
    check_evaluation_page(out, metrics, errors)

    again = tmp_path / "score"
    assert spp("score", out, small_voc, "--split", "test", "--out", again)[0] == 0
    scored = json.loads((again / "metrics.json").read_text())
    assert scored["mAP"] == pytest.approx(metrics["mAP"], abs=1e-3)


def check_evaluation_page(out, metrics, errors):
    """Its tables say what the json files say, and its pictures are there."""
    page = (out / "index.html").read_text()
    tables = re.findall(r"<tbody>(.*?)</tbody>", page)
    cells = [
        [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in table.split("</tr>") if row]
        for table in tables
    ]
    ap, confusions = cells
    assert {row[0]: float(row[1]) for row in ap} == {
        name: pytest.approx(100 * value, abs=0.051) for name, value in metrics["ap"].items()
    }
    assert {row[0]: int(row[2]) for row in ap} == errors["boxes"]
    for row in confusions[:-1]:
        assert sum(int(cell or 0) for cell in row[1:]) == errors["boxes"][row[0]]
    pictures = re.findall(r'src="(pictures/[^"]*)"', page)
    assert any("missed" in name or "background" in name for name in pictures)
    for name in pictures:
        with Image.open(out / name) as picture:
            assert max(picture.size) <= 480


def test_detect_leaves_all_its_files_and_skips_a_bad_photograph(spp, small_model, photos, tmp_path):
    bad = photos / "bad.jpg"
    bad.write_bytes((photos / "photo 0.jpg").read_bytes()[:3000])
    out = tmp_path / "out"
    status, _, errors = spp("detect", small_model, photos, "--out", out, "--min-score", "-2")
    assert status == 2
    assert sum(str(bad) in line for line in errors.splitlines()) == 1
    found = json.loads((out / "detections.json").read_text())
    assert {one["image_id"] for one in found} == {
        "photo 0.jpg",
        "deeper/photo 1.jpg",
        "deeper/photo 2.jpg",
    }
    with (out / "detections.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found)
    for row, one in zip(rows, found, strict=True):
        assert row["photograph"] == one["image_id"]
        assert row["class"] == one["category"]
        x, y, width, height = one["bbox"]
        assert float(row["x2"]) == pytest.approx(x + width, abs=0.02)
        assert float(row["y2"]) == pytest.approx(y + height, abs=0.02)
    assert not (out / "drawn").exists()
    with (
        Image.open(photos / "photo 0.jpg") as photo,
        Image.open(out / "thumbnails" / "photo 0.jpg.jpg") as thumbnail,
        Image.open(out / "views" / "photo 0.jpg.jpg") as view,
    ):
        assert photo.size == view.size
        assert max(thumbnail.size) == min(400, max(photo.size))
    page = read_page(out)
    assert [one["name"] for one in page["photographs"]] == [
        "deeper/photo 1.jpg",
        "deeper/photo 2.jpg",
        "photo 0.jpg",
    ]
    assert page["photographs"][0]["view"] == "views/deeper/photo%201.jpg.jpg"
    for one in page["photographs"]:
        original = out / unquote(one["original"])
        assert original.resolve() == (photos / one["name"]).resolve()
        shown = [(page["classes"][box[0]], box[1], box[2], box[3]) for box in one["boxes"]]
        own = [f for f in found if f["image_id"] == one["name"]]
        assert shown == [(f["category"], f["score"], *f["bbox"][:2]) for f in own]
    assert len(page["failures"]) == 1 and "bad.jpg" in page["failures"][0]
    assert page["settings"]["trunk"].startswith("small5")
    assert page["settings"]["model"] == str(small_model)
    again = tmp_path / "drawn"
    assert spp("detect", small_model, photos, "--out", again, "--also", "drawn")[0] == 2
    with Image.open(again / "drawn" / "photo 0.jpg.jpg") as drawn:
        assert photo.size == drawn.size


def read_rows(out):
    """Rows of detections.csv by the photograph's name: class, score and corners as numbers."""
    rows = {}
    with (out / "detections.csv").open(newline="") as file:
        for name, label, *numbers in list(csv.reader(file))[1:]:
            rows.setdefault(name, []).append((label, *map(float, numbers)))
    return rows


def test_every_format_says_the_same(spp, small_model, photos, tmp_path):
    shutil.copy(photos / "photo 0.jpg", photos / "photo 0.jpeg")  # of one stem
    out = tmp_path / "out"
    every = [word for name in EXPORTS for word in ("--also", name)]
    options = ("--out", out, "--min-score", "-2", *every)
    status, _, errors = spp("detect", small_model, photos, *options)
    assert status == 0, errors
    rows = read_rows(out)
    assert len(rows) == 4 and set(EXPORTS) <= {path.name for path in out.iterdir()}
    # Of two photographs of one stem the second has its whole name.
    stems = {name: name if name == "photo 0.jpg" else name.rpartition(".")[0] for name in rows}
    # As VOC's annotations beside the photographs, read again.
    labelled = shutil.copytree(out / "voc", tmp_path / "labelled")
    for name, stem in stems.items():
        shutil.copy(photos / name, labelled / f"{stem}.jpg")
    dataset = open_dataset(labelled, "all", strict=True)
    assert len(dataset) == 4
    by_stem = {p.path.relative_to(labelled).as_posix()[:-4]: p.labels for p in dataset}
    for name, own in rows.items():
        found = by_stem[stems[name]]
        assert [dataset.classes[c] for c in found.classes] == [row[0] for row in own]
        np.testing.assert_allclose(found.boxes, [row[2:] for row in own], atol=0.011)
    # As YOLO's labels, by hand.
    names = (out / "yolo" / "classes.txt").read_text().splitlines()
    for name, own in rows.items():
        with Image.open(photos / name) as photo:
            sides = np.array(photo.size * 2)
        lines = (out / "yolo" / "labels" / f"{stems[name]}.txt").read_text().splitlines()
        values = np.array([line.split() for line in lines], float)
        assert [names[int(c)] for c in values[:, 0]] == [row[0] for row in own]
        np.testing.assert_allclose(values[:, 5], [row[1] for row in own], atol=1e-5)
        boxes = values[:, 1:5] * sides
        corners = np.hstack([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2])
        np.testing.assert_allclose(corners, [row[2:] for row in own], atol=0.02)
        crops = sorted(out.glob(f"crops/*/{name}-*.jpg"))
        assert len(crops) == len(own)
        label, _, x1, y1, x2, y2 = own[0]
        with Image.open(out / "crops" / label / f"{name}-1.jpg") as crop:
            assert abs(crop.width - (x2 - x1)) <= 2 and abs(crop.height - (y2 - y1)) <= 2
    # As VOC's comp4 files.
    lines = [
        (path.stem.rpartition("_")[2], *line.split())
        for path in (out / "comp4").glob("comp4_det_all_*.txt")
        for line in path.read_text().splitlines()
    ]
    numbers = {(name, label, round(float(score), 5)): c for label, name, score, *c in lines}
    expected = {
        (stems[name].replace(" ", "%20"), row[0], row[1]): np.add(row[2:], [1, 1, 0, 0])
        for name, own in rows.items()
        for row in own
    }
    assert numbers.keys() == expected.keys()
    for key, corners in expected.items():
        np.testing.assert_allclose(np.array(numbers[key], float), corners, atol=0.0051)
    # What an earlier run left goes.
    (photos / "photo 0.jpeg").unlink()
    assert spp("detect", small_model, photos, *options)[0] == 0
    for path, count in (("voc/**/*.xml", 3), ("yolo/labels/**/*.txt", 3), ("drawn/**/*.jpg", 3)):
        assert len([*out.glob(path)]) == count


def test_the_exports_that_can_be_chosen_are_those_there_are():
    assert set(EXPORTS) == set(exports.EXPORTS)


def test_lines_of_json_are_streamed(spp, small_model, photos, tmp_path, monkeypatch):
    (photos / "bad.jpg").write_bytes(b"no photograph")
    monkeypatch.chdir(tmp_path)
    status, out, _ = spp("detect", small_model, photos, "--out", "-", "--min-score", "-2")
    assert status == 2 and not [*tmp_path.glob("-")]
    lines = {line["photograph"]: line for line in map(json.loads, out.splitlines())}
    assert len(lines) == 4 and "bad.jpg" in lines["bad.jpg"]["error"]
    spp("detect", small_model, photos, "--out", tmp_path / "out", "--min-score", "-2")
    for name, own in read_rows(tmp_path / "out").items():
        found = [(d["class"], d["score"], *d["box"]) for d in lines[name]["detections"]]
        assert [row[:2] for row in found] == [row[:2] for row in own]
        np.testing.assert_allclose([row[2:] for row in found], [row[2:] for row in own], atol=0.011)


@pytest.fixture
def many(small_set, tmp_path):
    """Eight photographs."""
    folder = tmp_path / "many"
    folder.mkdir()
    for i, photograph in enumerate(small_set.photographs[:8]):
        shutil.copy(photograph.path, folder / f"{i}.jpg")
    return folder


def read_results(out):
    """All that a finished run leaves, but for its times: texts by name, pictures' bytes."""
    left = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    page = read_page(out)
    page["settings"].pop("seconds")
    left[Path("index.html")] = json.dumps(page).encode()
    return left


def test_a_killed_run_goes_on_and_repeats_and_drops_nothing(spp, small_model, many, tmp_path):
    options = ("--min-score", "-2", "--also", "voc", "--also", "crops")
    assert spp("detect", small_model, many, "--out", tmp_path / "whole", *options)[0] == 0
    out = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "spp_detect", "detect", small_model, many, "--out", out, *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    journal = out / "journal.jsonl"
    deadline = time.monotonic() + 120
    while not journal.is_file() or journal.read_text().count("\n") < 4:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    done = journal.read_text().count("\n") - 1
    with journal.open("a") as file:
        file.write('{"photograph": "cut o')  # as if it was killed while it wrote
    before = journal.read_text().splitlines()[1 : 1 + done]
    assert spp("detect", small_model, many, "--out", out, *options, "--resume")[0] == 0
    lines = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    assert [line["photograph"] for line in lines] == [f"{i}.jpg" for i in range(8)]
    assert journal.read_text().splitlines()[1 : 1 + done] == before
    assert read_results(out) == read_results(tmp_path / "whole")


@pytest.mark.parametrize("when", ["read", "detected"])
def test_a_photograph_that_vanishes_is_one_failure(
    spp, small_model, many, tmp_path, monkeypatch, when
):
    gone, out = many / "6.jpg", tmp_path / "out"
    begin = Detector.begin
    turns = iter(range(8))

    def vanish(*arguments, **options):
        turn = next(turns)
        found = begin(*arguments, **options)
        if turn == (0 if when == "read" else 6):
            gone.unlink()
        return found

    monkeypatch.setattr(Detector, "begin", vanish)
    monkeypatch.setattr("spp_detect.prefetch.get_threads", lambda: 1)  # reads two ahead
    status, told, errors = spp("detect", small_model, many, "--out", out)
    assert status == 2
    assert told.startswith("8 photographs: ") and ", 1 failed;" in told
    assert f"skipped: {gone}" in errors
    monkeypatch.undo()
    status, told, _ = spp("detect", small_model, many, "--out", out, "--resume")
    assert status == 0 and told.startswith("7 photographs: ")


def damage(content, way):
    """Spoil a file in some way."""
    half = len(content) // 2
    return {
        0: b"",
        1: content[:half],
        2: b"text and no picture",
        3: content[:20] + bytes(len(content) - 20),
        4: bytes(reversed(content)),
    }[way % 5]


def test_of_many_files_the_damaged_ones_are_named(spp, small_model, many, tmp_path):
    contents = [path.read_bytes() for path in sorted(many.iterdir())]
    bad = set()
    for i in range(80):
        path = many / f"more {i}.jpg"
        spoilt = i % 8 == 0
        path.write_bytes(damage(contents[i % 8], i // 8) if spoilt else contents[i % 8])
        if spoilt:
            bad.add(path.name)
    out = tmp_path / "out"
    status, told, errors = spp("detect", small_model, many, "--out", out)
    assert status == 2 and told.startswith("88 photographs: ") and ", 10 failed;" in told
    with (out / "photographs.csv").open(newline="") as file:
        failed = {row["photograph"] for row in csv.DictReader(file) if row["error"]}
    assert failed == bad
    assert sum("skipped: " in line for line in errors.splitlines()) == 10


def test_a_link_to_nothing_is_a_failure(spp, small_model, many, tmp_path):
    (many / "lost.jpg").symlink_to(tmp_path / "nothing")
    status, told, errors = spp("detect", small_model, many, "--out", tmp_path / "out")
    assert status == 2 and told.startswith("9 photographs: ") and ", 1 failed;" in told
    assert f"skipped: {many / 'lost.jpg'}" in errors


def test_what_has_changed_or_failed_is_done_again(spp, small_model, many, tmp_path):
    bad = many / "5.jpg"
    good = bad.read_bytes()
    bad.write_bytes(good[:2000])
    out = tmp_path / "out"
    assert spp("detect", small_model, many, "--out", out)[0] == 2
    bad.write_bytes(good)
    shutil.copy(many / "1.jpg", many / "0.jpg")
    os.utime(many / "0.jpg", (1, 1))
    (many / "7.jpg").unlink()
    assert spp("detect", small_model, many, "--out", out, "--resume")[0] == 0
    again = tmp_path / "again"
    assert spp("detect", small_model, many, "--out", again)[0] == 0
    ours, theirs = read_results(out), read_results(again)
    ours.pop(Path("journal.jsonl")), theirs.pop(Path("journal.jsonl"))
    assert ours == theirs


def test_another_model_does_not_go_on(spp, small_model, many, tmp_path):
    out = tmp_path / "out"
    line = error_line(spp("detect", small_model, many, "--out", out, "--resume"))
    assert "no earlier run" in line
    assert spp("detect", small_model, many, "--out", out)[0] == 0
    other = ("--set", "nms_iou=0.4", "--resume")
    line = error_line(spp("detect", small_model, many, "--out", out, *other))
    assert str(out) in line and "another model or other settings" in line


def test_a_folder_belongs_to_one_run(spp, small_model, small_voc, many, tmp_path):
    out = tmp_path / "out"
    assert spp("detect", small_model, many, "--out", out)[0] == 0
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom spp_detect.lock import lock_folder\n"
        "with lock_folder(Path(sys.argv[1])):\n    print('locked', flush=True)\n    time.sleep(60)"
    )
    run_folder = tmp_path / "run"
    for folder in (out, run_folder):
        other = subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE)
        assert other.stdout.readline() == b"locked\n"
        if folder == out:
            line = error_line(spp("detect", small_model, many, "--out", out))
        else:
            (run_folder / "run.json").touch()
            shutil.copytree(small_model, run_folder, dirs_exist_ok=True)
            (run_folder / "metrics.json").unlink()
            options = ("--backbone", "small5", "--weights", "none", "--scales", "160")
            shutil.rmtree(run_folder / "work")
            (run_folder / "run.json").unlink()
            line = error_line(spp("train", small_voc, "--out", run_folder, "--resume", *options))
        assert str(folder) in line and "another run works there" in line
        other.kill()
        other.wait()
    assert spp("detect", small_model, many, "--out", out)[0] == 0


def read_page(out):
    """The data of a page of detections."""
    text = (out / "index.html").read_text(encoding="utf-8")
    start = text.index('id="data">') + len('id="data">')
    return json.loads(text[start : text.index("</script>", start)])


def test_what_is_shown_begins_lower_where_votes_raise_nothing(spp, small_model, photos, tmp_path):
    for number, (options, least) in enumerate([((), "-0.4"), (("--set", "support=0"), "-0.8")]):
        out = tmp_path / str(number)
        assert spp("detect", small_model, photos, "--out", out, *options)[0] in (0, 2)
        assert read_page(out)["settings"]["least score"] == least


def test_what_detect_found_is_scored_by_its_names(spp, small_model, small_voc, tmp_path):
    """The model's own numbers, by files' and classes' names, in a VOC folder and a COCO json."""
    test = (small_voc / "ImageSets" / "Main" / "test.txt").read_text().split()
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for name in test:
        (path,) = (small_voc / "JPEGImages").glob(f"{name}.*")
        shutil.copy(path, photographs)
    out, evaluation = tmp_path / "found", tmp_path / "evaluation"
    assert spp("detect", small_model, photographs, "--out", out, "--min-score", "-1.5")[0] == 0
    options = ("--split", "test", "--out")
    assert spp("evaluate", small_model, small_voc, *options, evaluation)[0] == 0
    expected = json.loads((evaluation / "metrics.json").read_text())
    coco = photographs / "set.json"
    coco.write_text(json.dumps(_make_coco(open_dataset(small_voc, "test"))))
    for i, data in enumerate((small_voc, coco)):
        scored = tmp_path / f"scored{i}"
        assert spp("score", out / "detections.json", data, *options, scored)[0] == 0
        metrics = json.loads((scored / "metrics.json").read_text())
        assert metrics["ap"] == pytest.approx(expected["ap"], abs=0.002)
        assert metrics["mAP"] > 0.03
    results = json.loads((out / "detections.json").read_text())
    bare = [{k: v for k, v in one.items() if k != "category"} for one in results]
    (tmp_path / "bare.json").write_text(json.dumps(bare))
    line = error_line(spp("score", tmp_path / "bare.json", small_voc, "--split", "test"))
    assert "bare.json: entry 0" in line and "category" in line


def _make_coco(dataset):
    """As COCO json, its classes in another order and with ids of their own."""
    ids = {c: 90 - 7 * c for c in range(len(dataset.classes))}
    annotations = [
        {"image_id": i, "category_id": ids[c], "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": crowd}
        for i, p in enumerate(dataset)
        for c, (x1, y1, x2, y2), crowd in zip(
            p.labels.classes.tolist(),
            p.labels.boxes.tolist(),
            p.labels.difficult.astype(int).tolist(),
            strict=True,
        )
    ]
    return {
        "images": [{"id": i, "file_name": p.path.name} for i, p in enumerate(dataset)],
        "annotations": annotations,
        "categories": [{"id": ids[c], "name": name} for c, name in enumerate(dataset.classes)],
    }


def test_every_photograph_is_accounted_for(spp, small_model, photos, tmp_path):
    (photos / "bad.jpg").write_bytes(b"no photograph")
    (photos / "notes.TXT").touch()
    (photos / "more.heic").touch()
    out = tmp_path / "out"
    status, told, errors = spp("detect", small_model, photos, "--out", out, "--min-score", "9")
    assert status == 2
    assert told.strip() == (
        f"4 photographs: 0 with 0 detections, 3 without, 1 failed; {out / 'index.html'}"
    )
    assert "passed over 2 files by their suffix: 1 .heic, 1 .txt" in errors.replace(
        "1 .txt, 1 .heic", "1 .heic, 1 .txt"
    )
    with (out / "photographs.csv").open(newline="") as file:
        rows = {row["photograph"]: row for row in csv.DictReader(file)}
    names = {"photo 0.jpg", "deeper/photo 1.jpg", "deeper/photo 2.jpg", "bad.jpg"}
    assert rows.keys() == names
    assert [name for name, row in rows.items() if row["error"]] == ["bad.jpg"]
    assert {row["detections"] for row in rows.values()} == {"0"}


def test_any_file_name_is_detected_in(spp, small_model, photos, tmp_path):
    photo = (photos / "photo 0.jpg").read_bytes()
    shutil.rmtree(photos / "deeper")
    long = ["a" * 240 + ".jpg", "a" * 239 + "b.jpg", "ä" * 122 + ".jpg"]
    names = [b"\xff\xfe.jpg", b"new\nline.jpg", b"<img onerror=x>.jpg", *map(os.fsencode, long)]
    deep = photos / ("long." + "c" * 240)
    deep.mkdir()
    (deep / "x.jpg").write_bytes(photo)
    for name in names:
        Path(os.fsdecode(os.fsencode(photos) + b"/" + name)).write_bytes(photo)
    out = tmp_path / "out"
    status, told, _ = spp("detect", small_model, photos, "--out", out, "--min-score", "-2")
    assert status == 0
    assert told.startswith("8 photographs: 8 with")
    views = out / "views"
    assert len([*views.glob("long.c*/x.jpg.jpg")]) == 1
    saved = sorted(path.name for path in views.iterdir() if path.is_file())
    assert len(saved) == 7 and "<img onerror=x>.jpg.jpg" in saved
    found = {one["image_id"] for one in json.loads((out / "detections.json").read_text())}
    assert found == {
        "photo 0.jpg",
        "\\xff\\xfe.jpg",
        "new\nline.jpg",
        "<img onerror=x>.jpg",
        f"{deep.name}/x.jpg",
        *long,
    }
    assert "<img onerror" not in (out / "index.html").read_text()
    shown = read_page(out)["photographs"]
    assert {one["name"] for one in shown} == found
    for one in shown:
        for address in (one["thumbnail"], one["view"], one["original"]):
            assert Path(os.fsdecode(os.fsencode(out) + b"/" + unquote_to_bytes(address))).is_file()


def test_results_are_not_mixed_with_other_files(spp, small_model, photos, tmp_path):
    theirs = tmp_path / "site"
    theirs.mkdir()
    (theirs / "index.html").write_text("<title>mine</title>")
    for folder in (theirs, photos):
        line = error_line(spp("detect", small_model, photos, "--out", folder))
        assert str(folder) in line and "other files" in line
    assert (theirs / "index.html").read_text() == "<title>mine</title>"
    assert [path.name for path in theirs.iterdir()] == ["index.html"]


def test_results_among_the_photographs_are_not_detected_in(spp, small_model, photos):
    for out in (photos / "found", photos / "found", photos / "again"):
        status, told, errors = spp("detect", small_model, photos, "--out", out)
        assert status == 0 and told.startswith("3 photographs")
    assert "passed over 6 photographs in folders of results" in errors
    assert "by their suffix" not in errors
    (photos / "deeper" / "photo 1.jpg").unlink()
    assert spp("detect", small_model, photos, "--out", out)[0] == 0
    for folder in ("views", "thumbnails"):
        left = {path.name for path in out.glob(f"{folder}/**/*.jpg")}
        assert left == {"photo 0.jpg.jpg", "photo 2.jpg.jpg"}, "a stale picture stayed"


@pytest.mark.parametrize("score", ["nan", "inf", "-inf", "x"])
def test_least_score_is_a_finite_number(spp, small_model, photos, tmp_path, score):
    status, _, errors = spp(
        "detect", small_model, photos, "--out", tmp_path / "o", f"--min-score={score}"
    )
    assert status == 2
    assert "--min-score" in errors


def test_detect_takes_one_photograph(spp, small_model, photos, tmp_path):
    status, _, _ = spp("detect", small_model, photos / "photo 0.jpg", "--out", tmp_path / "o")
    assert status == 0
    assert (tmp_path / "o" / "views" / "photo 0.jpg.jpg").is_file()


def test_proposals_of_a_folder_and_of_a_labelled_set(spp, small_voc, photos, tmp_path):
    assert spp("proposals", photos, "--out", tmp_path / "a.npz")[0] == 0
    boxes = load_boxes(tmp_path / "a.npz")
    assert list(boxes.names) == ["deeper/photo 1.jpg", "deeper/photo 2.jpg", "photo 0.jpg"]
    status, table, _ = spp("proposals", small_voc, "--out", tmp_path / "b.npz", "--split", "test")
    assert status == 0
    assert "IoU 0.5" in table
    assert len(load_boxes(tmp_path / "b.npz").names) == 6


def test_recall_goes_beside_the_windows_and_over_no_labels(spp, small_voc, tmp_path):
    for photograph in open_dataset(small_voc, "test"):
        shutil.copy(photograph.path, tmp_path)
    labels = tmp_path / "pets.json"
    labels.write_text(json.dumps(_make_coco(open_dataset(small_voc, "test"))))
    before = labels.read_bytes()
    assert spp("proposals", labels, "--out", tmp_path / "pets.npz")[0] == 0
    assert labels.read_bytes() == before
    assert json.loads((tmp_path / "pets.recall.json").read_text())["photographs"] == 6


def test_what_cannot_be_saved_is_told_before_windows_are_sought(spp, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("spp_detect.folders.prepare_photos", lambda *_: pytest.fail("sought"))
    line = error_line(spp("proposals", photos, "--out", tmp_path / "a.txt"))
    assert "a.txt: expected a name that ends in .npz" in line


def test_a_model_is_not_written_over_by_results(spp, small_model, small_voc, tmp_path):
    for words in (("evaluate", small_model), ("score", tmp_path / "any.json")):
        before = (small_model / "config.json").read_bytes()
        status, _, errors = spp(*words, small_voc, "--out", small_model)
        assert status == 2
        assert "holds a model (config.json); expected another folder" in errors
        assert (small_model / "config.json").read_bytes() == before


def test_lines_of_json_go_with_nothing_else(spp, small_model, photos):
    for words in (("--also", "voc"), ("--resume",), ("--every", "2")):
        status, _, errors = spp("detect", small_model, photos, "--out", "-", *words)
        assert status == 2
        assert "--also, --every, --resume: expected none with --out -" in errors


def test_detections_of_other_classes_are_left_out(spp, small_voc, tmp_path):
    (first, *_) = open_dataset(small_voc, "test")
    box = {"bbox": [5, 5, 20, 20], "score": 0.5, "category_id": 1}
    known = open_dataset(small_voc, "test").classes[0]
    found = [box | {"image_id": first.path.name, "category": name} for name in (known, "zebra")]
    (tmp_path / "found.json").write_text(json.dumps(found))
    status, _, errors = spp("score", tmp_path / "found.json", small_voc)
    assert status == 0
    assert "detections of classes that are not in the set: 1 zebra" in errors


def test_names_with_spaces_are_measured_and_scored(spp, small_model, small_voc, tmp_path):
    """As VOC's files of results have them: %20."""
    for i, photograph in enumerate(list(open_dataset(small_voc, "test"))[:3]):
        shutil.copy(photograph.path, tmp_path / f"IMG {i}{photograph.path.suffix}")
        shutil.copy(small_voc / "Annotations" / f"{photograph.name}.xml", tmp_path / f"IMG {i}.xml")
    out = tmp_path / "out"
    assert spp("evaluate", small_model, tmp_path, "--split", "all", "--out", out)[0] == 0
    assert any("IMG%200 " in path.read_text() for path in out.glob("comp4_*.txt"))
    scored = tmp_path / "scored"
    assert spp("score", out, tmp_path, "--split", "all", "--out", scored)[0] == 0
    one, other = (json.loads((p / "metrics.json").read_text()) for p in (out, scored))
    assert other["coco"]["AR100"] == pytest.approx(one["coco"]["AR100"])
    assert other["ap"] == pytest.approx({name: one["ap"][name] for name in other["ap"]})


def test_windows_from_a_file_train_the_same_model(spp, small_voc, tmp_path):
    options = ("--backbone", "small5", "--weights", "none", "--scales", "160")
    boxes = tmp_path / "boxes.npz"
    assert spp("proposals", small_voc, "--out", boxes, "--split", "trainval")[0] == 0
    assert spp("train", small_voc, "--out", tmp_path / "a", *options)[0] == 0
    assert spp("train", small_voc, "--out", tmp_path / "b", *options, "--boxes", boxes)[0] == 0
    models = [(tmp_path / run / "model.safetensors").read_bytes() for run in "ab"]
    assert models[0] == models[1]
    line = error_line(spp("evaluate", tmp_path / "a", small_voc, "--boxes", boxes))
    assert "no boxes for photograph" in line


SMALL = ("--backbone", "small5", "--weights", "none", "--scales", "160", "--max-windows", "60")


def test_any_constant_can_be_set(spp, small_voc, tmp_path):
    """By a file, by --set, by an option; each goes before the one before it."""
    path = tmp_path / "some.json"
    path.write_text(
        '{"preset": "release", "svm_c": 0.5, "regression_lambda": 7, "nms_iou": 0.4, "scales": [9]}'
    )
    sets = ("--set", "svm_c=0.25", "--set", "nms_iou=0.35", "--set", "max_windows=50")
    sets += ("--set", "finetune_iterations=0", "--set", "feature=pool5")
    options = ("--preset", "paper", "--config", path, *sets, *SMALL)
    assert spp("train", small_voc, "--out", tmp_path / "run", *options)[0] == 0
    text = json.loads((tmp_path / "run" / "config.json").read_text())
    model, training = text["config"], text["training"]
    assert (training["regression_lambda"], training["svm_c"]) == (7.0, 0.25)
    assert (model["nms_iou"], model["max_windows"], model["scales"]) == (0.35, 60, [160])
    assert (model["preset"], model["projection"]) == ("paper", "paper")
    assert training["mirror_positives"] is False  # the preset's

    # A model's own file makes another like it.
    again = ("--config", tmp_path / "run" / "config.json", "--weights", "none")
    assert spp("train", small_voc, "--out", tmp_path / "again", *again)[0] == 0
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--set", "svm_c"), "'svm_c': expected key=value"),
        (("--set", "svm_d=1"), "'svm_d=1': expected key=value"),
        (("--set", "svm_c=low"), "svm_c 'low': expected float"),
        (("--set", "svm_c=-1"), "svm_c -1.0: expected"),
        (("--set", "preset=mine"), "preset 'mine': expected one of"),
        (("--set", "fc_rank=3"), "fc_rank 3: expected 0"),
        (("--scales", "160;200"), "--scales 160;200: expected numbers"),
    ],
)
def test_constants_that_cannot_be_set(spp, small_voc, tmp_path, options, words):
    run = ("train", small_voc, "--out", tmp_path / "run", "--backbone", "small5")
    assert words in error_line(spp(*run, "--weights", "none", *options))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "expected a json of keys and values"),
        ("[]", "expected a json of keys and values"),
        ('{"speed": 1}', "unknown key 'speed'"),
        ('{"svm_c": "low"}', "svm_c 'low': expected float"),
        (None, "some.json"),
    ],
)
def test_a_file_of_constants_that_cannot_be_read(spp, small_voc, tmp_path, content, words):
    path = tmp_path / "some.json"
    if content is not None:
        path.write_text(content)
    run = ("train", small_voc, "--out", tmp_path / "run", "--backbone", "small5")
    assert words in error_line(spp(*run, "--weights", "none", "--config", path))
    assert not (tmp_path / "run").exists()


def spoil_photograph(voc, content):
    name = (voc / "ImageSets" / "Main" / "trainval.txt").read_text().split()[0]
    path = voc / "JPEGImages" / f"{name}.jpg"
    path.write_bytes(content(path.read_bytes()))
    return path


def spoil_annotation(voc, change):
    name = (voc / "ImageSets" / "Main" / "trainval.txt").read_text().split()[0]
    path = voc / "Annotations" / f"{name}.xml"
    path.write_text(change(path.read_text()))
    return path


BOMB = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "boom">]><annotation>&b;</annotation>'


def box_of(text, **corners):
    """The annotation with the first object's box replaced."""
    body = "".join(f"<{name}>{value}</{name}>" for name, value in corners.items())
    before, _, rest = text.partition("<bndbox>")
    return f"{before}<bndbox>{body}</bndbox>{rest.partition('</bndbox>')[2]}"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda v: spoil_photograph(v, lambda b: b[: len(b) // 2]),
        lambda v: spoil_photograph(v, lambda b: b""),
        lambda v: spoil_photograph(v, lambda b: b"this is no picture"),
        lambda v: spoil_annotation(v, lambda t: BOMB),
        lambda v: spoil_annotation(v, lambda t: t[: len(t) // 2]),
        lambda v: spoil_annotation(v, lambda t: box_of(t, xmin=5, ymin=5, xmax=9999, ymax=50)),
        lambda v: spoil_annotation(v, lambda t: box_of(t, xmin=50, ymin=5, xmax=20, ymax=50)),
        lambda v: spoil_annotation(v, lambda t: box_of(t, xmin=20, ymin=5, xmax=20, ymax=5)),
    ],
)
def test_train_names_the_spoilt_file_before_it_begins(spp, voc, tmp_path, spoil):
    path = spoil(voc)
    out = tmp_path / "run"
    options = ("--backbone", "small5", "--weights", "none", "--strict")
    assert str(path) in error_line(spp("train", voc, "--out", out, *options))
    assert not out.exists()


def test_wide_photograph_is_refused_until_the_limit_is_raised(spp, small_model, tmp_path, photos):
    wide = photos / "wide.png"
    Image.fromarray(np.zeros((8, 30_000), np.uint8)).save(wide)
    status, _, errors = spp("detect", small_model, wide, "--out", tmp_path / "o")
    assert status == 2
    assert str(wide) in errors
    assert "--max-side" in errors
    status, _, _ = spp("detect", small_model, wide, "--out", tmp_path / "o", "--max-side", "30000")
    assert status == 0


def test_missing_and_empty_folders(spp, small_model, small_voc, tmp_path):
    absent, empty = tmp_path / "absent", tmp_path / "empty"
    empty.mkdir()
    for folder in (absent, empty):
        assert str(folder) in error_line(
            spp("detect", small_model, folder, "--out", tmp_path / "o")
        )
        assert str(folder) in error_line(spp("train", folder, "--out", tmp_path / "r"))
        assert str(folder) in error_line(spp("evaluate", folder, small_voc))
        assert str(folder) in error_line(spp("score", folder, small_voc))
        assert str(folder) in error_line(spp("proposals", folder, "--out", tmp_path / "b.npz"))


def test_missing_split_and_missing_photograph(spp, voc, tmp_path):
    options = ("--out", tmp_path / "r", "--backbone", "small5", "--weights", "none")
    assert "nosplit" in error_line(spp("train", voc, "--split", "nosplit", *options))
    with (voc / "ImageSets" / "Main" / "trainval.txt").open("a") as file:
        file.write("not_there\n")
    assert "not_there" in error_line(spp("train", voc, "--strict", *options))


def test_classes_are_selected(spp, small_voc, tmp_path):
    options = ("--backbone", "small5", "--weights", "none", "--scales", "160")
    out = tmp_path / "r"
    status, _, errors = spp("train", small_voc, "--out", out, "--classes", "ring,disc", *options)
    assert status == 0
    assert json.loads((out / "config.json").read_text())["classes"] == ["ring", "disc"]
    assert "objects of other classes left out: " in errors and " star" in errors
    again = tmp_path / "again"
    assert spp("evaluate", out, small_voc, "--split", "test", "--out", again)[0] == 0
    assert set(json.loads((again / "metrics.json").read_text())["ap"]) == {"ring", "disc"}


def test_a_class_without_positives(spp, voc, tmp_path):
    options = ("--backbone", "small5", "--weights", "none", "--scales", "160")
    everything = "cross,disc,ring,star,triangle,unicorn"
    out = tmp_path / "r"
    line = error_line(spp("train", voc, "--out", out, "--classes", everything, *options))
    assert "unicorn" in line and "trainval" in line
    line = error_line(spp("train", voc, "--out", out, "--classes", "gnu,unicorn", *options))
    assert "none of the classes gnu, unicorn" in line
    for path in (voc / "Annotations").glob("*.xml"):
        parts = path.read_text().split("<object>")
        star = "<name>star</name>"
        marked = [p.replace("<difficult>0", "<difficult>1") if star in p else p for p in parts]
        text = "<object>".join(marked)
        path.write_text(text)
    line = error_line(spp("train", voc, "--out", out, "--strict", *options))
    assert "'star'" in line
    assert not out.exists()
    status, _, errors = spp("train", voc, "--out", out, *options)
    assert status == 0
    assert "left out, as no box of theirs can be learnt from: star" in errors
    classes = json.loads((out / "config.json").read_text())["classes"]
    assert classes == ["cross", "disc", "ring", "triangle"]


def test_inspect_tells_all_that_is_wrong(spp, voc):
    status, out, errors = spp("inspect", voc)
    assert (status, errors) == (0, "") and out.endswith(": nothing wrong\n")
    dataset = open_dataset(voc, "test")
    boxes = sum(len(photograph.labels) for photograph in dataset)
    assert f"test, {len(dataset)} photographs" in out and "trainval" not in out
    rows = [line.split("│") for line in out[out.index(": test") :].splitlines() if "│" in line]
    counted = sum(int(row[2]) for row in rows if row[2].strip().isdigit())
    table = rows[: len(dataset.classes)]
    assert sum(int(row[2]) for row in table) == boxes <= counted
    first, second = (photograph.name for photograph in dataset.photographs[:2])
    (voc / "JPEGImages" / f"{first}.jpg").write_bytes(b"no photograph")
    path = voc / "Annotations" / f"{second}.xml"
    path.write_text(path.read_text().replace("<xmin>", "<xmin>-9", 1))
    main = voc / "ImageSets" / "Main"
    with (main / "train.txt").open("a") as file:
        file.write(f"{second}\n")
    status, out, _ = spp("inspect", voc)
    assert status == 2
    assert f"{first}.jpg" in out and "photograph left out" in out
    assert f"{path}: box of" in out and "box clipped to its photograph" in out
    assert f"1 photographs in test and train: {second}" in out
    assert out.splitlines()[-1].count(" x ") == 2
    assert spp("inspect", voc, "--split", "val")[0] == 0
    for name in ("test", "val"):
        (main / f"{name}.txt").unlink()
    (main / "trainval.txt").write_text((main / "train.txt").read_text())
    assert "photographs in train" not in spp("inspect", voc)[1]
    for path in main.iterdir():
        path.unlink()
    assert "has no split" in error_line(spp("inspect", voc))


def test_proposals_tell_photographs_that_are_lost(spp, voc, tmp_path):
    names = (voc / "ImageSets" / "Main" / "test.txt").read_text().split()
    (voc / "JPEGImages" / f"{names[0]}.jpg").unlink()
    boxes = tmp_path / "boxes.npz"
    status, _, errors = spp("proposals", voc, "--split", "test", "--out", boxes)
    assert status == 2 and f"skipped: {voc / 'JPEGImages' / names[0]}.jpg" in errors
    assert len(list(load_boxes(boxes))) == len(names) - 1


def test_faults_are_summed_up_in_training(spp, voc, tmp_path):
    names = (voc / "ImageSets" / "Main" / "trainval.txt").read_text().split()
    path = voc / "Annotations" / f"{names[0]}.xml"
    path.write_text(path.read_text().replace("<xmin>", "<xmin>-9", 1))
    (voc / "JPEGImages" / f"{names[1]}.jpg").write_bytes(b"no photograph")
    options = ("--backbone", "small5", "--weights", "none", "--scales", "160")
    status, out, errors = spp("train", voc, "--out", tmp_path / "r", *options)
    assert status == 0 and f"trained on {len(names) - 1} photographs" in out
    (line,) = [line for line in errors.splitlines() if "fault" in line]
    assert "2 faults: 1 x box clipped to its photograph, 1 x photograph left out" in line
    assert "; the first: " in line and "`spp-detect inspect` lists all" in line


def test_a_set_without_splits_is_parted(spp, voc, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for folder in ("JPEGImages", "Annotations"):
        for path in (voc / folder).iterdir():
            shutil.copy(path, flat)
    every = {path.stem for path in flat.glob("*.xml")}
    options = ("--backbone", "small5", "--weights", "none", "--scales", "160")
    run_folder = tmp_path / "r"
    status, _, errors = spp("train", flat, "--out", run_folder, *options)
    assert status == 0
    held = json.loads((run_folder / "split.json").read_text())
    test = {name.partition(".")[0] for name, _ in held}
    learnt = json.loads((run_folder / "photographs.json").read_text())
    train = {name.partition(".")[0] for name, _ in learnt}
    assert train | test == every and not train & test and 0.1 < len(test) / len(every) < 0.3
    parts = {"train": train, "test": test}
    told = f"{len(parts['train'])} photographs to train on, {len(parts['test'])} held out"
    assert "has no splits: " + told in errors
    status, out, errors = spp("evaluate", run_folder, flat, "--out", tmp_path / "e")
    assert status == 0 and " on test: " in " ".join(out.split()) and "trained on" not in errors
    numbers = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert numbers["photographs"] == len(parts["test"]) and numbers["seen_in_training"] == 0
    status, out, errors = spp(
        "evaluate", run_folder, flat, "--split", "all", "--out", tmp_path / "all"
    )
    assert " on all: " in " ".join(out.split())
    assert f"{len(parts['train'])} of the {len(every)} photographs were trained on" in errors
    status, _, errors = spp("train", flat, "--out", tmp_path / "w", "--split", "all", *options)
    assert "held out" not in errors and not (tmp_path / "w" / "split.json").exists()
    # A split that is asked for by mistake changes nothing.
    wrong = ("--resume", "--split", "trainval")
    assert spp("train", flat, "--out", tmp_path / "w", *wrong)[0] == 2
    assert not (tmp_path / "w" / "split.json").exists()
    # What is made of the model knows both; another folder of like names is another set.
    name = json.loads((run_folder / "config.json").read_text())["classes"][0]
    less = ("--class", name, "--out", tmp_path / "less")
    assert spp("remove-class", run_folder, *less)[0] == 0
    status, _, errors = spp("evaluate", tmp_path / "less", flat)
    assert status == 0 and f"the {len(test)} of {len(every)} photographs that were held" in errors
    assert "trained on" not in errors
    for path in flat.glob("*.jpg"):
        with Image.open(path) as photo:
            photo.resize(photo.size).save(path, quality=40)
    status, out, errors = spp("evaluate", run_folder, flat)
    assert status == 0 and " on all: " in " ".join(out.split()) and "held out" not in errors


def test_photographs_seen_in_training_are_told_whatever_the_format(
    spp, small_model, small_voc, tmp_path
):
    files = json.loads((small_model / "photographs.json").read_text())
    coco = tmp_path / "labels.json"
    seen = [name for name, _ in files[:2]]
    for name in seen:
        shutil.copy(small_voc / "JPEGImages" / name, tmp_path)
    Image.new("RGB", (60, 60)).save(tmp_path / "new.jpg")
    box = {"category_id": 1, "bbox": [5, 5, 20, 20]}
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate([*seen, "new.jpg"])],
        "annotations": [{"id": i, "image_id": i, **box} for i in range(3)],
        "categories": [{"id": 1, "name": "disc"}],
    }
    coco.write_text(json.dumps(content))
    _, _, errors = spp("evaluate", small_model, coco)
    assert "2 of the 3 photographs were trained on" in errors


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["detect", "--help"], ["train"]])
def test_help_and_wrong_usage_do_without_torch(arguments):
    code = (
        "import sys\n"
        "from spp_detect import cli\n"
        "sys.argv = ['spp-detect', *sys.argv[1:]]\n"
        "try:\n    cli.main()\n"
        "finally:\n"
        "    print([name for name in ('torch', 'numba', 'matplotlib') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == (2 if arguments == ["train"] else 0)
    assert done.stdout.splitlines()[-1] == "[]"


def test_detection_does_without_what_training_and_figures_need(small_model, photos):
    """They take as long to import as torch, each time that a process is started."""
    code = (
        "import sys\n"
        "from spp_detect import cli\n"
        "sys.argv = ['spp-detect', 'detect', *sys.argv[1:], '--out', '-']\n"
        "try:\n    cli.main()\n"
        "finally:\n"
        "    print([name for name in ('sklearn', 'matplotlib', 'pandas') if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", code, str(small_model), str(photos)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_weights_of_another_trunk(spp, voc, tmp_path, shared_weights):
    path = shared_weights / "squeezenet1_1.safetensors"
    line = error_line(
        spp("train", voc, "--out", tmp_path / "r", "--backbone", "resnet18", "--weights", path)
    )
    assert str(path) in line
    assert "resnet18" in line


def test_full_disk_is_one_line_and_keeps_what_was_there(
    spp, monkeypatch, small_model, photos, tmp_path
):
    out = tmp_path / "out"
    assert spp("detect", small_model, photos, "--out", out)[0] == 0
    before = (out / "detections.json").read_bytes()

    def fail(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.Path, "write_text", fail)
    line = error_line(spp("detect", small_model, photos, "--out", out, "--min-score", "-3"))
    assert "No space left on device" in line
    assert str(tmp_path / "out") in line
    assert (out / "detections.json").read_bytes() == before
    assert [path.name for path in out.glob(".*")] == [".lock"]


@pytest.mark.parametrize("command", ["train", "detect"])
def test_an_interrupted_command_says_how_to_go_on(
    spp, monkeypatch, small_model, small_voc, photos, tmp_path, command
):
    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    out = tmp_path / "out"
    if command == "train":
        monkeypatch.setattr(MeasureScales, "run", interrupt)
        options = ("--backbone", "small5", "--weights", "none", "--scales", "160")
        status, _, errors = spp("train", small_voc, "--out", out, *options)
        told = f"spp-detect: stopped; go on with --out {out} --resume"
    else:
        monkeypatch.setattr(Detector, "begin", interrupt)
        status, _, errors = spp("detect", small_model, photos, "--out", out)
        found = f"what was found so far is in {out / 'index.html'}"
        told = f"spp-detect: stopped; {found}; go on with --resume"
        assert json.loads((out / "detections.json").read_text()) == []
    assert status == 130
    assert errors.strip().splitlines()[-1] == told
    assert "Traceback" not in errors
    monkeypatch.undo()
    if command == "train":
        assert spp("train", small_voc, "--out", out, "--resume")[0] == 0


def test_debug_shows_the_traceback(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(
        sys, "argv", ["spp-detect", "detect", str(tmp_path), "x", "--out", "o", "--debug"]
    )
    with pytest.raises(ValueError, match=r"config\.json"):
        cli.main()


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "x", "--out", "y", "--backbone", "lenet"),
        ("detect", "x"),
        ("nonsense",),
        ("train", "x", "--out", "y", "--seed", "-1"),
    ],
)
def test_wrong_usage_is_status_2(spp, arguments):
    status, _, errors = spp(*arguments)
    assert status == 2
    assert "Error" in errors


def test_a_packed_model_detects_with_weights_from_a_file(spp, small_model, photos, tmp_path):
    weights, model = tmp_path / "public.safetensors", tmp_path / "run"
    shutil.copytree(small_model, model)
    tensors = load_file(model / "model.safetensors")
    trunk = {
        name.removeprefix("trunk."): tensor.contiguous()
        for name, tensor in tensors.items()
        if name.startswith("trunk.")
    }
    save_file(trunk, weights)
    text = json.loads((model / "config.json").read_text())
    text["config"]["weights"] = weights.name
    (model / "config.json").write_text(json.dumps(text))

    packed = tmp_path / "packed"
    status, said, _ = spp("pack", model, "--out", packed)
    assert status == 0 and "MB" in said
    assert spp("pack", model, "--out", packed)[0] == 2  # it stands already
    out = tmp_path / "found"
    assert spp("detect", packed, photos, "--weights", weights, "--out", out)[0] == 0
    assert len(json.loads((out / "detections.json").read_text())) > 0
    assert "torchvision has none" in error_line(spp("detect", packed, photos, "--out", out))
    absent = tmp_path / "absent.pth"
    line = error_line(spp("detect", packed, photos, "--weights", absent, "--out", out))
    assert str(absent) in line


def test_no_model_is_told(spp, photos, tmp_path):
    status, _, errors = spp("detect", photos, "--out", tmp_path / "found")
    assert status == 2 and "--model NAME" in errors


def test_ready_models_are_listed(spp, monkeypatch, tmp_path):
    folder = tmp_path / "animals"
    folder.mkdir()
    text = {"classes": ["cat", "dog"], "config": {"backbone": "resnet18"}}
    (folder / "config.json").write_text(json.dumps(text))
    measured = {"mAP": 0.543, "photographs": 200, "split": "test", "seconds": 50.0}
    (folder / "metrics.json").write_text(json.dumps(measured))
    monkeypatch.setattr(ready_models, "FOLDER", tmp_path / "none")
    assert spp("models")[:2] == (0, "none come with this version: train one\n")
    monkeypatch.setattr(ready_models, "FOLDER", tmp_path)
    status, table, _ = spp("models")
    assert status == 0
    for cell in ("animals", "resnet18", "2", "54.3", "200 of test", "0.25"):
        assert cell in table


def rename_photographs(voc, prefix):
    """Give every photograph of a VOC folder a name of its own year."""
    for folder in ("JPEGImages", "Annotations"):
        for path in (voc / folder).iterdir():
            path.rename(path.with_name(prefix + path.name))
    for path in (voc / "ImageSets" / "Main").iterdir():
        lines = path.read_text().splitlines()
        path.write_text("".join(f"{prefix}{line}\n" for line in lines))


def test_two_sets_are_joined(spp, small_voc, voc, tmp_path):
    options = ("--backbone", "small5", "--weights", "none", "--scales", "160", "--split", "train")
    both = (small_voc, voc, "--out", tmp_path / "run", *options)
    line = error_line(spp("train", *both))
    assert str(voc) in line and str(small_voc) in line and "same name" in line
    rename_photographs(voc, "2012_")
    status, said, _ = spp("train", *both)
    assert status == 0 and "trained on 28 photographs" in said


def test_constants_of_test_time_are_set_and_recorded(spp, small_model, small_voc, tmp_path):
    out = tmp_path / "test"
    data = (small_model, small_voc, "--split", "test", "--out", out)
    changes = ("--set", "passes=1", "--set", "vote_iou=none")
    assert spp("evaluate", *data, *changes)[0] == 0
    numbers = json.loads((out / "metrics.json").read_text())
    assert numbers["changed"] == {"passes": 1, "vote_iou": None}
    assert (numbers["passes"], numbers["voting"], numbers["support"]) == (1, False, 0)
    line = error_line(spp("evaluate", *data, "--set", "scales=160"))
    assert "scales: expected a constant of test time" in line
