"""The task of a saved model."""

from xt import plugins
from xt.errors import CheckpointError, nearest
from xt.models.metadata import ModelMetadata
from xt.models.xt import XT
from xt.tasks.base import Task

DEFAULTS = {
    "point-detection": "PointDetection",
    "semantic-segmentation": "SemanticSegmentation",
    "classification": "ImageClassification",
}
"""Kind → class, for models saved before they named it."""


def task_of(metadata: ModelMetadata, model: XT | None = None) -> Task:
    """Build the task that a model was trained for, ready to be used.

    Args:
        metadata: Of the model.
        model: If given, its heads must be those of the task.

    Raises:
        CheckpointError: If no class has its name, or a head is missing or of another size.
    """
    name = metadata.task_class or DEFAULTS.get(metadata.task)
    known = plugins.names("tasks")
    if name not in known:
        raise CheckpointError(
            f"the model is for task {name or metadata.task!r}, which no class here is{nearest(str(name), known)}; "
            "import it by --plugins MODULE"
        )
    task: Task = plugins.resolve("tasks", name)()
    task.prepare(metadata)
    if model is not None:
        heads: dict[str, int] = model.spec()["heads"]
        if {each: heads.get(each) for each in task.heads} != task.heads:
            raise CheckpointError(f"the model has the heads {heads}, and its task {name} needs {task.heads}")
    return task
