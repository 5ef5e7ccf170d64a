"""The task of a saved model."""

from xt import plugins
from xt.errors import CheckpointError, nearest
from xt.models.metadata import ModelMetadata
from xt.tasks.base import Task

DEFAULTS = {
    "point-detection": "PointDetection",
    "semantic-segmentation": "SemanticSegmentation",
    "classification": "ImageClassification",
}
"""Kind → class, for models saved before they named it."""


def task_of(metadata: ModelMetadata) -> Task:
    """Build the task that a model was trained for, ready to be used.

    Raises:
        CheckpointError: If no class has its name.
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
    return task
