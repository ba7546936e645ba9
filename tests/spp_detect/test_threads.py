"""How many threads compute, by made-up control groups and for real."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numba
import pytest
import torch
from threadpoolctl import threadpool_info

from spp_detect import cli
from spp_detect.prefetch import prepare_photos
from spp_detect.threads import count_cores, get_threads, set_numba_threads, set_threads

HOME = Path(__file__).resolve().parents[2]
LIBRARIES = ("GOMP_", "MKL_", "NUMBA_", "OMP_", "OPENBLAS_")  # variables of theirs


@pytest.fixture(autouse=True)
def same_threads_afterwards():
    before = torch.get_num_threads()
    yield
    set_threads(before)


@pytest.fixture()
def sixteen_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))


def make_system(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A made-up `/proc/self/cgroup` and files below `/sys/fs/cgroup`."""
    texts = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in {"proc/self/cgroup": groups, **texts}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def v1(folder: str, quota: int, period: int) -> dict[str, str]:
    return {
        f"{folder}/cpu.cfs_quota_us": f"{quota}\n",
        f"{folder}/cpu.cfs_period_us": f"{period}\n",
    }


V1 = "9:memory:/a\n4:cpu,cpuacct:/docker/1234\n0::/\n"


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),  # one and a half
        ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "3200000 100000\n"}, 16),  # more than there are
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "nonsense\n"}, 16),
        ("0::/\n", {"cpu.max": "100000 0\n"}, 16),
        ("0::/\n", {}, 16),
        # The least of all groups around the process.
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "700000 100000"}, 4),
        ("0::/a\n", {"other/cpu.max": "100000 100000"}, 16),
        # In a container: the path is the machine's, the mount the container's.
        ("0::/machine/docker/77\n", {"cpu.max": "500000 100000"}, 5),
        (V1, v1("cpu", 250_000, 100_000), 3),
        (V1, v1("cpu,cpuacct/docker/1234", 50_000, 25_000), 2),
        (V1, v1("cpu", -1, 100_000), 16),
        ("2:cpuset:/\n", v1("cpu", 100_000, 100_000), 16),
    ],
)
def test_quotas(tmp_path, sixteen_cores, groups, files, cores):
    assert count_cores(make_system(tmp_path, groups, files)) == cores


def test_no_control_groups_at_all(tmp_path, sixteen_cores, monkeypatch):
    assert count_cores(tmp_path) == 16
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert count_cores(tmp_path) == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert count_cores(tmp_path) == 1


def run_python(code: str, **env: str) -> str:
    """What code prints in a fresh interpreter, to which nobody has said how threads are to be."""
    outside = {k: v for k, v in os.environ.items() if not k.startswith(LIBRARIES)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=HOME,
        env=outside | env,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux alone has affinity")
def test_affinity():
    code = """
import os
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
from spp_detect.threads import count_cores
print(count_cores())
"""
    assert run_python(code) == "1"


def test_threads_are_set_everywhere():
    for count in (1, 2):
        set_threads(count)
        assert torch.get_num_threads() == count
        assert cv2.getNumThreads() == count
        assert numba.get_num_threads() == min(count, numba.config.NUMBA_NUM_THREADS)
        pools = threadpool_info()
        assert {pool["user_api"] for pool in pools} >= {"blas", "openmp"}
        assert {pool["num_threads"] for pool in pools} == {count}


def test_more_threads_than_numba_has():
    set_threads(numba.config.NUMBA_NUM_THREADS + 3)
    assert torch.get_num_threads() == numba.config.NUMBA_NUM_THREADS + 3
    assert numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS
    torch.set_num_threads(1)
    set_numba_threads()
    assert numba.get_num_threads() == 1


def test_the_default_is_bounded_by_cores_and_by_what_torch_was_told(sixteen_cores, monkeypatch):
    torch.set_num_threads(3)
    monkeypatch.setattr("spp_detect.threads.count_cores", lambda: 16)
    set_threads()
    assert torch.get_num_threads() == 3
    monkeypatch.setattr("spp_detect.threads.count_cores", lambda: 2)
    assert get_threads() == 2
    set_threads()
    assert torch.get_num_threads() == 2


def test_omp_num_threads_counts():
    code = "from spp_detect.threads import get_threads; print(get_threads())"
    assert run_python(code, OMP_NUM_THREADS="1") == "1"


@pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="Linux alone shows threads' states"
)
def test_threads_without_work_sleep():
    """A thread that waits in a loop can run, state R, even while others have the core."""
    code = """
import os, time
from pathlib import Path
import spp_detect
import numpy, torch
from spp_detect.kernels.norm import normalise_within_channel

def count_others_that_run():
    states = [
        (task / "stat").read_text().rpartition(")")[2].split()[0]
        for task in Path("/proc/self/task").iterdir()
        if task.name != str(os.getpid())
    ]
    return states.count("R")

left, right = numpy.ones((400, 4000), "f"), numpy.ones((4000, 200), "f")
a, b, maps = torch.from_numpy(left), torch.from_numpy(right), torch.ones(1, 64, 40, 40)
works = [lambda: left @ right, lambda: a @ b, lambda: normalise_within_channel(maps)]
for work in works:
    work()
    time.sleep(0.5)
    seen = []
    for _ in range(5):
        work()
        for _ in range(20):
            time.sleep(0.001)
            seen.append(count_others_that_run())
    print(sum(n > 0 for n in seen))
"""
    each = [int(line) for line in run_python(code).splitlines()]
    assert len(each) == 3
    assert max(each) < 20, each  # of 100 looks; all of them after NumPy's products otherwise


def test_photographs_are_prepared_by_so_many(small_set, monkeypatch):
    counts = []

    def note(count):
        counts.append(count)
        raise KeyboardInterrupt

    monkeypatch.setattr("spp_detect.prefetch.ThreadPoolExecutor", note)
    monkeypatch.setattr("spp_detect.threads.count_cores", lambda: 7)
    torch.set_num_threads(5)
    with pytest.raises(KeyboardInterrupt):
        next(prepare_photos([small_set.photographs[0].path], lambda path, photo: photo))
    assert counts == [5]


def test_the_option(tmp_path, monkeypatch, capsys):
    (tmp_path / "photos").mkdir()
    arguments = ["proposals", str(tmp_path / "photos"), "--out", str(tmp_path / "boxes.npz")]
    monkeypatch.setattr(sys, "argv", ["spp-detect", *arguments, "--threads", "1"])
    torch.set_num_threads(2)
    with pytest.raises(SystemExit):
        cli.main()
    assert "no photograph" in capsys.readouterr().err
    assert torch.get_num_threads() == 1


def test_every_command_that_computes_has_the_option():
    without = {
        name
        for name, command in cli.app.commands.items()
        if "threads" not in {parameter.name for parameter in command.params}
    }
    assert without == {"download", "models", "score"}


def test_the_start_of_numbas_threads_leaves_torchs_number_as_it_was():
    program = (
        "import torch; torch.set_num_threads(1)\n"
        "import spp_detect.threads as threads, numba\n"
        "numba.get_num_threads()\n"
        "first = torch.get_num_threads()\n"
        "threads.set_threads()\n"
        "print(first, torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["1", "1"], done.stderr
