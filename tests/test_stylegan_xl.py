"""StyleGAN-XL: numbers of the authors' code, its operators against literal forms, and official files."""

import collections
import json
import math
import pickle
import sys
import types

import numpy as np
import pytest
import scipy.signal
import torch

from baselines.generators import convert, files
from baselines.generators.stylegan_xl import FourierInput, StyleGANXL, resample
from bench.seeds import forked

pytestmark = pytest.mark.usefixtures("one_thread")

FILTERED = {"kernel": 3, "rgb": False, "up": 2, "down": 2, "up_taps": 12, "down_taps": 12, "clamp": 2.0}
RGB = {"kernel": 1, "rgb": True, "up": 1, "down": 1, "up_taps": 0, "down_taps": 0, "clamp": 2.0}
#: What networks_stylegan3_resetting.py makes of 16 pixels, 4 layers, 4 channels and a margin of 4.
SMALL = {
    "classes": 3,
    "size": 16,
    "latent": 4,
    "dim": 5,
    "mapping_layers": 2,
    "embeddings": [3, 6],
    "output_scale": 0.25,
    "first": {"channels": 4, "size": 24, "rate": 16.0, "bandwidth": 2.0},
    "chain": [
        {"inputs": 4, "outputs": 4, "padding": [9, 8], **FILTERED},
        {"inputs": 4, "outputs": 4, "padding": [9, 8], **FILTERED},
        {"inputs": 4, "outputs": 2, "padding": [9, 8], **FILTERED},
        {"inputs": 2, "outputs": 2, "padding": [1, 0], **FILTERED},
        {"inputs": 2, "outputs": 3, "padding": [0, 0], **RGB},
    ],
}
#: Cutoff and width of the filters before and after each leaky ReLU there; the sampling rate is 32.
FILTERS = [
    ((2, 12), (2, 12)),
    ((2, 12), (4, 8)),
    ((4, 8), (8, 3.698310613518661)),
    ((8, 3.698310613518661), (8, 3.698310613518661)),
]


def numbers(shape, k):
    """Weights that need no generator: sin(0.7 i + k)."""
    return torch.sin(torch.arange(math.prod(shape), dtype=torch.float64) * 0.7 + k).float().view(shape)


def small():
    """The generator of :data:`SMALL` with weights by formula."""
    with forked("test"):
        generator = StyleGANXL(**SMALL)
    state = generator.state_dict()
    drawn = [name for name in state if not name.endswith(("filter", "places"))]
    for k, name in enumerate(sorted(drawn)):
        value = numbers(state[name].shape, k)
        state[name] = value.abs() + 0.5 if name.endswith("magnitude") else value
    for i, filters in enumerate(FILTERS):
        for name, (cutoff, width) in zip(("up_filter", "down_filter"), filters, strict=True):
            taps = scipy.signal.firwin(numtaps=12, cutoff=cutoff, width=width, fs=32)
            state[f"chain.{i}.{name}"] = torch.as_tensor(taps, dtype=torch.float32)
    generator.load_state_dict(state)
    return generator.eval().requires_grad_(False)


def styles(generator):
    w = generator.mapping(numbers((2, 4), 100), torch.tensor([2, 0]))
    return w + numbers(w.shape, 200)


#: Every so many-th value of the styles, waves and images that the authors' code gave for these weights.
STYLES = """
-0.859386 -0.343064 0.333514 0.86004 0.983299 0.900108 0.987066 0.609864 -0.0483647 -0.682063
"""
WAVES = """
0.0484669 -0.19201 -0.474827 0.545143 0.0736133 0.804278 -0.270691 0.0543029 0.155589 0.103926 0.0930647
-0.229694 -0.245647 0.908851 -0.275385 0.481928 -0.00149651 0.569084 0.717884 -0.649737 -1.16219 0.0195947
"""
IMAGES = """
0.100995 0.0972463 0.0983067 0.278147 0.275282 0.276942 0.280222 0.281974 0.256448 0.262113 0.25726 0.23357
0.224613 0.232681 0.106725 0.0970948
"""


def assert_has(tensor, every, values):
    expected = [float(value) for value in values.split()]
    assert tensor.flatten()[::every].tolist() == pytest.approx(expected, abs=1e-5)


def test_numbers_of_the_authors_code():
    generator = small()
    w = styles(generator)
    assert_has(w[:, 0], 1, STYLES)
    waves = generator.features(w, 0)
    assert waves.shape == (2, 4, 24, 24)
    assert_has(waves, 211, WAVES)
    images = generator.images(waves, w, 0) * 2 - 1
    assert images.shape == (2, 3, 16, 16)
    assert_has(images, 97, IMAGES)


def literal_resample(x, taps, up, down, padding):
    """One channel [H, W], value by value: zeros between and around (or a cut), convolution, a stride."""
    for _ in range(2):
        rows = []
        for row in x:
            spread = [0.0] * (len(row) * up)
            spread[::up] = row
            before, after = padding
            spread = [0.0] * before + spread if before >= 0 else spread[-before:]
            spread = spread + [0.0] * after if after >= 0 else spread[:after]
            if taps is not None:
                t = len(taps)
                spread = [
                    up * sum(taps[j] * spread[i + t - 1 - j] for j in range(t))
                    for i in range(len(spread) - t + 1)
                ]
            rows.append(spread[::down])
        x = [list(column) for column in zip(*rows, strict=True)]
    return x


@pytest.mark.parametrize(
    ("taps", "up", "down", "padding"),
    [(5, 2, 1, (3, 2)), (6, 4, 1, (7, 5)), (4, 1, 2, (0, 0)), (3, 2, 2, (-2, 1)), (None, 1, 2, (0, 0))],
)
def test_resampling_is_the_literal_one(taps, up, down, padding):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64, generator=generator)
    kernel = None if taps is None else torch.rand(taps, dtype=torch.float64, generator=generator)
    found = resample(x, kernel, up, down, padding)
    given = None if kernel is None else kernel.tolist()
    for n in range(2):
        for c in range(3):
            expected = torch.tensor(literal_resample(x[n, c].tolist(), given, up, down, padding))
            torch.testing.assert_close(found[n, c], expected.double(), rtol=1e-6, atol=1e-6)


def test_waves_are_turned_moved_and_dampened():
    """Wave by wave and pixel by pixel, as appendix C.4 of the StyleGAN3 paper has it."""
    with forked("test"):
        layer = FourierInput(3, channels=4, size=6, rate=8.0, bandwidth=1.5).double().requires_grad_(False)
    layer.frequencies.copy_(torch.tensor([[0.3, -0.7], [1.2, 2.0], [-1.5, 1.0], [4.0, 1.0]]))
    layer.style.bias += 0.3
    w = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found, amplitudes = layer(w), set()
    for n in range(2):
        c, s, tx, ty = layer.style(w)[n].tolist()
        c, s, tx, ty = (value / math.hypot(c, s) for value in (c, s, tx, ty))
        waves = np.zeros((4, 6, 6))
        for k in range(4):
            fx, fy = layer.frequencies[k].tolist()
            # The image's points are moved by (-tx, -ty), then turned, before the wave is looked up there.
            for row in range(6):
                for column in range(6):
                    x, y = (column + 0.5 - 3) / 8 - tx, (row + 0.5 - 3) / 8 - ty
                    x, y = c * x - s * y, s * x + c * y
                    waves[k, row, column] = math.sin(2 * math.pi * (fx * x + fy * y + layer.phases[k]))
            amplitude = min(max(1 - (math.hypot(fx, fy) - 1.5) / (4 - 1.5), 0), 1)
            amplitudes.add(amplitude if amplitude in (0, 1) else "between")
            waves[k] *= amplitude
        expected = np.einsum("oc,chw->ohw", layer.weight.numpy() / 2, waves)
        torch.testing.assert_close(found[n], torch.from_numpy(expected), rtol=1e-6, atol=1e-6)
    assert amplitudes == {0, 1, "between"}


def test_the_cut_anywhere_gives_the_same_image():
    generator = small().double()
    w = styles(generator).double()
    uncut = generator.images(generator.features(w, 0), w, 0)
    sides = []
    for layer in range(generator.layers + 1):
        f = generator.features(w, layer)
        sides.append(f.shape[-1])
        torch.testing.assert_close(generator.images(f, w, layer), uncut)
    assert sides == [24, 24, 24, 24, 16, 16]
    assert (generator.layers, generator.num_ws) == (5, 6)


def test_each_layer_reads_the_style_after_its_own_number():
    generator = small()
    w = styles(generator)
    for layer in range(generator.layers):
        f = generator.features(w, layer)
        image = generator.images(f, w, layer)
        for place in range(generator.num_ws):
            moved = w.clone()
            moved[:, place] += 0.5
            assert torch.equal(generator.images(f, moved, layer), image) == (place <= layer)


def test_images_of_a_batch_do_not_influence_each_other():
    generator = small().double()
    w = styles(generator).double()
    together = generator.images(generator.features(w, 0), w, 0)
    alone = torch.cat([generator.images(generator.features(v, 0), v, 0) for v in w.split(1)])
    torch.testing.assert_close(together, alone, rtol=1e-10, atol=1e-10)


# Official files. Their classes are made up here, pickled as torch_utils/persistence.py of the authors does.


class Official:
    """An object whose pickle names a function of the authors' code and carries source to be run."""

    def __init__(self, parameters=None, buffers=None, modules=None, **attributes):
        self.__dict__.update(attributes)
        self._parameters = collections.OrderedDict(parameters or {})
        self._buffers = collections.OrderedDict(buffers or {})
        self._modules = collections.OrderedDict(modules or {})

    def __reduce__(self):
        source = "raise SystemExit('this must not be run')"
        meta = {
            "type": "class",
            "version": 6,
            "module_src": source,
            "class_name": "X",
            "state": self.__dict__,
        }
        return _reconstruct_persistent_obj, (meta,)


def _reconstruct_persistent_obj(meta):
    raise AssertionError("the authors' code was called")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


def official(generator):
    """An official generator with the weights of ours."""
    state = generator.state_dict()

    def parameter(name):
        return torch.nn.Parameter(state[name].clone())

    def linear(name):
        return Official({"weight": parameter(f"{name}.weight"), "bias": parameter(f"{name}.bias")})

    layers = {}
    for i, layer in enumerate(SMALL["chain"]):
        buffers = {"magnitude_ema": state[f"chain.{i}.magnitude"]}
        buffers |= {f"{way}_filter": state.get(f"chain.{i}.{way}_filter") for way in ("up", "down")}
        layers[f"L{i}"] = Official(
            {name: parameter(f"chain.{i}.{name}") for name in ("weight", "bias")},
            buffers,
            {"affine": linear(f"chain.{i}.style")},
            in_channels=layer["inputs"],
            out_channels=layer["outputs"],
            conv_kernel=layer["kernel"],
            is_torgb=layer["rgb"],
            up_factor=layer["up"],
            down_factor=layer["down"],
            padding=[*layer["padding"], *layer["padding"]],
            conv_clamp=layer["clamp"],
        )
    first = Official(
        {"weight": parameter("input.weight")},
        {
            "transform": torch.eye(3),
            "freqs": state["input.frequencies"],
            "phases": state["input.phases"],
        },
        {"affine": linear("input.style")},
        channels=np.int64(4),
        size=np.array([24, 24]),
        sampling_rate=np.float64(16),
        bandwidth=2,
    )
    synthesis = Official(modules={"input": first, **layers}, layer_names=list(layers), output_scale=0.25)
    embed = torch.nn.Embedding(3, 6)  # a class of PyTorch's: not opened either
    embed.load_state_dict({"weight": state["embed.weight"]})
    of_mapping = {"embed": embed, "embed_proj": linear("project"), "fc0": linear("map.0")}
    mapping = Official(modules={**of_mapping, "fc1": linear("map.1")}, num_layers=2)
    modules = {"mapping": mapping, "synthesis": synthesis}
    return Official(modules=modules, c_dim=3, img_resolution=16, z_dim=4, w_dim=5)


def write(monkeypatch, path, content):
    """Pickle as where the authors' modules can be imported, then take them away again."""
    with monkeypatch.context() as patch:
        persistence = types.ModuleType("torch_utils.persistence")
        persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj
        patch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
        patch.setitem(sys.modules, "torch_utils.persistence", persistence)
        path.write_bytes(pickle.dumps(content))


def test_an_official_file_becomes_ours_and_nothing_of_it_is_run(monkeypatch, tmp_path, capsys):
    generator = small()
    pickled, ours = tmp_path / "official.pkl", tmp_path / "ours.safetensors"
    write(monkeypatch, pickled, {"G": None, "D": None, "G_ema": official(generator)})
    assert convert.main([str(pickled), str(ours)]) == 0
    found = files.load(ours)
    assert type(found) is StyleGANXL
    assert found.architecture == SMALL
    w = styles(generator)
    assert torch.equal(styles(found), w)
    assert torch.equal(
        found.images(found.features(w, 0), w, 0), generator.images(generator.features(w, 0), w, 0)
    )
    assert capsys.readouterr().err == ""


class Harm:
    """What runs a command as it is opened by pickle itself."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)


def test_a_pickle_that_would_run_a_command_does_not(tmp_path, capsys):
    path, touched = tmp_path / "harm.pkl", tmp_path / "touched"
    path.write_bytes(pickle.dumps({"G_ema": Harm(touched)}))
    assert convert.main([str(path), str(tmp_path / "out")]) == 2
    assert not touched.exists()
    pickle.loads(path.read_bytes())
    assert touched.exists()  # so the file was one that harms
    assert "no generator of StyleGAN-XL" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: setattr(g, "c_dim", 0), "knows no classes"),
        (
            lambda g: g._modules["synthesis"]._modules["L1"]._buffers.update(up_filter=torch.ones(3, 3)),
            "radial",
        ),
        (lambda g: setattr(g._modules["synthesis"]._modules["L1"], "padding", [1, 1, 2, 2]), "not square"),
        (
            lambda g: setattr(g._modules["synthesis"]._modules["input"], "size", np.array([8, 9])),
            "not square",
        ),
        (lambda g: g._modules["synthesis"]._modules["input"]._buffers["transform"].mul_(2), "transformed"),
        (lambda g: g._modules.pop("mapping"), "mapping' is missing"),
        (lambda g: g._modules["mapping"]._modules["fc1"]._parameters.pop("bias"), "bias' is missing"),
    ],
)
def test_what_is_not_supported_is_refused(monkeypatch, tmp_path, capsys, change, message):
    path, made = tmp_path / "official.pkl", official(small())
    change(made)
    write(monkeypatch, path, {"G_ema": made})
    assert convert.main([str(path), str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "content", [b"no pickle", b"", pickle.dumps({"G": 1}), pickle.dumps([1, 2]), json.dumps({}).encode()]
)
def test_a_file_of_another_kind_is_refused(tmp_path, capsys, content):
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    assert convert.main([str(path), str(tmp_path / "out")]) == 2
    assert str(path) in capsys.readouterr().err


def test_a_file_that_is_not_there_is_refused(tmp_path, capsys):
    assert convert.main([str(tmp_path / "none.pkl"), str(tmp_path / "out")]) == 2
    assert "none.pkl" in capsys.readouterr().err
