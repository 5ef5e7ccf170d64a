"""Where the classes are that a config can name without a plug-in."""

BUILTINS: dict[str, dict[str, str]] = {
    "region_encoders": {
        "Samba": "xt.models.region.samba:Samba",
        "TimmFeatures": "xt.models.region.timm_features:TimmFeatures",
    },
    "context_encoders": {
        "FullAttention": "xt.models.context.full_attention:FullAttention",
        "Hyper": "xt.models.context.hyper:Hyper",
        "Identity": "xt.models.context.identity:Identity",
        "Mamba": "xt.models.context.mamba:Mamba",
        "Mamba2": "xt.models.context.mamba2:Mamba2",
        "Jamba": "xt.models.context.jamba:Jamba",
        "LongNet": "xt.models.context.longnet:LongNet",
        "MSA": "xt.models.context.msa:MSA",
        "RSMamba": "xt.models.context.rsmamba:RSMamba",
        "RWKV": "xt.models.context.rwkv:RWKV",
        "SS2D": "xt.models.context.ss2d:SS2D",
        "TimeMachine": "xt.models.context.timemachine:TimeMachine",
        "TransformerXL": "xt.models.context.transformer_xl:TransformerXL",
        "Vim": "xt.models.context.vim:Vim",
    },
    "decoders": {
        "ClassToken": "xt.models.decoders.pooled:ClassToken",
        "Pooled": "xt.models.decoders.pooled:Pooled",
        "UNet": "xt.models.decoders.unet:UNet",
        "UPerNet": "xt.models.decoders.upernet:UPerNet",
    },
    "losses": {
        "ClassLoss": "xt.losses.detection:ClassLoss",
        "DetectionLoss": "xt.losses.detection:DetectionLoss",
        "PaperDetectionLoss": "xt.losses.detection:PaperDetectionLoss",
        "RegressionLoss": "xt.losses.regression:RegressionLoss",
        "SegmentationLoss": "xt.losses.segmentation:SegmentationLoss",
    },
    "tasks": {
        "ImageClassification": "xt.tasks.classification:ImageClassification",
        "ObjectDetection": "xt.tasks.objects:ObjectDetection",
        "PixelRegression": "xt.tasks.regression:PixelRegression",
        "PointDetection": "xt.tasks.detection:PointDetection",
        "SemanticSegmentation": "xt.tasks.segmentation:SemanticSegmentation",
        "TokenDetection": "xt.tasks.tokens:TokenDetection",
    },
    "data_modules": {
        "INaturalistData": "xt.data.inaturalist:INaturalistData",
        "ImageFolderData": "xt.data.image_folder:ImageFolderData",
        "PointsData": "xt.data.points:PointsData",
        "PolygonsData": "xt.data.polygon_masks:PolygonsData",
        "TokenData": "xt.data.tokens:TokenData",
        "RasterPairsData": "xt.data.raster_pairs:RasterPairsData",
        "RasterValuesData": "xt.data.raster_values:RasterValuesData",
        "XView3Data": "xt.data.xview3:XView3Data",
    },
}
"""kind → short name → ``module:Class``."""
