"""Notebook 0: what does D say of an image, and where does it look? An Explorer for JupyterLab."""
