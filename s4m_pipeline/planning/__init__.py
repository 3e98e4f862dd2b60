"""What each stage has to do, decided from settings and files alone: no network is built, no image is read."""
