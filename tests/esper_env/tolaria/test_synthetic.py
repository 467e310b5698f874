"""The embedded data set: what its images and labels promise, whatever the shape and the seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_env.tolaria.synthetic import generate

SHAPES = [(3, 32), (1, 32), (3, 12)]


def nearest_mean_accuracy(train, test):
    """Accuracy of the classifier that picks the class with the nearest mean image."""
    flat = [images.reshape(len(images), -1).astype(np.float32) for images, _ in (train, test)]
    means = np.stack([flat[0][train[1] == label].mean(axis=0) for label in range(10)])
    distances = (means**2).sum(axis=1) - 2 * flat[1] @ means.T
    return (distances.argmin(axis=1) == test[1]).mean()


@settings(max_examples=15, deadline=None)
@given(
    channels=st.sampled_from([1, 3]),
    size=st.integers(12, 40),
    sizes=st.tuples(*[st.integers(1, 60)] * 3),
    seed=st.integers(0, 2**40),
)
def test_every_split_has_the_promised_form(channels, size, sizes, seed):
    splits = generate(channels, size, sizes, seed)
    for (images, labels), count in zip(splits, sizes, strict=True):
        assert images.shape == (count, size, size, channels)
        assert images.dtype == np.uint8
        assert images.flags.c_contiguous
        assert labels.shape == (count,)
        assert labels.dtype == np.int64
        counts = np.bincount(labels, minlength=10)
        assert len(counts) == 10
        assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize(("channels", "size"), SHAPES)
def test_the_same_arguments_give_the_same_bytes(channels, size):
    for once, again in zip(*(generate(channels, size, (60, 20, 20), seed=3) for _ in range(2)), strict=True):
        assert np.array_equal(once[0], again[0])
        assert np.array_equal(once[1], again[1])


def test_another_seed_gives_other_images():
    first, second = (generate(3, 12, (50, 10, 10), seed)[0] for seed in (0, 1))
    assert not np.array_equal(first[0], second[0])
    assert not np.array_equal(first[1], second[1])


def test_no_image_is_in_two_splits_or_twice_in_one():
    splits = generate(3, 12, (2_000, 512, 512))
    images = np.concatenate([images for images, _ in splits]).reshape(3_024, -1)
    assert len(np.unique(images, axis=0)) == 3_024


def test_a_split_does_not_depend_on_the_size_of_the_others():
    small, large = generate(1, 16, (10, 40, 20)), generate(1, 16, (500, 40, 7))
    assert np.array_equal(small[1][0], large[1][0])
    assert np.array_equal(small[1][1], large[1][1])


def test_classes_are_in_random_order():
    _, labels = generate(3, 12, (1_000, 1, 1))[0]
    repeats = np.mean(labels[1:] == labels[:-1])
    assert 0.05 < repeats < 0.15  # sorted labels repeat always, a fixed cycle never


@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 32)])
def test_no_prototype_tells_the_classes_apart(channels, size):
    train, validation, _ = generate(channels, size, (4_000, 1_000, 1))
    assert nearest_mean_accuracy(train, validation) < 0.25


def test_pixels_use_the_whole_range_without_drowning_in_its_ends():
    images, _ = generate(3, 32, (500, 1, 1))[0]
    assert images.min() == 0
    assert images.max() == 255
    assert np.isin(images, [0, 255]).mean() < 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 32, (10, 10, 10)), "channels must be 1 or 3"),
        ((3, 11, (10, 10, 10)), "size must be at least 12"),
        ((3, 32, (10, 0, 10)), "three positive numbers"),
        ((3, 32, (10, 10)), "three positive numbers"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(*arguments)
