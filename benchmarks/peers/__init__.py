"""What the pipeline is compared with: a plain loop, a Celery task an image, img2dataset."""
