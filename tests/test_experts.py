"""Experts on disk: ours written and read, the authors' replay buffers read, and what is refused."""

import json

import pytest
import torch
from safetensors import safe_open
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from bench.errors import UserError
from bench.memory import LiveBytes
from bench.networks.build import build
from bench.seeds import forked
from bench.training import experts
from bench.training.experts import ReplayBuffers, StoredExperts

CPU = torch.device("cpu")
SHAPES = [(4, 3), (4,), ()]
P = 17


def trajectory(seed, epochs=3):
    return torch.randn(epochs + 1, P, generator=torch.Generator().manual_seed(seed))


# Ours.


@pytest.fixture
def stored(tmp_path):
    paths = [tmp_path / f"{seed}.safetensors" for seed in range(2)]
    for seed, path in enumerate(paths):
        experts.write(path, trajectory(seed).double(), {"cell": {"seed": seed}})
    return StoredExperts(paths, CPU), paths


def test_what_is_written_is_read(stored):
    found, paths = stored
    assert len(found) == 2
    for expert in range(2):
        for epoch in range(4):
            assert torch.equal(found.parameters(expert, epoch), trajectory(expert)[epoch])
    with safe_open(paths[1], framework="pt") as file:
        assert json.loads(file.metadata()["metadd"]) == {"cell": {"seed": 1}}


def test_an_epoch_that_was_not_trained_is_an_error(stored):
    with pytest.raises(Exception, match="out of"):
        stored[0].parameters(0, 4)


def test_what_is_read_is_one_epoch_s_bytes(stored):
    found, _ = stored
    assert found.parameters(0, 2).untyped_storage().nbytes() == 4 * P


# The authors'.


def snapshots(seed, epochs=3):
    """An expert as buffer.py keeps it: lists of tensors, at first and after each epoch."""
    sizes = [torch.Size(shape).numel() for shape in SHAPES]
    rows = [row.split(sizes) for row in trajectory(seed, epochs)]
    return [[piece.clone().view(shape) for piece, shape in zip(row, SHAPES, strict=True)] for row in rows]


def save(folder, *files):
    folder.mkdir(exist_ok=True)
    for k, file in enumerate(files):
        torch.save(file, folder / f"replay_buffer_{k}.pt")
    return folder


def test_replay_buffers_are_read_in_the_order_of_their_files(tmp_path):
    found = ReplayBuffers(save(tmp_path, [snapshots(0), snapshots(1)], [snapshots(2)]), SHAPES, CPU, epochs=3)
    assert len(found) == 3
    for expert in range(3):
        for epoch in range(4):
            assert torch.equal(found.parameters(expert, epoch), trajectory(expert)[epoch])


def test_files_are_ordered_by_number(tmp_path):
    found = ReplayBuffers(save(tmp_path, *([snapshots(k)] for k in range(11))), SHAPES, CPU)
    assert torch.equal(found.parameters(10, 1), trajectory(10)[1])


def test_parameters_are_in_the_order_of_the_network(tmp_path):
    with forked("test"):
        network = build("convnet@w4", 3, 16)
    first = [parameter.detach().clone() for parameter in network.parameters()]
    later = [parameter + 1 for parameter in first]
    folder = save(tmp_path, [[first, later]])
    found = ReplayBuffers(folder, [parameter.shape for parameter in network.parameters()], CPU, epochs=1)
    torch.nn.utils.vector_to_parameters(found.parameters(0, 1), network.parameters())
    for parameter, expected in zip(network.parameters(), later, strict=True):
        assert torch.equal(parameter, expected)


def aliased():
    """What buffer.py stores without a GPU: one list of live tensors, many times."""
    last = snapshots(0)[-1]
    return [[tensor.detach() for tensor in last] for _ in range(4)]


@pytest.mark.parametrize(
    ("files", "epochs", "says"),
    [
        ([], 0, "no replay_buffer_0.pt"),
        ([[snapshots(0)]], 4, r"replay_buffer_0.pt: expert 0: has 3 epochs and 4 are needed"),
        ([[snapshots(0)], [snapshots(1), snapshots(2, 1)]], 3, "replay_buffer_1.pt: expert 1: has 1 epochs"),
        ([[aliased()]], 3, "first and last snapshots are the same"),
        (
            [[snapshots(0), [[torch.zeros(4, 3)]] * 2]],
            0,
            "12 parameters in 1 tensors; the network has 17",
        ),
        ([[[each[::-1] for each in snapshots(0)]]], 0, "17 parameters in 3 tensors; the network has 17"),
        ([[]], 0, "a list of experts is expected"),
        ([{"images": torch.zeros(1)}], 0, "holds a dict"),
        ([torch.zeros(3)], 0, "holds a Tensor"),
        ([[[]]], 0, "a list of lists of float32 tensors"),
        ([[[[]]]], 0, "a list of lists of float32 tensors"),
        ([[[[1.0]]]], 0, "a list of lists of float32 tensors"),
        ([[[[torch.zeros(4, 3).half()]]]], 0, "a list of lists of float32 tensors"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path, files, epochs, says):
    with pytest.raises(UserError, match=says) as raised:
        ReplayBuffers(save(tmp_path / "buffers", *files), SHAPES, CPU, epochs)
    assert str(raised.value).startswith(str(tmp_path / "buffers"))
    assert "\n" not in str(raised.value)


def test_a_folder_that_is_not_there_or_has_a_gap_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no replay_buffer_0\.pt"):
        ReplayBuffers(tmp_path / "nowhere", SHAPES, CPU)
    folder = save(tmp_path, [snapshots(0)], [snapshots(1)])
    (folder / "replay_buffer_0.pt").unlink()
    with pytest.raises(UserError, match=r"replay_buffer_0\.pt: missing"):
        ReplayBuffers(folder, SHAPES, CPU)


@pytest.mark.parametrize("damage", [b"", b"no archive", None])
def test_a_damaged_file_is_refused(tmp_path, damage):
    file = save(tmp_path, [snapshots(0)]) / "replay_buffer_0.pt"
    file.write_bytes(file.read_bytes()[:-100] if damage is None else damage)
    with pytest.raises(UserError, match=r"replay_buffer_0\.pt: damaged"):
        ReplayBuffers(tmp_path, SHAPES, CPU)


class _Runs:
    def __reduce__(self):
        return print, ("this must not run",)


def test_no_code_of_a_file_is_run(tmp_path, capsys):
    with pytest.raises(UserError, match="damaged, or no file of"):
        ReplayBuffers(save(tmp_path, [_Runs()]), SHAPES, CPU)
    assert capsys.readouterr().out == ""


# Both, where nothing is computed.


@pytest.mark.parametrize("kind", ["stored", "replay"])
@pytest.mark.parametrize("made", ["before", "inside"])
def test_fake_parameters_where_a_fake_mode_is_on(tmp_path, stored, kind, made):
    folder = save(tmp_path / "buffers", [snapshots(0)])

    def make():
        return stored[0] if kind == "stored" else ReplayBuffers(folder, SHAPES, CPU, epochs=3)

    found = make()
    with LiveBytes() as real:
        kept = found.parameters(0, 2).square()
    with FakeTensorMode():
        found = make() if made == "inside" else found
        with LiveBytes() as live:
            fake = found.parameters(0, 2)
            squared = fake.square()
    assert isinstance(fake, FakeTensor)
    assert (fake.shape, fake.dtype) == ((P,), torch.float32)
    assert live.peak == real.peak == 2 * 4 * P
    assert squared.shape == kept.shape
