"""The graph of a pipeline: boxes are stages, edges are the products that lead from one to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bokeh.events import Tap
from bokeh.models import ColumnDataSource, HoverTool

from nightlab.dashboards.overview.board import COLOURS, SIGNS, WORDS, Board, Status
from nightlab.dashboards.style import figure
from nightlab.pipelines.table import STAGES

WIDTH, HEIGHT = 0.84, 0.78


@dataclass(frozen=True, kw_only=True)
class Edge:
    """Products of one stage that another one reads."""

    source: str
    target: str
    products: tuple[str, ...]

    @property
    def only_metrics(self) -> bool:
        """Whether nothing but measurements are handed on."""
        return all(name.endswith("metrics") for name in self.products)


def edges_of(stages: tuple[str, ...]) -> list[Edge]:
    """Find what the stages of a pipeline hand to one another."""
    made = {row.name: stage for stage in stages for row in STAGES[stage].outputs.values()}
    found: dict[tuple[str, str], list[str]] = {}
    for stage in stages:
        for row in STAGES[stage].inputs.values():
            if row.name in made and made[row.name] != stage:
                found.setdefault((made[row.name], stage), []).append(row.name)
    return [Edge(source=a, target=b, products=tuple(names)) for (a, b), names in found.items()]


def makers_of(stage: str) -> dict[str, str]:
    """Give, by what a stage reads, the stage that makes it; empty for what is ingested."""
    makers = {row.name: name for name, other in STAGES.items() for row in other.outputs.values()}
    return {row.name: makers.get(row.name, "") for row in STAGES[stage].inputs.values()}


def places(stages: tuple[str, ...]) -> dict[str, tuple[float, float]]:
    """Lay the boxes out from left to right: (x, y) of their middles, y downwards."""
    edges = edges_of(stages)
    level = dict.fromkeys(stages, 0)
    for stage in stages:  # they are in the order of their work
        level[stage] = max((level[edge.source] + 1 for edge in edges if edge.target == stage), default=0)
    rows: dict[int, int] = {}
    found = {}
    for stage in stages:
        row = rows.get(level[stage], 0)
        rows[level[stage]] = row + 1
        found[stage] = (float(level[stage]), float(row))
    return found


class StageGraph:
    """A picture of the pipeline; a click on a box chooses its stage.

    Parameters
    ----------
    clicked
        Called with the stage.
    """

    def __init__(self, clicked: Callable[[str], None]) -> None:
        self._clicked = clicked
        self._stages: tuple[str, ...] = ()
        self._places: dict[str, tuple[float, float]] = {}
        columns = ("x", "y", "stage", "title", "count", "colour", "frame", "about")
        self._boxes = ColumnDataSource({name: [] for name in columns})
        self._edges = ColumnDataSource({"xs": [], "ys": [], "products": [], "alpha": []})
        self._heads = ColumnDataSource({"x": [], "y": [], "alpha": []})
        self.figure = self._make()

    def _make(self) -> Any:
        made = figure(
            "graph of the stages with their states",
            tools="",
            active_drag=None,
            active_scroll=None,
            height=120,
            toolbar_location=None,
            outline_line_color=None,
            name="stages",
        )
        lines = made.multi_line(
            "xs", "ys", source=self._edges, line_color="#8a949b", line_width=2, line_alpha="alpha",
        )  # fmt: skip
        made.scatter("x", "y", source=self._heads, marker="triangle", angle=-1.5708, size=8, color="#8a949b",
                     alpha="alpha")  # fmt: skip
        boxes = made.rect(
            "x", "y", WIDTH, HEIGHT, source=self._boxes, fill_color="colour", line_color="frame", line_width=3,
            border_radius=5,
        )  # fmt: skip
        words = {"text_align": "center", "text_baseline": "middle", "text_color": "white"}
        made.text("x", "y", "title", source=self._boxes, text_font_size="11px", text_line_height=1.05, y_offset=-8,
                  **words)  # fmt: skip
        made.text("x", "y", "count", source=self._boxes, text_font_size="12px", y_offset=21, **words)
        made.add_tools(
            HoverTool(renderers=[boxes], tooltips="@about"),
            HoverTool(renderers=[lines], tooltips="@products", line_policy="interp"),
        )
        made.axis.visible = False
        made.grid.visible = False
        made.on_event(Tap, self._tap)
        return made

    def _tap(self, event: Any) -> None:
        for stage, (x, y) in self._places.items():
            if abs(event.x - x) <= WIDTH / 2 and abs(event.y + y) <= HEIGHT / 2:
                self._clicked(stage)

    def show(self, board: Board, chosen: str) -> None:
        """Draw a board."""
        if board.stages != self._stages:
            self._arrange(board.stages)
        rows: dict[str, list[Any]] = {name: [] for name in self._boxes.data}
        for stage, (x, y) in self._places.items():
            status, (through, total) = board.status(stage), board.settled(stage)
            rows["x"].append(x)
            rows["y"].append(-y)
            rows["stage"].append(stage)
            rows["title"].append(_wrapped(stage))
            rows["count"].append(f"{SIGNS[status]} {through}/{total}" if total else SIGNS[status])
            rows["colour"].append(COLOURS[status])
            rows["frame"].append("#e0a100" if stage == chosen else COLOURS[status])
            rows["about"].append(f"{stage}, {WORDS[status]}: {_counted(board, stage)}")
        self._boxes.data = rows

    def _arrange(self, stages: tuple[str, ...]) -> None:
        self._stages, self._places = stages, places(stages)
        levels = max((x for x, _ in self._places.values()), default=0.0)
        depth = max((y for _, y in self._places.values()), default=0.0)
        self.figure.x_range.update(start=-0.5, end=max(levels, 3.0) + 0.5)
        self.figure.y_range.update(start=-depth - 0.55, end=0.55)
        self.figure.height = int(20 + 72 * (depth + 1))
        lines: dict[str, list[Any]] = {"xs": [], "ys": [], "products": [], "alpha": []}
        heads: dict[str, list[Any]] = {"x": [], "y": [], "alpha": []}
        for edge in edges_of(stages):
            (x0, y0), (x1, y1) = self._places[edge.source], self._places[edge.target]
            if x1 - x0 > 1 and y0 == y1:
                continue  # it would run behind the boxes between them; what a stage reads is told beside its knobs
            alpha = 0.25 if edge.only_metrics else 0.9
            lines["xs"].append([x0 + WIDTH / 2, x1 - WIDTH / 2 - 0.03])
            lines["ys"].append([-y0, -y1])
            lines["products"].append(f"{edge.source} → {edge.target}: {', '.join(edge.products)}")
            lines["alpha"].append(alpha)
            heads["x"].append(x1 - WIDTH / 2 - 0.04)
            heads["y"].append(-y1)
            heads["alpha"].append(alpha)
        self._edges.data, self._heads.data = lines, heads


def _wrapped(stage: str) -> str:
    """Break a name into two lines where it is long."""
    if len(stage) <= 11:
        return stage
    words = stage.split("_")
    cut = min(range(1, len(words)), key=lambda n: abs(len("_".join(words[:n])) - len("_".join(words[n:]))), default=0)
    return f"{'_'.join(words[:cut])}_\n{'_'.join(words[cut:])}" if cut else stage


def _counted(board: Board, stage: str) -> str:
    counts = board.counts(stage)
    said = [f"{counts[status]} {WORDS[status]}" for status in Status if counts[status]]
    return ", ".join(said) or "nothing known yet"
