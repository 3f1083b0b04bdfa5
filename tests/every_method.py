"""A suite with a row of every method, as small as can be, and where a run of it went."""

import copy

from command_line import TINY, finish, start, write_tables

from baselines import METHODS

RUN = ("run", "tiny", "--tables", "tables.yaml", "--device", "cpu")
#: Trained gently, so that other processors and thread counts give nearly the same numbers.
TEACHER = {"network": "resnet18@w2@bn", "epochs": 1, "batch": 64, "lr": 0.01}
GENERATOR = {"width": 8, "latent": 8, "dim": 8, "steps": 4, "batch": 6, "judge": TEACHER}
#: The methods that have a row with MetaDD too; tests/test_plugged.py tries it on every one.
PLUGGED = ("dsa", "mtt", "sre2l", "glad", "alone")
#: Looks through the teacher and a network more, trained as the teacher is.
METADD = {
    "name": "metadd",
    "networks": ["resnet18@w2@bn", "vgg11@w2"],
    "training": {"all": {name: value for name, value in TEACHER.items() if name != "network"}},
}
MTT = {"syn_steps": 2, "max_start_epoch": 1, "expert_epochs": 1, "batch_syn": 2}
EXPERTS = {"experts": 2, "expert": {"epochs": 1, "batch": 64}}
#: Each method's settings: as small as they can be with everything that they have in use.
SETTINGS = {
    "random": {},
    "dc": {"iterations": 2, "batch_real": 4, "outer": 2, "inner": 1},
    "dsa": {"iterations": 2, "batch_real": 4, "outer": 2, "inner": 1},
    "dm": {"iterations": 2, "batch_real": 4},
    "mtt": {"iterations": 2, **MTT, **EXPERTS, "pixels": "normalised"},
    "sre2l": {"iterations": 2},
    "glad": {
        "iterations": 2,
        "generator": "trained",
        "generator_settings": GENERATOR,
        "inner": {"batch_real": 4},
    },
    "glad(dc)": {
        "iterations": 2,
        "generator": "random",
        "generator_settings": {"width": 8},
        "inner": {"batch_real": 4},
    },
    "glad(mtt)": {
        "iterations": 2,
        "generator": "random",
        "generator_settings": {"width": 8},
        "inner": {**MTT, **EXPERTS},
    },
    "glad(sre2l)": {"iterations": 2, "generator": "random", "generator_settings": {"width": 8}},
    "dm-multi": {"iterations": 3, "batch_real": 4, "networks": ["resnet18@w2@bn", "vgg11@w8"]},
    "alone": {"iterations": 2},
}


def suite(seeds=1):
    """A row of each method, of some with MetaDD too, with its authors' recipe, shortened."""
    grid = []
    for method, settings in SETTINGS.items():
        evaluation = copy.deepcopy(TINY["evaluate"])
        evaluation["recipe"] = {"name": METHODS[method].settings.recipe, "epochs": 3}
        grid.append({"method": method, "settings": settings, "evaluate": evaluation})
        if method in PLUGGED:
            grid[-1]["plugin"] = ["none", {**METADD, **({"weight": 1.0} if method == "alone" else {})}]
        if "sre2l" in method:
            grid[-1]["ipc"] = [1, 2]
    return {
        **TINY,
        "protocol": "authors",
        "ipc": 2,
        "seeds": seeds,
        "grid": grid,
        "teacher": TEACHER,
        "tables": ["accuracy"],
        "figures": ["sets"],
    }


def run(folder):
    """Run the suite in ``folder``."""
    write_tables(folder / "tables.yaml", tiny=suite())
    done = finish(start(folder, *RUN), folder)
    assert (done.status, done.err) == (0, "")
    return folder
