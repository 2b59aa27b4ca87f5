"""lib/cudagraph.py: a step as one CUDA graph is the step; on a machine without a GPU with a graph that is played."""

import warnings

import pytest
import torch

from lib import cudagraph, random, transform, tree
from lib.cudagraph import WARM, Graphed
from lib.run import replicas

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


class Played:
    """What stands in for a graph: it does again what was recorded, with the tensors it was recorded with."""

    def __init__(self, again):
        self.again = again

    def replay(self):
        self.again()


@pytest.fixture
def played(monkeypatch):
    """Every tensor counts as on a GPU; captures are counted."""
    captures = []

    def capture(self, entry, state, args):
        entry.out = tree.map(torch.clone, before := self.fn(tree.map(torch.clone, state), *args))
        entry.stale = False
        entry.graph = Played(lambda: tree.map(lambda old, new: old.copy_(new), entry.out, self.fn(state, *args)))
        captures.append(before)
        return True

    monkeypatch.setattr(Graphed, "_capture", capture)
    monkeypatch.setattr(cudagraph, "_on_gpu", lambda leaves: True)
    return captures


def overwrite(state, batch, data):
    new = {"w": state["w"] * 0.9 + data[batch].sum(0), "n": state["n"] + 1}
    tree.map(lambda old, x: old.copy_(x), state, new)
    return {"loss": new["w"].sum(), "n": new["n"].clone()}


def begin(device="cpu"):
    return {"w": torch.ones(3, device=device), "n": torch.zeros((), device=device)}


def test_a_replayed_step_is_the_step(played):
    data, graphed, mine, theirs = torch.randn(10, 3), Graphed(overwrite), begin(), begin()
    kept, outs, expected = [], [], []
    for i in range(10):
        batch = torch.tensor([i % 10, (3 * i) % 10])
        kept.append(batch)  # so that the next one lies elsewhere
        outs.append(graphed(mine, batch, data))
        expected.append(overwrite(theirs, batch, data))
    assert len(played) == 1  # the batch has had its buffer before the capture
    for a, b in zip([mine, *outs], [theirs, *expected], strict=True):
        assert all(torch.equal(x, y) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True))


def test_what_moves_late_is_copied_from_then_on(played):
    data, graphed, mine, theirs = torch.randn(10, 3), Graphed(overwrite), begin(), begin()
    batch = torch.tensor([1, 2])
    for i in range(12):
        if i == 7:
            data = torch.randn(10, 3)
        graphed(mine, batch, data)
        overwrite(theirs, batch, data)
        assert torch.equal(mine["w"], theirs["w"])
    assert len(played) == 2


def test_another_state_at_the_same_place_is_another_state(played):
    """Memory that was freed and given out again, as to caches of two lengths."""
    storage, graphed = torch.ones(6), Graphed(overwrite)
    for shape in ((6,), (2, 3)) * (WARM + 2):
        graphed({"w": storage.view(shape), "n": torch.zeros(())}, torch.tensor([0]), torch.ones(1, *shape))
    assert len({where[2] for where in graphed.entries}) == 2  # after two addresses, the first leaf's kind


def test_each_state_and_each_shape_has_a_graph(played):
    data, graphed = torch.randn(10, 3), Graphed(overwrite)
    mine, theirs = [begin(), begin()], [begin(), begin()]
    batches = torch.tensor([1, 2]), torch.tensor([1, 2, 3])
    for i in range(2 * (WARM + 2)):
        for j in range(2):
            graphed(mine[j], batches[i % 2], data)
            overwrite(theirs[j], batches[i % 2], data)
            assert torch.equal(mine[j]["w"], theirs[j]["w"])
    assert len(played) == 4


def test_graphs_of_states_that_are_no_more_are_forgotten(played, monkeypatch):
    monkeypatch.setattr(cudagraph, "MOST", 2)
    data, graphed, batch = torch.randn(10, 3), Graphed(overwrite), torch.tensor([1, 2])
    states = [begin() for _ in range(4)]
    for state in [*states, states[2], states[0]]:
        graphed(state, batch, data)
    assert [where[0] for where in graphed.entries] == [states[2]["w"].data_ptr(), states[0]["w"].data_ptr()]


def test_on_a_cpu_nothing_is_captured():
    graphed, state = Graphed(overwrite), begin()
    for _ in range(WARM + 2):
        graphed(state, torch.tensor([0]), torch.ones(1, 3))
    assert not graphed.entries and state["n"] == WARM + 2


# ---- on a GPU ----


def noisy(state, batch, data):
    key = random.fold_in(random.key(1, batch.device), state["n"].int())
    keep = random.bernoulli(key, 0.5, (3,))
    w = torch.where(keep, state["w"] * 0.9, 0.0) + data[batch].sum(0) + random.normal(key, (3,))
    return {"w": w, "n": state["n"] + 1}, {"loss": w.sum()}


@GPU
@pytest.mark.device
@pytest.mark.parametrize("kept", [True, False])
def test_a_captured_step_is_the_compiled_step(kept):
    data, results, alive = torch.randn(10, 3).cuda(), [], []
    for graphed in (False, True):
        update, state, losses = transform.jit(noisy, graphed=graphed), begin("cuda"), []
        for i in range(WARM + 6):
            batch = torch.tensor([i % 10, (3 * i) % 10]).cuda()
            alive += [batch] if kept else []
            state, out = update(state, batch, data)
            losses.append(out["loss"])
        results.append([state["w"], state["n"], *losses])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@GPU
@pytest.mark.device
def test_data_that_moves_is_captured_again():
    results, loads = [], [torch.randn(10, 3).cuda() for _ in range(3)]
    for graphed in (False, True):
        update, state, losses = transform.jit(noisy, graphed=graphed), begin("cuda"), []
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="steps run without a CUDA graph")
            for data in [loads[0]] * 6 + [loads[1]] * 6 + [loads[2]] * 6:
                state, out = update(state, torch.tensor([1, 2]).cuda(), data)
                losses.append(out["loss"])
        results.append([state["w"], state["n"], *losses])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@GPU
@pytest.mark.device
def test_replicas_one_after_another_are_captured_each():
    data, batch = torch.randn(10, 3).cuda(), torch.tensor([[0, 1], [2, 3]]).cuda()
    update = transform.jit(noisy)
    looped, states = replicas.looped([update] * 2), tree.stack([begin("cuda"), begin("cuda")])
    vmapped = transform.jit(lambda s, b, d: torch.func.vmap(noisy, (0, 0, None))(s, b, d))
    others = tree.map(torch.clone, states)
    for _ in range(WARM + 3):
        states, out = looped(states, batch, data)
        others, theirs = vmapped(others, batch, data)
        torch.testing.assert_close(out, theirs)
    torch.testing.assert_close(states, others)


@GPU
@pytest.mark.device
def test_a_step_that_waits_runs_without_a_graph():
    def waits(state):
        state["w"].add_(float(state["w"].sum() > 0))
        return state["w"].clone()

    graphed, state = Graphed(waits), begin("cuda")
    with pytest.warns(UserWarning, match="without a CUDA graph"):
        for _ in range(WARM + 1):
            out = graphed(state)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = graphed(state)
    assert out.tolist() == state["w"].tolist() == [6.0] * 3
