"""Generators: their layers against literal forms, the cut, what shapes come out, and a file and back."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save_file

from baselines.defaults.generator import GeneratorSettings
from baselines.generators import files
from baselines.generators.compact import CompactGenerator, Discriminator, channels
from baselines.generators.layers import leaky_relu, modulated_conv, unit_moment, upsample
from bench.seeds import forked

pytestmark = pytest.mark.usefixtures("one_thread")


def randn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def compact(classes=3, size=16, width=8, latent=6, dim=10, mapping_layers=2, seed=0):
    with forked("test generator", seed):
        return (
            CompactGenerator(classes, size, width, latent, dim, mapping_layers).eval().requires_grad_(False)
        )


# Layers.


def literal_modulated_conv(x, weight, styles, demodulate):
    """Equations 1 and 3 of the StyleGAN2 paper, sample by sample, number by number, in NumPy's float64."""
    x, weight, styles = x.numpy(), weight.numpy(), styles.numpy()
    n, inputs, height, width = x.shape
    outputs, _, kernel, _ = weight.shape
    around = kernel // 2
    result = np.zeros((n, outputs, height, width))
    for b in range(n):
        own = np.array([[weight[o, i] * styles[b, i] for i in range(inputs)] for o in range(outputs)])
        if demodulate:
            own = np.array([of_output / np.sqrt((of_output**2).sum() + 1e-8) for of_output in own])
        padded = np.pad(x[b], ((0, 0), (around, around), (around, around)))
        for o in range(outputs):
            for row in range(height):
                for column in range(width):
                    window = padded[:, row : row + kernel, column : column + kernel]
                    result[b, o, row, column] = (own[o] * window).sum()
    return torch.from_numpy(result)


@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize(("kernel", "side"), [(1, 3), (3, 4), (5, 4)])
def test_modulated_convolution_is_the_literal_formula(kernel, side, demodulate):
    x, weight, styles = randn(3, 4, side, side), randn(5, 4, kernel, kernel, seed=1), randn(3, 4, seed=2)
    expected = literal_modulated_conv(x, weight, styles, demodulate)
    found = modulated_conv(x, weight, styles, demodulate)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    single = modulated_conv(x.float(), weight.float(), styles.float(), demodulate).double()
    torch.testing.assert_close(single, expected, rtol=1e-4, atol=1e-5)


def test_demodulated_maps_have_the_deviation_of_the_input():
    """The statistical assumption that the paper's equation 3 rests on: inputs of variance 1."""
    x, weight, styles = randn(64, 16, 8, 8), randn(32, 16, 3, 3, seed=1), 5 * randn(64, 16, seed=2)
    inside = modulated_conv(x, weight, styles)[..., 1:-1, 1:-1]
    assert inside.std().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 1, 8, 5)])
def test_upsampling_is_bilinear(shape):
    x = randn(*shape)
    expected = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsample(x), expected, rtol=1e-12, atol=1e-12)


def test_activation_and_normalisation_keep_the_second_moment():
    x = randn(100_000)
    assert leaky_relu(x).square().mean().item() == pytest.approx(1.04, abs=0.01)  # (1 + 0.2^2) / 2 * 2
    assert torch.equal(leaky_relu(torch.tensor([-1.0, 1.0])), torch.tensor([-0.2, 1.0]) * 2**0.5)
    torch.testing.assert_close(unit_moment(7 * randn(5, 9)).square().mean(1), torch.ones(5).double())


# The compact generator.


@pytest.mark.parametrize(("size", "layers"), [(8, 4), (16, 6), (32, 8), (64, 10)])
def test_the_cut_anywhere_gives_the_same_image(size, layers):
    generator = compact(size=size).double()
    assert generator.layers == generator.num_ws == layers
    labels = torch.tensor([0, 2, 1, 1])
    z = randn(4, generator.latent)
    w = generator.mapping(z, labels) + 0.1 * randn(4, layers, generator.dim, seed=1)  # each place its own
    uncut = generator.images(generator.features(w, 0), w, 0)
    assert uncut.shape == (4, 3, size, size)
    for layer in range(1, layers + 1):
        torch.testing.assert_close(generator.images(generator.features(w, layer), w, layer), uncut)
    w = generator.mapping(z, labels)
    torch.testing.assert_close(generator(z, labels), generator.images(generator.features(w, 0), w, 0))


def test_features_have_the_shapes_of_their_layers():
    generator = compact(size=64, width=16)
    w = torch.zeros(2, generator.num_ws, generator.dim)
    shapes = [tuple(generator.features(w, layer).shape[1:]) for layer in range(generator.layers + 1)]
    pairs = [(16, side) for side in (8, 8, 16, 16)] + [(8, 32)] * 2 + [(4, 64)] * 2
    expected = [(16, 4), (16, 4), *pairs, (3, 64)]
    assert shapes == [(c, side, side) for c, side in expected]


def test_each_layer_reads_its_own_style_and_no_layer_after_the_cut_another():
    generator = compact()
    w = generator.mapping(randn(1, generator.latent, dtype=torch.float32), torch.tensor([1]))
    for layer in range(generator.layers):
        f = generator.features(w, layer)
        image = generator.images(f, w, layer)
        for place in range(generator.num_ws):
            moved = w.clone()
            moved[:, place] += randn(generator.dim, dtype=torch.float32)
            unmoved = torch.equal(generator.images(f, moved, layer), image)
            assert unmoved == (place < layer)


def test_images_of_a_batch_do_not_influence_each_other():
    generator = compact().double()
    labels = torch.tensor([0, 1, 2])
    z = randn(3, generator.latent)
    alone = torch.cat([generator(z[i : i + 1], labels[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(generator(z, labels), alone, rtol=1e-12, atol=1e-12)


def test_the_class_and_the_latent_make_the_style():
    generator = compact()
    z = randn(2, generator.latent, dtype=torch.float32)
    same, other = (generator.mapping(z, torch.tensor(labels)) for labels in ([0, 0], [0, 1]))
    assert torch.equal(same[0], other[0])
    assert not torch.equal(same[1], other[1])
    assert not torch.equal(same[0], same[1])
    assert all(torch.equal(same[:, 0], same[:, place]) for place in range(generator.num_ws))
    torch.testing.assert_close(
        generator.mapping(3 * z, torch.tensor([0, 0])), same
    )  # only z's direction counts


def test_an_untrained_generator_fills_the_range_of_colours():
    generator = compact(classes=10, size=32, width=64, latent=32, dim=64)
    images = generator(randn(50, 32, dtype=torch.float32), torch.arange(50) % 10)
    assert images.isfinite().all()
    assert images.mean().item() == pytest.approx(0.5, abs=0.25)
    assert 0.1 < images.std().item() < 1.5


def test_building_draws_from_the_global_generator_alone():
    first, again, other = (compact(seed=seed) for seed in (0, 0, 1))
    pairs = [zip(first.parameters(), each.parameters(), strict=True) for each in (again, other)]
    assert all(torch.equal(a, b) for a, b in pairs[0])
    assert not all(torch.equal(a, b) for a, b in pairs[1])


@pytest.mark.parametrize("size", [4, 12, 28, 48])
def test_a_size_that_is_no_power_of_two_is_refused(size):
    with pytest.raises(ValueError, match=f"not {size}"):
        compact(size=size)


def test_channels_halve_above_16_pixels():
    assert [channels(64, side) for side in (4, 8, 16, 32, 64, 128)] == [64, 64, 64, 32, 16, 8]
    assert channels(1, 64) == 1


def test_the_settings_say_what_is_built():
    settings = GeneratorSettings(width=4, latent=5, dim=6, mapping_layers=3)
    with forked("test"):
        generator = CompactGenerator.from_settings(settings, 7, 16)
    assert generator.architecture == {
        "classes": 7,
        "size": 16,
        "width": 4,
        "latent": 5,
        "dim": 6,
        "mapping_layers": 3,
    }
    assert (generator.classes, generator.size, generator.latent, generator.dim) == (7, 16, 5, 6)
    assert [tuple(layer.weight.shape) for layer in generator.map] == [(6, 10), (6, 6), (6, 6)]
    assert generator.input.shape == (4, 4, 4)


# The discriminator.


@pytest.mark.parametrize("size", [8, 16, 32])
def test_the_discriminator_scores_each_image_by_itself_and_by_its_class(size):
    with forked("test"):
        discriminator = Discriminator(4, size, 8).double()
    images, labels = randn(3, 3, size, size), torch.tensor([0, 1, 3])
    scores = discriminator(images, labels)
    assert scores.shape == (3,)
    alone = torch.cat([discriminator(images[i : i + 1], labels[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(scores, alone, rtol=1e-10, atol=1e-10)
    assert (discriminator(images, torch.tensor([0, 1, 2])) - scores).abs().gt(1e-6).tolist() == [
        False,
        False,
        True,
    ]


def test_the_projection_is_the_inner_product_with_the_class():
    """Miyato and Koyama, equation 3: the scores of two classes differ by <e(a) - e(b), h> alone."""
    with forked("test"):
        discriminator = Discriminator(3, 8, 8).double()
    features = []
    discriminator.score.register_forward_hook(lambda module, inputs, output: features.append(inputs[0]))
    image = randn(1, 3, 8, 8)
    a, b = (discriminator(image, torch.tensor([label])) for label in (0, 2))
    by_hand = (discriminator.embed.weight[0] - discriminator.embed.weight[2]) @ features[0][0] / 8**0.5
    torch.testing.assert_close((a - b).squeeze(), by_hand)


# Files.


def test_a_generator_comes_back_from_its_file(tmp_path):
    generator = compact(classes=4, size=32)
    files.save(generator, tmp_path / "generator.safetensors")
    before = torch.get_rng_state()
    loaded = files.load(tmp_path / "generator.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    assert type(loaded) is CompactGenerator
    assert loaded.architecture == generator.architecture
    z, labels = randn(3, generator.latent, dtype=torch.float32), torch.tensor([0, 3, 1])
    assert torch.equal(loaded(z, labels), generator(z, labels))


def test_a_file_that_holds_no_generator_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    generator = compact()
    tensors = dict(generator.state_dict())
    about = {"kind": "compact", "architecture": generator.architecture}
    wrong = [
        (tensors, None),
        (tensors, {"generator": "{"}),
        (tensors, {"generator": json.dumps({**about, "kind": "biggan"})}),
        (tensors, {"generator": json.dumps({**about, "architecture": {"width": 3}})}),
        ({name: t for name, t in tensors.items() if name != "input"}, {"generator": json.dumps(about)}),
    ]
    for content, metadata in wrong:
        save_file(content, path, metadata=metadata)
        with pytest.raises(ValueError, match="no generator"):
            files.load(path)
    path.write_bytes(b"no safetensors")
    with pytest.raises(ValueError, match="no generator"):
        files.load(path)
