"""Pictures of posed figures with keypoints in COCO's format, drawn from a seed."""
