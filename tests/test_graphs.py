"""Training by CUDA graphs: what of it a CPU can show. The graphs themselves: tests/test_gpu_graphs.py."""

import pytest
import torch
from command_line import rows, run_here, suite, write_tables
from test_ensembles import fresh
from test_training import recipe, synthetic, training

from bench import device as devices
from bench.training.ensembles import Ensemble
from bench.training.graphs import Graphed

pytestmark = pytest.mark.usefixtures("one_thread")

#: Ten images: batches of four, four and two, so two graphs.
RECIPE = recipe(epochs=2, augment="dsa")
NAMES = ["convnet@w8", "convnet@w8@bn"]  # the second has running statistics


class Recorder:
    """What PyTorch's ``make_graphed_callables`` does to its arguments, without graphs.

    It runs the function a few times on the sample, with whatever that changes; then it reads its images from
    the sample's memory alone and always writes the same result.
    """

    def __init__(self):
        self.shapes = []

    def __call__(self, function, sample):
        images, *parameters = sample
        self.shapes.append(tuple(images.shape))
        for _ in range(3):
            torch.autograd.grad(function(*sample).sum() + torch.rand(()), parameters)

        def replayed(given, *same):
            assert given.shape == images.shape  # a graph does not look, and would broadcast
            assert all(
                one.data_ptr() == other.data_ptr() for one, other in zip(same, parameters, strict=True)
            )
            images.copy_(given)
            return function(images, *same)

        return replayed


@pytest.fixture
def recorder(monkeypatch):
    found = Recorder()
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", found)
    return found


def trained(one):
    for _ in range(RECIPE.epochs):
        one.epoch()
    return one


@pytest.mark.parametrize("name", NAMES)
def test_a_network_is_trained_as_without(recorder, name):
    (plain,), (graphed,) = (fresh(RECIPE, name=name, data=synthetic(), n=1) for _ in range(2))
    graphed.graph()
    trained(plain), trained(graphed)
    assert graphed.graphed.refusal is None
    assert sorted(recorder.shapes) == [(2, 3, 16, 16), (4, 3, 16, 16)]
    for mine, theirs in zip(
        graphed.network.state_dict().values(), plain.network.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs)
    assert torch.equal(graphed.last_loss, plain.last_loss)


@pytest.mark.parametrize("name", NAMES)
def test_several_at_once_are_trained_as_without(recorder, name):
    plain, graphed = (Ensemble(fresh(RECIPE, name=name, data=synthetic())) for _ in range(2))
    graphed.graph()
    trained(plain), trained(graphed)
    assert sorted(recorder.shapes) == [(3, 2, 3, 16, 16), (3, 4, 3, 16, 16)]
    for mine, theirs in zip(graphed.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(graphed.network.buffers(), plain.network.buffers(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("problem", [RuntimeError, torch.OutOfMemoryError])
def test_what_cannot_be_graphed_is_trained_all_the_same(monkeypatch, problem):
    asked = []

    def refuse(function, sample):
        asked.append(sample)
        if len(asked) == 2:  # there is a graph for the other shape already
            raise problem("no\nand more")
        return function

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", refuse)
    plain, graphed = training(RECIPE), training(RECIPE)
    graphed.graph()
    trained(plain), trained(graphed)
    assert graphed.graphed.refusal == "no"
    assert len(asked) == 2
    for mine, theirs in zip(graphed.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_bug_is_not_taken_for_a_refusal(monkeypatch):
    def broken(function, sample):
        raise TypeError("a bug")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", broken)
    graphed = training(RECIPE)
    graphed.graph()
    with pytest.raises(TypeError, match="a bug"):
        graphed.epoch()


def test_a_function_of_images_leaves_them_and_the_generators_as_they_are(recorder):
    weight = torch.nn.Parameter(torch.ones(3))
    made = Graphed(lambda by, images: images.mean((2, 3)) * by["weight"], {"weight": weight}, [])
    given = torch.rand(2, 3, 4, 4)
    kept = given.clone()
    before = torch.get_rng_state()
    first = made(given)
    assert torch.equal(torch.get_rng_state(), before)
    second = made(given + 1)
    assert torch.equal(given, kept)
    assert torch.equal(first, kept.mean((2, 3)))
    torch.testing.assert_close(second, first + 1)
    assert len(recorder.shapes) == 1


def run(monkeypatch, capfd, folder, *options):
    evaluate = {"recipe": {"name": "dsa", "epochs": 2}, "networks": ["convnet@w8"], "seeds": 2}
    write_tables(folder / "tables.yaml", tiny=suite(grid=[{"method": "random"}], evaluate=evaluate))
    monkeypatch.chdir(folder)
    return run_here(monkeypatch, capfd, "run", "tiny", "--tables", "tables.yaml", "--cuda-graphs", *options)


def test_a_cpu_is_refused_in_one_line(monkeypatch, capfd, tmp_path):
    done = run(monkeypatch, capfd, tmp_path, "--device", "cpu")
    assert (done.status, done.out) == (2, "")
    assert done.err == ("metadd-bench: --cuda-graphs: a cpu has none; leave it out, or run --device cuda\n")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("together", [1, 2])
@pytest.mark.parametrize("refused", [False, True])
def test_rows_say_whether_it_was_graphs(monkeypatch, capfd, tmp_path, recorder, together, refused):
    def refuse(function, sample):
        raise RuntimeError("no")

    if refused:
        monkeypatch.setattr(torch.cuda, "make_graphed_callables", refuse)
    monkeypatch.setattr(devices, "has_graphs", lambda _: True)
    options = ("--device", "cpu", "--evaluate-together", together)
    done = run(monkeypatch, capfd, tmp_path, *options)
    assert (done.status, done.err) == (0, "")
    found = rows(tmp_path)
    costs = [row["cost"] for row in found if row["cell"]["kind"] == "evaluate"]
    expected = (None, "no") if refused else (True, None)
    assert [(cost.get("graphs"), cost.get("no_graphs")) for cost in costs] == [expected] * 2
    assert all("graphs" not in row["cost"] for row in found if row["cell"]["kind"] == "distil")
    assert all(row["provenance"]["command"].endswith("--cuda-graphs") for row in found)
