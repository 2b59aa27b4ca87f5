"""Pictures for TensorBoard and files."""

from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor


def heatmap(values: Float[Tensor, "r c"], rows: list[str], columns: list[str]) -> Figure:
    """A matrix as colours with a name on every row and column."""
    figure = Figure(figsize=(0.5 * len(columns) + 2, 0.4 * len(rows) + 1.5), layout="constrained")
    axes = figure.subplots()
    figure.colorbar(axes.imshow(values.numpy(), cmap="viridis", vmin=0))
    axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right", parse_math=False)
    axes.set_yticks(range(len(rows)), rows, parse_math=False)
    return figure
