"""The pipeline's peers: a plain loop, one Celery task per image, img2dataset."""
