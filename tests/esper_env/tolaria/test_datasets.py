"""Finding, reading, splitting and sharing the data sets, through their public functions."""

import gzip
import pickle
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from esper_env import EsperEnv, data
from esper_env.tolaria import datasets, readers
from esper_env.tolaria.datasets import DataNotFoundError, EsperDataWarning, load_resolved, resolve_data
from esper_env.tolaria.readers import DataFormatError, read_idx

TINY = {"preferred": "synthetic", "channels": 3, "size": 12, "sizes": (200, 50, 50)}
CIFAR = {"preferred": "cifar10", "channels": 3, "size": 32}
FASHION = {"preferred": "fashion_mnist", "channels": 1, "size": 32}


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """Every test starts in a process that has no data on disk and has not warned yet."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("ESPER_DATA", raising=False)
    monkeypatch.setattr(datasets, "_warned", set())
    spec = readers.REAL_DATASETS["fashion_mnist"]
    monkeypatch.setitem(readers.REAL_DATASETS, "fashion_mnist", replace(spec, packaged=()))


def load_data(dataset, *, preferred, channels, size, data_root=None, **sizes):
    resolved = resolve_data(dataset, preferred=preferred, data_root=data_root)
    return load_resolved(resolved, channels=channels, size=size, **sizes)


def write_cifar(root, per_batch=20, seed=0, protocol=2):
    """CIFAR-10's layout with few images; every image differs, so that splits can be compared."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for name in readers.CIFAR10_FILES:
        batch = {
            "batch_label": name,
            "labels": [int(n) for n in rng.integers(0, 10, per_batch)],
            "data": rng.integers(0, 256, (per_batch, 3072), dtype=np.uint8),
            "filenames": [f"{i}.png" for i in range(per_batch)],
        }
        (folder / name).write_bytes(pickle.dumps(batch, protocol=protocol))
    return folder


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write_fashion(folder, train=60, test=20, compressed=True, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for part, count in (("train", train), ("t10k", test)):
        for name, array in (
            (f"{part}-images-idx3-ubyte", rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)),
            (f"{part}-labels-idx1-ubyte", rng.integers(0, 10, count, dtype=np.uint8)),
        ):
            if compressed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                (folder / name).write_bytes(idx(array))
    return folder


def rows(split):
    return {image.tobytes() for image in split.images.numpy()}


# Search


def test_search_order_is_argument_variable_home_package(monkeypatch, tmp_path):
    package = write_fashion(tmp_path / "package")
    spec = readers.REAL_DATASETS["fashion_mnist"]
    monkeypatch.setitem(readers.REAL_DATASETS, "fashion_mnist", replace(spec, packaged=(package,)))

    def found(data_root=None):
        return resolve_data("fashion_mnist", preferred="cifar10", data_root=data_root).folder

    assert found() == str(package)
    home = write_fashion(Path.home() / ".cache/esper_env/FashionMNIST/raw")
    assert found() == str(home)
    variable = write_fashion(tmp_path / "variable/FashionMNIST/raw", compressed=False)
    monkeypatch.setenv("ESPER_DATA", str(tmp_path / "variable"))
    assert found() == str(variable)
    argument = write_fashion(tmp_path / "argument")
    assert found(str(argument)) == str(argument)


def test_a_relative_root_is_made_absolute(monkeypatch, tmp_path):
    folder = write_cifar(tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    assert resolve_data("cifar10", preferred="cifar10", data_root="here").folder == str(folder)


def test_a_fork_uses_the_same_data_wherever_the_process_has_gone(monkeypatch, tmp_path):
    write_fashion(tmp_path / "here")
    monkeypatch.chdir(tmp_path)
    env = EsperEnv("fashion_baseline", data_root="here", samples_per_epoch=16, val_samples=6, batch_size=8)
    env.reset(seed=0)
    monkeypatch.chdir("/")
    assert env.fork().step(0)[1] == env.step(0)[1]


def test_data_that_do_not_fit_are_an_error_before_they_are_read(tmp_path):
    root = str(write_cifar(tmp_path))
    with pytest.raises(ValueError, match="but this task takes"):
        EsperEnv("tiny", dataset="cifar10", data_root=root)
    with pytest.raises(ValueError, match=r"5001.*5000"):
        EsperEnv("cifar_baseline", data_root=root, val_samples=5_001)
    with pytest.raises(ValueError, match=r"11.*has 10 images"):  # what only reading tells
        EsperEnv("cifar_baseline", data_root=root, val_samples=11).reset(seed=0)


def test_the_folder_of_the_files_itself_is_accepted(tmp_path):
    folder = write_cifar(tmp_path)
    assert resolve_data("auto", preferred="cifar10", data_root=str(folder)).folder == str(folder)


def test_auto_prefers_the_real_data(tmp_path):
    write_cifar(tmp_path)
    assert load_data("auto", data_root=str(tmp_path), **CIFAR).name == "cifar10"


def test_auto_without_the_real_data_warns_once_per_data_set():
    with pytest.warns(EsperDataWarning, match=r"CIFAR-10 .*fetch cifar10"):
        assert resolve_data("auto", preferred="cifar10", data_root=None).name == "synthetic"
    with pytest.warns(EsperDataWarning, match=r"Fashion-MNIST .*dataset-fashion-mnist"):
        assert resolve_data("auto", preferred="fashion_mnist", data_root=None).name == "synthetic"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for preferred in ("cifar10", "fashion_mnist", "synthetic"):
            assert resolve_data("auto", preferred=preferred, data_root=None).folder is None


def test_many_threads_get_one_warning():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: resolve_data("auto", preferred="cifar10", data_root=None), range(64)))
    assert [warning.category for warning in caught] == [EsperDataWarning]


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist"])
def test_a_named_absent_data_set_is_an_error_that_says_what_to_do(name, tmp_path):
    with pytest.raises(DataNotFoundError) as caught:
        resolve_data(name, preferred="synthetic", data_root=str(tmp_path))
    message = str(caught.value)
    assert f"python -m esper_env.data fetch {name}" in message
    for part in (str(tmp_path), "ESPER_DATA", str(Path.home() / ".cache/esper_env")):
        assert part in message


def test_a_root_that_is_no_folder_is_an_error(monkeypatch, tmp_path):
    with pytest.raises(DataNotFoundError, match="data_root"):
        resolve_data("auto", preferred="cifar10", data_root=str(tmp_path / "typo"))
    monkeypatch.setenv("ESPER_DATA", str(tmp_path / "typo"))
    with pytest.raises(DataNotFoundError, match="ESPER_DATA"):
        resolve_data("auto", preferred="cifar10", data_root=None)


def test_a_partly_present_data_set_is_an_error_even_for_auto(tmp_path):
    (write_cifar(tmp_path) / "data_batch_3").unlink()
    with pytest.raises(DataFormatError, match="data_batch_3"):
        resolve_data("auto", preferred="cifar10", data_root=str(tmp_path))


def test_unknown_names_list_the_choices():
    with pytest.raises(ValueError, match=r"mnist.*auto, cifar10, fashion_mnist, synthetic"):
        resolve_data("mnist", preferred="cifar10", data_root=None)
    with pytest.raises(ValueError, match=r"auto.*cifar10, fashion_mnist, synthetic"):
        resolve_data("synthetic", preferred="auto", data_root=None)


def test_a_task_of_another_shape_is_an_error(tmp_path):
    write_cifar(tmp_path)
    with pytest.raises(ValueError, match=r"\(3, 32, 32\).*\(1, 32, 32\)"):
        load_data("cifar10", preferred="fashion_mnist", channels=1, size=32, data_root=str(tmp_path))


# Content


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar_images_keep_their_pixels_and_labels(tmp_path, protocol):
    folder = write_cifar(tmp_path, protocol=protocol)
    loaded = load_data("cifar10", data_root=str(tmp_path), **CIFAR)
    batch = pickle.loads((folder / "test_batch").read_bytes())
    expected = batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    assert np.array_equal(loaded.test.images.numpy(), expected)
    assert loaded.test.labels.tolist() == batch["labels"]
    assert loaded.shape == (3, 32, 32)
    assert (loaded.source, loaded.flip, loaded.num_classes) == (str(folder), True, 10)


def test_fashion_images_are_padded_with_zeros(tmp_path):
    folder = write_fashion(tmp_path / "FashionMNIST/raw")
    loaded = load_data("fashion_mnist", data_root=str(tmp_path), **FASHION)
    raw = read_idx(folder / "t10k-images-idx3-ubyte.gz")
    images = loaded.test.images.numpy()[..., 0]
    assert np.array_equal(images[:, 2:30, 2:30], raw)
    assert images.sum(dtype=np.int64) == raw.sum(dtype=np.int64)
    assert not loaded.flip


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist", "synthetic"])
def test_splits_are_disjoint_complete_and_typed(tmp_path, name):
    write_cifar(tmp_path)  # 100 training images, 20 test images
    write_fashion(tmp_path / "FashionMNIST/raw", train=100)
    channels = 1 if name == "fashion_mnist" else 3
    loaded = load_data(name, preferred=name, channels=channels, size=32, sizes=(90, 10, 20), data_root=str(tmp_path))
    splits = (loaded.train, loaded.validation, loaded.test)
    assert [len(split.labels) for split in splits] == [90, 10, 20]
    assert len(set.union(*map(rows, splits))) == 120
    for split in splits:
        assert split.images.dtype == torch.uint8
        assert split.images.is_contiguous()
        assert split.images.shape == (len(split.labels), 32, 32, channels)
        assert split.labels.dtype == torch.int64


def test_statistics_come_from_the_training_split_alone(tmp_path):
    write_cifar(tmp_path)
    loaded = load_data("cifar10", data_root=str(tmp_path), **CIFAR)
    pixels = loaded.train.images.numpy().reshape(-1, 3) / 255
    assert loaded.mean == pytest.approx(pixels.mean(axis=0))
    assert loaded.std == pytest.approx(pixels.std(axis=0))


def test_the_digest_tells_content_and_split_apart(tmp_path):
    digests = []
    for name, options in {"a": {}, "same": {}, "b": {"seed": 1}}.items():
        write_cifar(tmp_path / name, **options)
        digests.append(load_data("cifar10", data_root=str(tmp_path / name), **CIFAR).digest)
    assert digests[0] == digests[1] != digests[2]
    sizes = [{**TINY, "sizes": sizes} for sizes in ((100, 50, 50), (100, 51, 50))]
    assert len({load_data("synthetic", **options).digest for options in sizes}) == 2


def test_the_digest_is_the_same_in_another_process():
    arguments = {name: TINY[name] for name in ("channels", "size", "sizes")}
    code = (
        "from esper_env.tolaria.datasets import ResolvedData, load_resolved;"
        f"print(load_resolved(ResolvedData('synthetic', None), **{arguments!r}).digest)"
    )
    environment = {
        "PYTHONHASHSEED": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(data.__file__).parents[1]),
    }
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == load_data("synthetic", **TINY).digest


def test_the_synthetic_data_are_the_published_ones():
    """A change of the generator changes every result obtained with it: it needs new versions of the ids."""
    assert load_data("synthetic", **TINY).digest == "2b00b833093948c800a59eda97a82f97eddff663f10095a376deaa2891aeae89"


@pytest.mark.skipif(not readers.DEBIAN_FASHION_MNIST.is_dir(), reason="Debian's package is not installed")
def test_the_real_fashion_mnist():
    loaded = load_data("fashion_mnist", data_root=str(readers.DEBIAN_FASHION_MNIST), **FASHION)
    assert [len(split.labels) for split in (loaded.train, loaded.validation, loaded.test)] == [
        55_000,
        5_000,
        10_000,
    ]
    assert torch.bincount(loaded.test.labels).tolist() == [1_000] * 10
    assert loaded.mean[0] == pytest.approx(0.2860 * (28 / 32) ** 2, abs=0.001)  # the published mean, padded


# Cache


def test_all_callers_share_one_object(tmp_path):
    write_cifar(tmp_path)
    once, again = (load_data("cifar10", data_root=str(tmp_path), **CIFAR) for _ in range(2))
    assert once is again
    other = load_data("synthetic", **{**TINY, "sizes": (201, 50, 50)})
    assert other is not load_data("synthetic", **TINY)


def test_many_threads_load_once(monkeypatch):
    calls = []
    generate = datasets.synthetic.generate
    monkeypatch.setattr(datasets.synthetic, "generate", lambda *a: calls.append(a) or generate(*a))
    barrier = threading.Barrier(8)

    def load(_):
        barrier.wait()
        return load_data("synthetic", **{**TINY, "sizes": (300, 20, 20)})

    with ThreadPoolExecutor(8) as pool:
        assert len({id(loaded) for loaded in pool.map(load, range(8))}) == 1
    assert len(calls) == 1


# Damaged and foreign files


class Attack:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_pickle_that_runs_code_is_refused(tmp_path, protocol):
    folder, mark = write_cifar(tmp_path), tmp_path / "mark"
    attack = {"data": Attack(Path.touch, mark), "labels": Attack(eval, f"open({str(mark)!r}, 'w')")}
    (folder / "data_batch_1").write_bytes(pickle.dumps(attack, protocol=protocol))
    with pytest.raises(DataFormatError, match="refused"):
        load_data("cifar10", data_root=str(tmp_path), **CIFAR)
    assert not mark.exists()


PIXELS = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1, 2], "not a CIFAR-10 batch"),
        ({"data": PIXELS}, "not a CIFAR-10 batch"),
        ({"data": PIXELS[:, :784], "labels": [1, 2]}, "3072"),
        ({"data": PIXELS.astype(float), "labels": [1, 2]}, "float64"),
        ({"data": PIXELS.tolist(), "labels": [1, 2]}, "found list"),
        ({"data": PIXELS, "labels": [1, 2, 3]}, "2 images"),
        ({"data": PIXELS, "labels": [1, 10]}, "from 0 to 9"),
        ({"data": PIXELS, "labels": [1, [2]]}, "list of whole numbers"),
    ],
)
def test_a_foreign_batch_is_described(tmp_path, batch, message):
    folder = write_cifar(tmp_path)
    (folder / "test_batch").write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(DataFormatError, match=message) as caught:
        load_data("cifar10", data_root=str(tmp_path), **CIFAR)
    assert str(tmp_path) in str(caught.value)


@settings(max_examples=60)
@given(st.data())
def test_a_damaged_batch_is_a_clear_error_or_reads_as_a_batch(tmp_path_factory, draw):
    batch = {"data": np.zeros((1, 3072), np.uint8), "labels": [3]}
    content = bytearray(pickle.dumps(batch, protocol=2))
    for place in draw.draw(st.lists(st.integers(0, 250), min_size=1, max_size=3)):
        content[place] = draw.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("damaged")
    for name in readers.CIFAR10_FILES:
        (folder / name).write_bytes(content)
    try:
        raw = readers.read_cifar10(folder)
    except DataFormatError as error:
        assert str(folder) in str(error)
    else:
        assert raw.test_images.shape == (1, 32, 32, 3)


@settings(max_examples=40)
@given(array=hnp.arrays(np.uint8, hnp.array_shapes(max_dims=3, max_side=5)), compressed=st.booleans())
def test_idx_files_round_trip(tmp_path_factory, array, compressed):
    path = tmp_path_factory.mktemp("idx") / ("file.gz" if compressed else "file")
    path.write_bytes(gzip.compress(idx(array)) if compressed else idx(array))
    assert np.array_equal(read_idx(path), array)


@settings(max_examples=40)
@given(cut=st.integers(0, 39), compressed=st.booleans())
def test_a_truncated_idx_file_is_an_error(tmp_path_factory, cut, compressed):
    path = tmp_path_factory.mktemp("idx") / ("file.gz" if compressed else "file")
    content = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    path.write_bytes(gzip.compress(content)[:cut] if compressed else content[:cut])
    with pytest.raises(DataFormatError, match="file"):
        read_idx(path)


def test_foreign_idx_files_are_errors(tmp_path):
    path = tmp_path / "file.gz"
    path.write_bytes(b"not a gzip file")
    with pytest.raises(DataFormatError, match="gzip"):
        read_idx(path)
    with pytest.raises(DataFormatError, match="expected \\(n, 28, 28\\)"):
        wrong = write_fashion(tmp_path / "wrong", compressed=False)
        (wrong / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((20, 32, 32), np.uint8)))
        readers.read_fashion_mnist(wrong)


def test_too_few_images_to_hold_any_out_is_an_error(tmp_path):
    write_fashion(tmp_path, train=9)
    with pytest.raises(DataFormatError, match="at least 10"):
        load_data("fashion_mnist", data_root=str(tmp_path), **FASHION)


# Command line


def test_status_says_where_or_how(capsys):
    write_cifar(Path.home() / ".cache/esper_env")
    assert data.main(["status"]) == 0
    out = capsys.readouterr().out
    assert f"cifar10: found in {Path.home() / '.cache/esper_env/cifar-10-batches-py'}" in out
    assert "fashion_mnist: not on disk" in out
    assert "python -m esper_env.data fetch fashion_mnist" in out
    assert "synthetic: embedded" in out


def test_status_reports_a_wrong_variable(monkeypatch, capsys):
    monkeypatch.setenv("ESPER_DATA", "/nowhere/at/all")
    assert data.main(["status"]) == 1
    assert "ESPER_DATA" in capsys.readouterr().err


def test_fetch_puts_files_where_they_are_found(monkeypatch, tmp_path, capsys):
    torchvision = pytest.importorskip("torchvision")
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", lambda root, download: write_cifar(Path(root)))
    root = tmp_path / "new"
    assert data.main(["fetch", "cifar10", "--root", str(root)]) == 0
    assert str(root / "cifar-10-batches-py") in capsys.readouterr().out
    assert resolve_data("cifar10", preferred="cifar10", data_root=str(root)).name == "cifar10"


def test_fetch_without_a_network_says_what_to_do(monkeypatch, tmp_path, capsys):
    torchvision = pytest.importorskip("torchvision")

    def offline(root, download):
        raise RuntimeError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", offline)
    assert data.main(["fetch", "fashion_mnist", "--root", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert "no route to host" in message
    assert "copy the files" in message
