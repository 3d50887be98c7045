"""H-JEPA pretraining: from images to an encoder whose levels `hjepa_eval` can read."""
