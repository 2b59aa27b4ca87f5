"""What the README says a reader can type does work."""

import importlib.util
import re
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_experiment_in_the_readme_learns(capsys):
    [code] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    with torch.compiler.set_stance("force_eager"):  # as written it compiles, which takes half a minute
        exec(code, {})
    loss = float(capsys.readouterr().out.removeprefix("loss "))
    assert 0 < loss < 0.1  # (1 - e^-2) / 2 - e^-1 = .064 is the best that a linear map can do; it starts above 1


def test_every_module_that_a_recipe_starts_is_there():
    for module in re.findall(r"-m ([\w.]+)", (ROOT / "justfile").read_text()):
        assert importlib.util.find_spec(module), module


def test_every_recipe_and_file_it_names_exists():
    recipes = set(re.findall(r"^(\w+)[^:=\n]*:(?!=)", (ROOT / "justfile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"\bjust (\w+)", README)) - {"alone"} <= recipes | {"lists"}
    for link in re.findall(r"\]\((?!https://)([^)]+)\)", README):
        assert (ROOT / link).exists(), link
