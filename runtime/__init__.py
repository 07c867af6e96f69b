"""A bundle, an image and boxes become keypoints. Needs numpy and the device's inference library, nothing else."""
