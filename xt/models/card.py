"""The model card: what a person who finds a model folder must know."""

from typing import TYPE_CHECKING

from xt.models.metadata import ModelMetadata

if TYPE_CHECKING:
    from xt.models.xt import XT

_PIPELINES = {
    "point-detection": "object-detection",
    "semantic-segmentation": "image-segmentation",
    "classification": "image-classification",
}
"""Kinds of task → what the hub calls them."""


def model_card(model: "XT", metadata: ModelMetadata, repo: str | None = None) -> str:
    """Write the card, in Markdown with the hub's header.

    Args:
        model: Whose size and parts are told.
        metadata: Of the model.
        repo: Where the model can be had, ``ORG/NAME``; the folder itself by default.
    """
    spec, number = model.spec(), sum(each.numel() for each in model.parameters())
    size = metadata.image_size
    where = f"hf://{repo}" if repo else "FOLDER"
    pipeline = _PIPELINES.get(metadata.task)
    facts = {
        "task": metadata.task + (f": {', '.join(metadata.classes)}" if metadata.classes else ""),
        "input": f"{len(metadata.bands)} bands ({', '.join(metadata.bands)}), in the unit of the raster"
        + (f"; {metadata.nodata:g} is no data" if metadata.nodata is not None else ""),
        "trained on": f"images of {size} × {size} px"
        + (f" of {metadata.resolution:g} m" if metadata.resolution is not None else "")
        + "; any height and width are taken",
        "parts": f"{spec['region_encoder']['class_path']} in regions of {model.region_size} px, context "
        f"{spec['context']['class_path']}, decoder {spec['decoder']['class_path']}",
        "size": f"{number / 1e6:.1f} million parameters, {4 * number / 1e6:.0f} MB",
    }
    header = ["---", "library_name: xt", "tags: [xt, geospatial]"]
    header += [f"pipeline_tag: {pipeline}"] if pipeline else []
    table = ["| | |", "|---|---|", *(f"| {name} | {fact} |" for name, fact in facts.items())]
    return "\n".join(
        [
            *header,
            "---",
            "",
            f"# {metadata.name}",
            "",
            "A model of xT, for images that do not fit in memory (arXiv 2403.01915).",
            "",
            *table,
            "",
            f"    xt predict scene.tif -m {where} -o out.tif",
            "",
            "```python",
            "import xt",
            "",
            f'with xt.predict(xt.load("{where}"), "scene.tif") as result:',
            '    result.write("out.tif")',
            "```",
            "",
            "`config.json` has bands, statistics and classes; under `stac`, what a STAC item says (MLM extension).",
            "",
        ]
    )
