"""Two scores of each character against each other: before and after training, by name and with help."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ccip.lettering import shortened, text_width
from ccip.plot_style import FEW_POINTS, LAST_COLOUR, MANY_POINTS, NOTE, new_figure

# Inches: a panel's square, and the room around it.
PANEL, LEFT, BOTTOM, TOP, RIGHT = 5.2, 0.66, 0.62, 0.72, 0.12
LOW, HIGH = -0.025, 1.025
NAME_SIZE = 8
# In units of the axes.
PER_INCH = (HIGH - LOW) / PANEL
POINT, LINE_HEIGHT, LONGEST_NAME = 0.07 * PER_INCH, 1.2 * NAME_SIZE / 72 * PER_INCH, 2.2
MOST_STEPS = 60


@dataclass(frozen=True)
class ScorePair:
    """One character's two scores."""

    character: str
    x: float
    y: float


def panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with square panels side by side, all scores from 0 to 1."""
    width, height = count * (LEFT + PANEL + RIGHT), BOTTOM + PANEL + TOP
    figure = new_figure(width, height)
    lefts = [LEFT + i * (LEFT + PANEL + RIGHT) for i in range(count)]
    return figure, [figure.add_axes((left / width, BOTTOM / height, PANEL / width, PANEL / height)) for left in lefts]


def draw_pairs(axes: Axes, pairs: Sequence[ScorePair], x_label: str, y_label: str, title: str) -> None:
    """A dot a character over the diagonal, named where there are few; above the title how many lie above and below."""
    axes.plot([0, 1], [0, 1], color="#aaaaaa", linewidth=1, zorder=1)
    size, alpha = (28, 0.9) if len(pairs) <= FEW_POINTS else (16, 0.45) if len(pairs) <= MANY_POINTS else (8, 0.22)
    axes.scatter(
        [p.x for p in pairs], [p.y for p in pairs], s=size, alpha=alpha, color=LAST_COLOUR, linewidths=0, zorder=3,
        rasterized=len(pairs) > MANY_POINTS,
    )  # fmt: skip
    axes.set(xlabel=x_label, ylabel=y_label, xlim=(LOW, HIGH), ylim=(LOW, HIGH))
    axes.set_title(title, pad=24)
    higher, lower = sum(p.y > p.x for p in pairs), sum(p.y < p.x for p in pairs)
    counts = f"{higher:,} above the diagonal, {len(pairs) - higher - lower:,} on it, {lower:,} below"
    axes.annotate(
        counts, (0, 1), xycoords="axes fraction", xytext=(0, 7), textcoords="offset points", fontsize=9, color=NOTE,
        annotation_clip=False,
    )  # fmt: skip
    if len(pairs) <= FEW_POINTS:
        _name_points(axes, pairs)


@dataclass(frozen=True)
class Box:
    """A rectangle in the units of the axes: a name or a point."""

    left: float
    right: float
    bottom: float
    top: float

    def overlaps(self, other: "Box") -> bool:
        return self.left < other.right and other.left < self.right and self.bottom < other.top and other.bottom < self.top


@dataclass(frozen=True)
class Name:
    """Where the name of the characters at one point stands."""

    text: str
    x: float
    y: float
    box: Box


def placed_names(pairs: Sequence[ScorePair]) -> list[Name]:
    """Names beside their points, moved up or down where another name or point is, inside the axes; characters at one
    point share a line. A point that finds no room stays without."""
    at: dict[tuple[float, float], list[str]] = {}
    for pair in sorted(pairs, key=lambda p: (-p.y, p.x, p.character)):
        at.setdefault((pair.x, pair.y), []).append(pair.character)
    taken = [Box(x - POINT / 2, x + POINT / 2, y - POINT / 2, y + POINT / 2) for x, y in at]
    names = []
    for (x, y), characters in at.items():
        text = _joined(characters)
        width = _points_wide(text) / 72 * PER_INCH
        for box in _places(x, y, width):
            if not any(box.overlaps(other) for other in taken):
                taken.append(box)
                names.append(Name(text, x, y, box))
                break
    return names


def _points_wide(text: str) -> float:
    """Width of the text in points; measured large, since Pillow fits small letters to whole pixels."""
    return text_width(text, 20 * NAME_SIZE) / 20


def _joined(characters: Sequence[str]) -> str:
    """The characters' names, as many as fit in one line, and how many more there are."""
    longest = LONGEST_NAME * 72
    for shown in range(len(characters), 0, -1):
        rest = len(characters) - shown
        text = ", ".join(shortened(name, NAME_SIZE, longest) for name in characters[:shown]) + (f" +{rest}" if rest else "")
        if shown == 1 or _points_wide(text) <= longest:
            return text
    raise ValueError("no characters")


def _places(x: float, y: float, width: float) -> Iterator[Box]:
    """Places for a name of the point (x, y), the nearest first."""
    right, left = x + POINT, x - POINT - width
    sides = [side for side in ((left, right) if x > 0.7 else (right, left)) if side >= LOW and side + width <= HIGH]
    for step in range(MOST_STEPS):
        for direction in (1, -1) if step else (1,):
            middle = y + direction * step * LINE_HEIGHT / 4
            if middle - LINE_HEIGHT / 2 >= LOW and middle <= HIGH:
                for start in sides:
                    yield Box(start, start + width, middle - LINE_HEIGHT / 2, middle + LINE_HEIGHT / 2)


def _name_points(axes: Axes, pairs: Sequence[ScorePair]) -> None:
    for name in placed_names(pairs):
        middle = (name.box.bottom + name.box.top) / 2
        on_the_right = name.box.left > name.x
        near = name.box.left if on_the_right else name.box.right
        if abs(middle - name.y) > LINE_HEIGHT / 2:
            axes.plot([name.x, near], [name.y, middle], color="#bbbbbb", linewidth=0.7, zorder=2)
        axes.annotate(
            name.text, (near, middle), ha="left" if on_the_right else "right", va="center_baseline", fontsize=NAME_SIZE,
            annotation_clip=False,
        )  # fmt: skip
