# Puregen: `just` lists what can be done. Each recipe makes its own environment in .venv first.
# Paths that are given to run and sample are looked up from where just was called (no-cd), modules here (-P).
set positional-arguments

bin := if os_family() == "windows" { ".venv/Scripts/python.exe" } else { ".venv/bin/python" }
python := quote(justfile_directory() / bin)
export PYTHONPATH := justfile_directory()
export PYTHONUTF8 := "1"  # files and pipes of Windows too

_default:
    @just --list --unsorted

# train: just run exp_transformer_fr [small|book|best] [--flags; --help lists them]; just run alone lists experiments
[no-cd]
run *args: _environment
    @{{ python }} -P -m experiments "$@"

# train on several processes: just run-multi 2 exp_transformer_fr ...
[no-cd]
run-multi processes experiment *args: _environment
    @{{ python }} -P -m lib.run.launch "$@"

# use a finished run: just sample exp_transformer_fr "How are you?"
[no-cd]
sample *args: _environment
    @name="${1:-}"; [ $# -eq 0 ] || shift; {{ python }} -P -m experiments $name sample "$@"

# use finished runs on a page of this machine: just play [experiment] [--port N]
[no-cd]
play *args: _environment
    @{{ python }} -P -m lib.play "$@"

# run the tests: just test [pytest arguments]; on a GPU those that concern it: just test --device cuda
test *args: _environment
    @{{ python }} -m pytest "$@"

# format check, lint and type check
check: _environment
    @{{ python }} -m ruff format --check
    @{{ python }} -m ruff check
    @{{ python }} -m mypy

# watch the runs in TensorBoard, on this machine only
tb *args: _environment
    @{{ python }} -m tensorboard.main --logdir runs --host localhost "$@"

# time our way against the usual ones: just bench step [--help]
bench *args: _environment
    @{{ python }} -m tests.bench "$@"

# ten minutes of a GPU that tell everything: just gpu [--help]; --dry tries it on a CPU
gpu *args: _environment
    @{{ python }} -m tests.bench.gpu "$@"

# .venv with the tested versions of requirements.txt, made again when that file changes
_environment:
    @[ "$(cat requirements.txt)" = "$(cat .venv/requirements.txt 2>/dev/null)" ] || ( \
        uv venv --quiet --allow-existing --python '>=3.11' .venv && \
        uv pip install --quiet --python .venv -r requirements.txt && \
        {{ python }} -c "import os, pathlib, sysconfig as s; pathlib.Path(s.get_path('purelib'), 'puregen.pth').write_text(os.getcwd())" && \
        cp requirements.txt .venv/requirements.txt )
