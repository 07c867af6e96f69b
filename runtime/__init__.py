"""A bundle, an image and boxes become keypoints. Needs numpy and an inference library only."""
