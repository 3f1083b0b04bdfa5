"""Evaluation networks trained by CUDA graphs, one by one and five at once; prints how much faster that is."""

import pytest
import torch
from command_line import TINY, rows, run_here, suite, write_tables
from test_gpu_ensembles import EPOCHS, SEEDS, digits, timed, trainings

from bench.device import computing
from bench.training.ensembles import Ensemble
from bench.training.graphs import Graphed

pytestmark = pytest.mark.gpu

__all__ = ["digits"]  # a fixture


@pytest.mark.parametrize("at_once", [False, True], ids=["one by one", "at once"])
@pytest.mark.parametrize("name", ["convnet", "resnet18", "vgg11", "alexnet"])
def test_graphs_train_as_operators_do(name, at_once, digits, capsys):
    device, seconds, losses, members = torch.device("cuda"), {}, {}, {}
    with computing(device):
        for graphs in (False, True):
            members[graphs], _ = trainings(name, digits, device)
            advanced = [Ensemble(members[graphs])] if at_once else members[graphs]
            if graphs:
                for each in advanced:
                    each.graph()
            seconds[graphs], losses[graphs] = timed(advanced)
        assert [each.graphed.refusal for each in advanced] == [None] * len(advanced)
    differ = [
        (mine.last_loss - theirs.last_loss).abs().item()
        for mine, theirs in zip(members[True], members[False], strict=True)
    ]
    with capsys.disabled():
        without, by_graphs = (1000 * seconds[graphs] / EPOCHS for graphs in (False, True))
        print(
            f"\n{name}, {SEEDS} {'at once' if at_once else 'one by one'}: "
            f"graphs are {without / by_graphs:.2f}x as fast ({without:.2f} and {by_graphs:.2f} ms a step "
            f"of all); last losses differ by {max(differ):.2g} at most"
        )
    torch.testing.assert_close(losses[True], losses[False], rtol=1e-4, atol=1e-5)
    if name == "convnet":
        assert seconds[True] < seconds[False]


def test_dropout_draws_anew_in_every_step():
    drop, images = torch.nn.Dropout(0.5), torch.ones(64, 3, 8, 8, device="cuda")
    weight = torch.nn.Parameter(torch.ones((), device="cuda"))
    made = Graphed(lambda by, images: drop(images) * by["weight"], {"weight": weight}, [])
    first, second = (made(images).detach().clone() for _ in range(2))
    assert made.refusal is None
    assert not torch.equal(first, second)
    assert (first > 0).float().mean().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("at_once", [False, True], ids=["one by one", "at once"])
def test_a_last_batch_of_its_own_size_has_graphs_too(digits, at_once):
    device, losses = torch.device("cuda"), []
    for graphs in (False, True):
        with computing(device):
            members, _ = trainings("convnet", digits, device, per_class=30)  # 256 and 44 images
            advanced = [Ensemble(members)] if at_once else members
            if graphs:
                for each in advanced:
                    each.graph()
            for _ in range(3):
                for each in advanced:
                    each.epoch()
            losses.append(torch.stack([each.last_loss for each in members]))
    assert all(each.graphed.refusal is None for each in advanced)
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("together", [1, 3])
def test_a_run_by_graphs_gives_the_rows_of_one_without(monkeypatch, capfd, tmp_path, together):
    evaluate = {**TINY["evaluate"], "recipe": {"name": "dsa", "epochs": 10}, "seeds": 3}
    found = []
    for further in ((), ("--cuda-graphs",)):
        folder = tmp_path / f"with{''.join(further)}"
        folder.mkdir()
        monkeypatch.chdir(folder)
        write_tables(folder / "tables.yaml", tiny=suite(grid=[{"method": "random"}], evaluate=evaluate))
        options = ("--tables", "tables.yaml", "--device", "cuda", "--evaluate-together", together, *further)
        done = run_here(monkeypatch, capfd, "run", "tiny", *options)
        assert (done.status, done.err) == (0, "")
        found.append([row for row in rows(folder) if row["cell"]["kind"] == "evaluate"])
    for plain, graphed in zip(*found, strict=True):
        assert plain["key"] == graphed["key"]
        assert (plain["cost"].get("graphs"), graphed["cost"].get("graphs")) == (None, True)
        assert graphed["result"]["train_loss"] == pytest.approx(plain["result"]["train_loss"], rel=2e-2)
        assert abs(graphed["result"]["correct"] - plain["result"]["correct"]) <= 2
