"""The names of all tasks that are measured: the rows of the tasks' table, and extension both ways."""

from typing import Literal

from sky4.world.families import TASK_ROWS

Direction = Literal["forward", "backward"]

EXTENSIONS: dict[str, Direction] = {"extend_forward": "forward", "extend_backward": "backward"}
# In the report's words; the parts of one row of its table have one title up to the colon.
TITLES: dict[str, str] = {row.name: row.title for row in TASK_ROWS} | {
    name: f"extension: {direction}" for name, direction in EXTENSIONS.items()
}
