"""Hard negative mining: its rules one by one, and its result against all negatives at once."""

from __future__ import annotations

import errno
import io
import threading
import time
import weakref

import numpy as np
import pytest
from sklearn.base import clone

from svm import HardNegativeMiner, LinearSvm, SomeRows, SvmError, examples

TIGHT = LinearSvm(c=1e-2, tolerance=1e-5)


class ScriptedSvm(LinearSvm):
    """An "SVM" whose score is the first feature: what is hard or easy can be written down."""

    def __init__(self):
        super().__init__()
        self.fits = []  # of its copies, too

    def fit(self, features, labels):
        self.fits.append((features.copy(), labels.copy()))
        self.coef_ = np.eye(1, features.shape[1], dtype=np.float32)[0]
        self.intercept_ = 0.0
        self.classes_ = np.array([-1, 1])
        return self


def scored(*scores):
    """Features whose first value is the score, the second a mark of their own."""
    return np.array([(s, 7 + i) for i, s in enumerate(scores)], np.float32)


class Bank:
    """Writes features down by their keys, and remembers what it was asked for."""

    def __init__(self, stream=()):
        self.rows, self.asked = {}, []
        for features, _, keys in stream:
            self.add(features, keys)

    def add(self, features, keys):
        self.rows.update(zip(keys.tolist(), features, strict=True))

    def __call__(self, keys, rows):
        assert (np.diff(keys) > 0).all()  # increasing, none twice
        assert rows.dtype == np.float32
        self.asked.append(keys.tolist())
        rows[:] = np.stack([self.rows[k] for k in keys.tolist()])


def scripted(classes=1, **settings):
    positives = [np.array([[5.0 + c, 5.0]], np.float32) for c in range(classes)]
    return HardNegativeMiner(positives, Bank(), ScriptedSvm(), **settings)


def every(features, classes=1):
    return np.ones((len(features), classes), bool)


def mine(miner, features, first_key, negative=None):
    keys = np.arange(first_key, first_key + len(features))
    negative = every(features, len(miner.positives)) if negative is None else negative
    miner.fetch.add(features, keys)
    return miner.mine(features, negative, keys)


def make_stream(photographs=12, windows=60, length=10, classes=3, seed=0, dtype=np.float32):
    """Photographs whose windows lie around the classes' directions; positives per class."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 3, (classes, length))
    positives = [(c + rng.normal(0, 1, (25, length))).astype(dtype) for c in centres]
    stream = []
    for p in range(photographs):
        kind = rng.integers(-1, classes, windows)
        offsets = np.where(kind[:, None] >= 0, centres[kind], 0)
        features = (offsets + rng.normal(0, 1.3, (windows, length))).astype(dtype)
        negative = kind[:, None] != np.arange(classes)
        negative &= rng.random((windows, classes)) < 0.9
        stream.append((features, negative, np.arange(windows) + 1000 * p))
    return positives, stream


def run(positives, stream, svm=TIGHT, **settings):
    miner = HardNegativeMiner(positives, Bank(stream), clone(svm), **settings)
    for photograph in stream:
        miner.mine(*photograph)
    miner.finish()
    return miner


def train_at_once(positives, stream, c, svm=TIGHT, scale=1.0):
    negatives = np.concatenate([features[negative[:, c]] for features, negative, _ in stream])
    examples = np.concatenate([positives[c], negatives]).astype(float) * scale
    labels = np.repeat([1, -1], [len(positives[c]), len(negatives)])
    return clone(svm).fit(examples, labels)


def test_the_first_photograph_gives_all_its_negatives():
    miner = scripted()
    features = scored(-9, -1.1, 0, 3, 4)
    negative = np.array([[True], [True], [True], [False], [True]])
    assert mine(miner, features, 0, negative) == [0]
    examples, labels = miner.svm.fits[0]
    np.testing.assert_array_equal(examples, np.concatenate([[[5, 5]], features[[0, 1, 2, 4]]]))
    assert labels.tolist() == [1, -1, -1, -1, -1]
    # Trained on all four; the one that then scored -9 is dropped.
    assert miner.held == [3]


def test_later_only_scores_above_minus_1():
    miner = scripted()
    mine(miner, scored(0.0), 0)
    above = np.nextafter(np.float32(-1), np.float32(0))
    assert mine(miner, scored(-1.0, above, -1.1, -5, 2), 10) == []
    assert miner.held == [3]
    assert miner.state().keys.tolist() == [0, 11, 14]
    assert miner.state().added.tolist() == [2]


def test_below_minus_1_2_is_evicted():
    miner = scripted()
    below = np.nextafter(np.float32(-1.2), np.float32(-2))
    just_above = np.nextafter(np.float32(-1.2), np.float32(0))
    mine(miner, scored(-1.3, below, just_above, -1.1, 1), 0)
    assert miner.state().keys.tolist() == [2, 3, 4]


def test_thresholds_are_settings():
    miner = scripted(hard_score=0.5, evict_score=-3.0)
    mine(miner, scored(-4, -2.9), 0)
    assert miner.held == [1]
    mine(miner, scored(0.4, 0.6), 10)
    assert miner.state().keys.tolist() == [1, 11]


def test_retrained_after_more_than_so_many_new_ones():
    miner = scripted(retrain_after=5)
    mine(miner, scored(0.0), 0)
    assert mine(miner, scored(0, 0, 0), 10) == []
    assert mine(miner, scored(0, 0), 20) == []  # five: not yet more than five
    assert mine(miner, scored(-3, -3), 30) == []  # easy ones do not count
    assert mine(miner, scored(0), 40) == [0]
    assert [len(labels) for _, labels in miner.svm.fits] == [2, 8]
    assert miner.state().added.tolist() == [0]
    assert mine(miner, scored(0), 50) == []


def test_a_window_that_comes_again_is_no_news():
    miner = scripted(retrain_after=2)
    for _ in range(5):
        mine(miner, scored(0, 1), 0)
    assert miner.held == [2]
    assert miner.state().added.tolist() == [0]
    assert len(miner.svm.fits) == 1


def test_a_class_waits_for_its_first_negative():
    miner = scripted(classes=2)
    only_first = np.array([[True, False], [True, False]])
    assert mine(miner, scored(0, 0), 0, only_first) == [0]
    assert miner.state().trained.tolist() == [True, False]
    # Class 1 then takes all, the easy ones too; class 0 only what is hard.
    assert mine(miner, scored(-1.15, 0), 10, np.ones((2, 2), bool)) == [1]
    assert miner.held == [3, 2]


def test_photographs_without_windows_or_negatives():
    miner = scripted(classes=2)
    assert mine(miner, scored()[:0].reshape(0, 2), 0) == []
    assert mine(miner, scored(1, 2), 0, np.zeros((2, 2), bool)) == []
    assert miner.held == [0, 0]


def test_the_last_training_is_on_all_that_is_held():
    miner = scripted(classes=2)
    mine(miner, scored(0), 0)
    mine(miner, scored(1, 2), 10, np.array([[True, False], [True, False]]))
    fits = len(miner.svm.fits)
    miner.finish()
    # Class 1 has nothing new and is left as it is.
    assert len(miner.svm.fits) == fits + 1
    examples, labels = miner.svm.fits[-1]
    assert examples[:, 0].tolist() == [5, 0, 1, 2]
    assert labels.tolist() == [1, -1, -1, -1]


def test_only_keys_are_held_and_features_fetched_for_a_training():
    miner = scripted(classes=2, retrain_after=2)
    mine(miner, scored(0, -5, 2), 10)
    assert miner.fetch.asked == [[10, 11, 12]] * 2  # once per class
    mine(miner, scored(1, 1), 0)
    assert len(miner.fetch.asked) == 2  # nothing is fetched until a class is trained
    mine(miner, scored(1), 20, np.array([[False, True]]))
    assert miner.fetch.asked[2:] == [[0, 1, 10, 12, 20]]
    miner.finish()
    assert miner.fetch.asked[3:] == [[0, 1, 10, 12]]


def test_half_precision_features():
    """The same numbers in half and in single precision train the same SVMs."""
    positives, stream = make_stream(dtype=np.float16)
    miner = run(positives, stream)
    wide = [(features.astype(np.float32), *rest) for features, *rest in stream]
    other = run([p.astype(np.float32) for p in positives], wide)
    np.testing.assert_array_equal(miner.coef, other.coef)
    np.testing.assert_array_equal(miner.intercept, other.intercept)
    assert miner.coef.dtype == miner.intercept.dtype == np.float32


@pytest.mark.parametrize("retrain_after", [20, 100, 10_000])
def test_streaming_ends_near_training_on_all_at_once(retrain_after):
    """What is left out lies beyond the margin, where the hinge loss is zero."""
    positives, stream = make_stream()
    # Twice over the photographs, so that none was judged by an unripe SVM only.
    miner = run(positives, stream * 2, retrain_after=retrain_after)
    for c in range(3):
        wanted = train_at_once(positives, stream, c)
        number = sum(negative[:, c].sum() for _, negative, _ in stream)
        assert miner.held[c] < 0.7 * number  # it did leave out
        np.testing.assert_allclose(miner.coef[c], wanted.coef_, atol=0.01)
        assert miner.intercept[c] == pytest.approx(wanted.intercept_, abs=0.02)
        scores = np.concatenate([features for features, _, _ in stream]) @ miner.coef[c]
        assert scores.std() > 0.3


def test_one_pass_orders_windows_as_training_on_all_does():
    positives, stream = make_stream(photographs=20)
    miner = run(positives, stream, retrain_after=30)
    everything = np.concatenate([features for features, _, _ in stream])
    for c in range(3):
        wanted = train_at_once(positives, stream, c).decision_function(everything)
        scores = everything @ miner.coef[c] + miner.intercept[c]
        assert np.corrcoef(scores, wanted)[0, 1] > 0.995
        assert ((scores > 0) == (wanted > 0)).mean() > 0.98


def test_feature_scale_is_folded_into_the_weights():
    """Scaled features, and unscaled ones with the factor, give the same scores."""
    positives, stream = make_stream()
    scale = 0.25  # a power of two, so that nothing is rounded
    folded = run(positives, stream, feature_scale=scale)
    scaled_stream = [(features * np.float32(scale), *rest) for features, *rest in stream]
    scaled = run([p * np.float32(scale) for p in positives], scaled_stream)
    np.testing.assert_array_equal(folded.coef, scaled.coef * np.float32(scale))
    np.testing.assert_array_equal(folded.intercept, scaled.intercept)
    assert folded.held == scaled.held
    plain = run(positives, stream)
    assert np.abs(folded.coef - plain.coef).max() > 0.01  # it does matter


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("stop", [0, 1, 5, 11])
def test_a_restored_miner_goes_on_as_if_nothing_had_happened(stop, dtype):
    positives, stream = make_stream(dtype=dtype)
    settings = {"feature_scale": 1.5, "retrain_after": 40}
    whole = run(positives, stream, LinearSvm(c=1e-2), **settings)

    first = HardNegativeMiner(positives, Bank(stream), LinearSvm(c=1e-2), **settings)
    for photograph in stream[:stop]:
        first.mine(*photograph)
    state = first.state()
    # What the first one does afterwards must not reach the state.
    for photograph in stream[stop:]:
        first.mine(*photograph)

    second = HardNegativeMiner(positives, Bank(stream), LinearSvm(c=1e-2), **settings)
    assert second.restore(state) is second
    retrained = [second.mine(*photograph) for photograph in stream[stop:]]
    second.finish()
    assert any(retrained) or stop == 11
    np.testing.assert_array_equal(second.coef, whole.coef)
    np.testing.assert_array_equal(second.intercept, whole.intercept)
    assert second.held == whole.held
    np.testing.assert_array_equal(second.state().keys, whole.state().keys)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_memory_bounds_the_examples_of_a_class(dtype, tmp_path):
    """Those past its share are read from disk in blocks: the same is mined, the same is learnt."""
    positives, stream = make_stream(dtype=np.float16)
    positives = [rows.astype(dtype) for rows in positives]
    settings = {"feature_scale": 1.5, "retrain_after": 40}
    whole = run(positives, stream, TIGHT, **settings)
    asked = []

    class Watched(Bank):
        def __call__(self, keys, rows):
            asked.append(len(keys))
            super().__call__(keys, rows)

    most = 9  # of 25 positives and some 20 negatives
    memory = 2 * most * 6 * positives[0].shape[1]  # with room to read them
    given = {"side_by_side": 2, "memory": memory, "scratch": tmp_path}
    miner = HardNegativeMiner(positives, Watched(stream), clone(TIGHT), **settings, **given)
    for photograph in stream:
        miner.mine(*photograph)
    miner.finish()
    assert min(whole.held) > most
    assert max(asked) == most
    assert not list(tmp_path.iterdir())
    for c in range(3):
        assert np.corrcoef(miner.coef[c], whole.coef[c])[0, 1] > 0.9999
        mine, wanted = set(miner._held[c].tolist()), set(whole._held[c].tolist())
        assert len(mine ^ wanted) <= 0.02 * len(wanted)
    np.testing.assert_allclose(miner.intercept, whole.intercept, atol=0.02)


def test_some_rows_of_a_table_stand_for_a_copy():
    positives, stream = make_stream()
    rows = [np.arange(3, 20), np.arange(0, 25, 2), np.array([1, 7, 8])]
    some = [SomeRows(table, own) for table, own in zip(positives, rows, strict=True)]
    wanted = run([table[own] for table, own in zip(positives, rows, strict=True)], stream)
    for memory in (None, 400):
        found = run(some, stream, memory=memory)
        tolerance = 0 if memory is None else 0.01
        np.testing.assert_allclose(found.coef, wanted.coef, rtol=0, atol=tolerance)


class FullDisk(io.RawIOBase):
    """A file that takes a part of what it is given, and then no more."""

    written = 0

    def write(self, content):
        if self.written:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.written = len(content) // 2
        return self.written


def test_a_full_disk_is_told_by_the_folder(tmp_path, monkeypatch):
    positives, stream = make_stream()
    miner = HardNegativeMiner(positives, Bank(stream), TIGHT, memory=400, scratch=tmp_path)
    monkeypatch.setattr(examples.tempfile, "TemporaryFile", lambda **_: FullDisk())
    with pytest.raises(OSError, match="No space left") as caught:
        miner.mine(*stream[0])
    assert caught.value.filename == str(tmp_path)


class SlowFile(io.BytesIO):
    """A file that takes seven bytes at once."""

    def write(self, content):
        return super().write(bytes(content)[:7])


def test_what_is_taken_in_parts_is_written_whole():
    rows, file = np.arange(60, dtype=np.float16).reshape(12, 5), SlowFile()
    examples._write(file, rows, None)
    assert file.getvalue() == rows.tobytes()


class Together(LinearSvm):
    """An SVM that is only solved while so many are being solved, and remembers the threads."""

    def __init__(self, wanted):
        super().__init__(c=1e-2)
        self.meeting = threading.Barrier(wanted, timeout=20)
        self.threads = []

    def fit(self, features, labels):
        self.threads.append(threading.get_ident())
        self.meeting.wait()
        return super().fit(features, labels)


@pytest.mark.parametrize("side_by_side", [2, 3])
def test_classes_are_solved_at_the_same_time_and_fetched_by_the_caller(side_by_side):
    positives, stream = make_stream(classes=2 * side_by_side)
    threads = []
    bank = Bank(stream)

    def fetch(keys, rows):
        threads.append(threading.get_ident())
        bank(keys, rows)

    svm = Together(side_by_side)
    miner = HardNegativeMiner(positives, fetch, svm, side_by_side=side_by_side)
    miner.mine(*stream[0])  # a broken barrier would end it
    assert len(set(svm.threads)) == side_by_side
    assert set(threads) == {threading.get_ident()}


@pytest.mark.parametrize("side_by_side", [1, 2, 3])
def test_examples_of_no_more_classes_are_in_memory(side_by_side):
    positives, stream = make_stream(classes=8)
    alive, most = [], []

    class Slow(LinearSvm):
        def fit(self, features, labels):
            time.sleep(0.02)  # for the caller to fetch more than it should
            return super().fit(features, labels)

    class Watching(HardNegativeMiner):
        def _gather(self, c):
            examples = super()._gather(c)
            alive[:] = [one for one in alive if one() is not None] + [weakref.ref(examples)]
            most.append(len(alive))
            return examples

    miner = Watching(positives, Bank(stream), Slow(c=1e-2), side_by_side=side_by_side)
    for photograph in stream[:3]:
        miner.mine(*photograph)
    miner.finish()
    assert max(most) == side_by_side


@pytest.mark.parametrize("retrain_after", [20, 10_000])
def test_side_by_side_or_alone_the_same_bits(retrain_after):
    """Each class also in a miner of its own, where there is no other to disturb it."""
    positives, stream = make_stream(classes=6, length=500)
    settings = {"feature_scale": 1.5, "retrain_after": retrain_after}
    together = run(positives, stream, side_by_side=4, **settings)
    one_by_one = run(positives, stream, side_by_side=1, **settings)
    for first, second in zip(together.state(), one_by_one.state(), strict=True):
        np.testing.assert_array_equal(first, second)
    for c in range(6):
        own = [(features, negative[:, [c]], keys) for features, negative, keys in stream]
        alone = run(positives[c : c + 1], own, **settings)
        assert alone.held == [together.held[c]]
        np.testing.assert_allclose(alone.coef[0], together.coef[c], rtol=1e-4, atol=1e-7)


def test_what_goes_wrong_in_one_of_the_threads_is_told():
    positives, stream = make_stream(classes=4)

    class Failing(LinearSvm):
        def fit(self, features, labels):
            raise SvmError("not this one")

    miner = HardNegativeMiner(positives, Bank(stream), Failing(), side_by_side=3)
    with pytest.raises(SvmError, match="not this one"):
        miner.mine(*stream[0])


def test_state_hand_worked():
    miner = scripted(classes=2)
    mine(miner, scored(0, 1, 2), 40, np.array([[True, False], [True, True], [False, False]]))
    state = miner.state()
    assert state.coef.tolist() == [[1, 0], [1, 0]]
    assert state.intercept.tolist() == [0, 0]
    assert state.trained.tolist() == [True, True]
    assert state.added.tolist() == [0, 0]
    assert state.keys.tolist() == [40, 41, 41]
    assert state.counts.tolist() == [2, 1]
    assert state.keys.dtype == state.counts.dtype == state.added.dtype == np.int64
    assert state.coef.dtype == state.intercept.dtype == np.float32


def test_a_class_that_never_meets_a_negative():
    miner = scripted(classes=2)
    mine(miner, scored(0, 1), 0, np.array([[True, False], [True, False]]))
    with pytest.raises(SvmError, match="class 1: no negative window in any photograph"):
        miner.finish()


def test_a_class_whose_negatives_were_all_evicted_is_still_trained():
    miner = scripted()
    mine(miner, scored(-5, -6), 0)
    assert miner.held == [0]
    miner.finish()
    assert miner.coef.tolist() == [[1, 0]]
    # It goes on mining from there.
    mine(miner, scored(2), 10)
    assert miner.held == [1]


@pytest.mark.parametrize(
    "positives", [np.zeros((0, 3)), np.zeros(3), np.zeros((1, 2, 3))], ids=lambda a: str(a.shape)
)
def test_a_class_without_positives(positives):
    with pytest.raises(SvmError, match=r"class 1: positives of shape .*expected \(P, D\)"):
        HardNegativeMiner([np.ones((2, 3)), positives], Bank(), LinearSvm())


def test_classes_of_other_lengths():
    with pytest.raises(SvmError, match="class 1: positives of shape"):
        HardNegativeMiner([np.ones((2, 3)), np.ones((2, 4))], Bank(), LinearSvm())


def test_no_classes():
    with pytest.raises(SvmError):
        HardNegativeMiner([], Bank(), LinearSvm())
